// process_vm_readv, process_vm_writev.
#pragma once

#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

std::span<const SyscallRow> process_memory_syscalls();

}  // namespace casemate::sentry
