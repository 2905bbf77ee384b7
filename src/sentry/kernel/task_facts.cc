// What only tells a task about itself, written down where its application can read it without a stop.
#include <sys/syscall.h>

#include <array>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {

void TaskRunner::tell_facts_locked(Task& task) {
    if (task.app_ == nullptr || !task.credentials_ || !task.process_) return;
    std::array<CallFact, 6> facts;
    size_t count = 0;
    if (!task.kernel().watched() && !is_traced(task)) {
        const Credentials& now = *task.credentials_;
        const std::array<CallFact, 6> all = {{{SYS_getpid, static_cast<uint32_t>(task.tgid())},
                                              {SYS_gettid, static_cast<uint32_t>(task.tid())},
                                              {SYS_getuid, now.uid},
                                              {SYS_geteuid, now.euid},
                                              {SYS_getgid, now.gid},
                                              {SYS_getegid, now.egid}}};
        for (const CallFact& fact : all)
            if (always_allowed(task, fact.nr)) facts[count++] = fact;
    }
    task.app_->set_facts({facts.data(), count});
}

void TaskRunner::tell_facts(Task& task) {
    std::lock_guard lock(task.mutex_);
    tell_facts_locked(task);
}

void TaskRunner::tell_all_facts(Kernel& kernel) {
    for (const Ref<Process>& process : kernel.tasks().processes(*kernel.tasks().root_space)) {
        std::lock_guard lock(process->signal_mutex);
        for (Task* task : process->signal_targets) tell_facts(*task);
    }
}

}  // namespace casemate::sentry
