// Handlers that live in files of their own and are listed in system.cc.
#pragma once

#include "sentry/syscalls/table.h"

namespace casemate::sentry {

SysResult<int64_t> sys_prctl(Task& task, const SyscallArgs& args);

}  // namespace casemate::sentry
