// How much memory the host has: what a pod without a limit shows.
#pragma once

#include <cstdint>

namespace casemate::sentry {

// Bytes. Asked once, which must be before confine(): afterwards the sentry may not ask.
uint64_t host_memory();

}  // namespace casemate::sentry
