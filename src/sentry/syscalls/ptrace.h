// ptrace(2).
#pragma once

#include <span>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

std::span<const SyscallRow> ptrace_syscalls();

}  // namespace casemate::sentry
