#include "sentry/kernel/permissions.h"

#include <linux/capability.h>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {

bool may_signal(Task& task, Process& target, int signo) {
    if (&task.process() == &target) return true;
    const Credentials& mine = task.credentials();
    Ref<Credentials> theirs;
    bool same_session;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (target.leader != nullptr) theirs = target.leader->credentials_of();
        same_session = target.session == task.process().session;
    }
    if (!theirs) return true;  // ended: nothing happens to it
    if (mine.euid == theirs->suid || mine.euid == theirs->uid || mine.uid == theirs->suid || mine.uid == theirs->uid)
        return true;
    if (mine.has(CAP_KILL)) return true;
    return signo == SIGCONT && same_session;
}

bool may_inspect(Task& task, Task& target) {
    if (&task.process() == &target.process()) return true;
    const Credentials& mine = task.credentials();
    Ref<Credentials> theirs = target.credentials_of();
    if (!theirs) return false;
    if (mine.has(CAP_SYS_PTRACE)) return true;
    bool same = mine.uid == theirs->uid && mine.uid == theirs->euid && mine.uid == theirs->suid &&
                mine.gid == theirs->gid && mine.gid == theirs->egid && mine.gid == theirs->sgid;
    return same && (theirs->permitted & ~mine.permitted) == 0;
}

bool may_schedule(Task& task, Task& target) {
    const Credentials& mine = task.credentials();
    Ref<Credentials> theirs = target.credentials_of();
    return theirs && (mine.euid == theirs->euid || mine.euid == theirs->uid || mine.has(CAP_SYS_NICE));
}

}  // namespace casemate::sentry
