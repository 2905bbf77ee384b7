// The strace-like record of syscalls and signals (`--trace`): one log line each.
#pragma once

#include <signal.h>

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

void trace_enter(Task& task, const SyscallRow& row, const SyscallArgs& args);
void trace_leave(Task& task, const SyscallRow& row, const SyscallArgs& args, int64_t result);
void trace_signal(Task& task, const siginfo_t& info);

}  // namespace casemate::sentry
