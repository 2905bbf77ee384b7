// Which task may do something to which other.
#pragma once

#include "sentry/kernel/signals.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

// kill(2): same user, CAP_KILL, or SIGCONT within the session.
bool may_signal(Task& task, Process& target, int signo);
// As ptrace(2)'s access check: same ids and no more capabilities than the caller's, or CAP_SYS_PTRACE.
bool may_inspect(Task& task, Task& target);
// setpriority, sched_setscheduler, sched_setaffinity: same user or CAP_SYS_NICE.
bool may_schedule(Task& task, Task& target);

}  // namespace casemate::sentry
