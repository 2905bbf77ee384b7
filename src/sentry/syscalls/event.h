// What the syscalls that wait for files share.
#pragma once

#include <span>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {

// The signal mask argument of ppoll, pselect6 and epoll_pwait: in force for the rest of the call. 0: none.
SysResult<void> set_mask_for_wait(Task& task, uint64_t address, uint64_t size);

// The parts of event_syscalls().
std::span<const SyscallRow> poll_syscalls();
std::span<const SyscallRow> inotify_syscalls();

}  // namespace casemate::sentry
