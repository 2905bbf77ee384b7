// The host system calls of a jailed monitor, as lists: one for the thread of the event loop and the devices, a shorter
// one for the threads of the vCPUs. Anything else kills the process.
#pragma once

#include "base/result.h"
#include "host/seccomp_filter.h"

namespace casemate::vmm {

enum class ThreadKind { kMain, kVcpu };

host::SeccompFilter system_calls_of(ThreadKind kind);

// For the calling thread only, for good.
Result<void> confine_thread(ThreadKind kind);

}  // namespace casemate::vmm
