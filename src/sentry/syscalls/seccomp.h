// seccomp(2), and the part of prctl(2) that came before it.
#pragma once

#include "sentry/kernel/user.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {

SysResult<int64_t> sys_seccomp(Task& task, const SyscallArgs& args);
// PR_SET_SECCOMP and PR_GET_SECCOMP.
SysResult<int64_t> prctl_set_seccomp(Task& task, uint64_t mode, GuestAddr program);
int64_t prctl_get_seccomp(Task& task);

}  // namespace casemate::sentry
