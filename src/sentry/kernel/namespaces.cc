#include "sentry/kernel/namespaces.h"

#include <linux/capability.h>
#include <sched.h>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

SysResult<Ref<Namespaces>> new_namespaces(Task& task, FsContext& fs, uint64_t flags) {
    // As a kernel built without user namespaces.
    if ((flags & CLONE_NEWUSER) != 0) return Errno(EINVAL);
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    Ref<Namespaces> next = task.namespaces().clone();
    if ((flags & CLONE_NEWUTS) != 0)
        next->uts = make_ref<UtsNamespace>(next->uts->host_name(), next->uts->domain_name());
    if ((flags & CLONE_NEWIPC) != 0) next->ipc = make_ref<IpcNamespace>();
    if ((flags & CLONE_NEWNET) != 0) next->network = make_ref<NetworkNamespace>();
    if ((flags & CLONE_NEWCGROUP) != 0) next->cgroup = make_ref<CgroupNamespace>();
    if ((flags & CLONE_NEWPID) != 0) {
        if (next->pid_for_children->level + 1 >= PidNamespace::kMaxLevel) return Errno(ENOSPC);
        next->pid_for_children = make_ref<PidNamespace>(next->pid_for_children);
    }
    if ((flags & CLONE_NEWNS) != 0) next->mount = TRY(next->mount->clone(fs));
    return next;
}

}  // namespace casemate::sentry
