// Waiting for children: what wait4 and waitid are made of.
#pragma once

#include <sys/wait.h>

#include "base/result.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

struct WaitRequest {
    enum class Who { kAny, kPid, kGroup, kSameGroup } who = Who::kAny;
    Ref<Pid> target;  // kPid, kGroup; null: names nobody
    int number = 0;   // kPid: the same as the caller sees it
    int options = 0;  // WEXITED, WSTOPPED, WCONTINUED, WNOHANG, WNOWAIT, __WALL, __WCLONE, __WNOTHREAD
};
struct WaitAnswer {
    int pid = 0;     // 0: nothing yet (WNOHANG)
    int status = 0;  // as wait4 gives it
    int code = 0;    // CLD_*
    int value = 0;   // si_status
    uint32_t uid = 0;
    ResourceUse use;
};
SysResult<WaitAnswer> wait_for_child(Task& task, const WaitRequest& request);

}  // namespace casemate::sentry
