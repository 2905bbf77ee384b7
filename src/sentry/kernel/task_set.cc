#include "sentry/kernel/task_set.h"

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {

TaskSet::TaskSet() : root_space(make_ref<PidNamespace>(nullptr)) {}
TaskSet::~TaskSet() = default;

Pid* TaskSet::find_pid_locked(PidNamespace& space, int number) {
    auto it = space.pids.find(number);
    return it == space.pids.end() ? nullptr : it->second;
}

Ref<Task> TaskSet::find_task(PidNamespace& space, int tid) {
    std::lock_guard lock(mutex);
    Pid* pid = find_pid_locked(space, tid);
    return Ref<Task>(pid != nullptr ? pid->task : nullptr);
}

Ref<Process> TaskSet::find_process(PidNamespace& space, int number) {
    std::lock_guard lock(mutex);
    Pid* pid = find_pid_locked(space, number);
    return Ref<Process>(pid != nullptr ? pid->process : nullptr);
}

std::vector<Ref<Process>> TaskSet::processes(PidNamespace& space) {
    std::lock_guard lock(mutex);
    std::vector<Ref<Process>> found;
    for (auto& [number, pid] : space.pids)
        if (pid->process != nullptr) found.emplace_back(pid->process);
    return found;
}

std::vector<Ref<Task>> TaskSet::threads_of(Process& process) {
    std::lock_guard lock(mutex);
    std::vector<Ref<Task>> found;
    for (Task* task : process.threads) found.emplace_back(task);
    return found;
}

std::vector<Ref<Process>> TaskSet::processes_of(Container& container) {
    std::vector<Ref<Process>> found = processes(*root_space);
    std::erase_if(found, [&](const Ref<Process>& process) { return process->container.get() != &container; });
    return found;
}

size_t TaskSet::task_count() {
    std::lock_guard lock(mutex);
    return tasks_;
}

void TaskSet::freeze(Container& container, bool frozen) {
    container.frozen_.store(frozen, std::memory_order_seq_cst);
    for (const Ref<Process>& process : processes_of(container)) {
        std::lock_guard lock(process->signal_mutex);
        if (frozen)
            for (Task* task : process->signal_targets) task->interrupt();
        else
            process->stop_changed.notify_all();
    }
}

void TaskSet::kill_all(Container& container, int signo) {
    siginfo_t info{};
    info.si_signo = signo;
    info.si_code = SI_USER;
    for (const Ref<Process>& process : processes_of(container)) send_to_process(*process, info, SignalSource::kOutside);
}

void TaskSet::wait_until_gone(Container* container) {
    std::unique_lock lock(mutex);
    task_gone_.wait(lock, [&] { return container != nullptr ? container->tasks.load() == 0 : tasks_ == 0; });
}

int TaskSet::parent_pid_locked(Process& process, PidNamespace& space) {
    return process.parent != nullptr && process.parent->pid ? process.parent->pid->number_in(space) : 0;
}

Task* TaskSet::any_live_thread_locked(Process& process) {
    for (Task* task : process.threads)
        if (!task->parts().exiting) return task;
    return nullptr;
}

void TaskSet::join_group_locked(Process& process, Ref<Pid> group) {
    Ref<Pid> old = std::move(process.group);
    process.group = std::move(group);
    if (process.group) process.group->group_members.push_back(&process);
    if (old) {
        std::erase(old->group_members, &process);
        if (process.group != old) {
            // erase() took both entries of a process that stays: put one back.
            old->release_if_unused_locked();
        } else {
            old->group_members.push_back(&process);
        }
    }
}

void TaskSet::join_session_locked(Process& process, Ref<Session> session) {
    Ref<Session> old = std::move(process.session);
    process.session = std::move(session);
    if (process.session == old) return;
    if (process.session) process.session->id->session_members.push_back(&process);
    if (old) {
        std::erase(old->id->session_members, &process);
        if (old->leader == &process) old->leader = nullptr;
        old->id->release_if_unused_locked();
    }
}

bool TaskSet::group_is_orphaned_locked(Pid& group, Process* ignored) {
    for (Process* process : group.group_members) {
        if (process == ignored || process->zombie || process->parent == nullptr) continue;
        Process& parent = *process->parent;
        // Linux leaves the machine's init out, which is no shell; that of a container may be one, and has a terminal
        // then.
        bool is_init = &parent == parent.pid->space().init;
        if (is_init && (parent.session == nullptr || parent.session->terminal == nullptr)) continue;
        if (parent.group.get() != &group && parent.session == process->session) return false;
    }
    return true;
}

}  // namespace casemate::sentry
