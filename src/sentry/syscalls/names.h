// The names of all syscall numbers, known to us or not.
#pragma once

#include <cstdint>
#include <span>

namespace casemate::sentry {

struct SyscallName {
    uint16_t number;
    const char* name;
};
std::span<const SyscallName> syscall_names();

}  // namespace casemate::sentry
