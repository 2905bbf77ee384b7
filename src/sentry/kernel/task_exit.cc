// The end of a thread, and of its process with the last one.
#include <sys/epoll.h>

#include <algorithm>

#include "sentry/ipc/semaphores.h"
#include "sentry/ipc/shared_segment.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/futex.h"
#include "sentry/kernel/interval_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_release.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

void kernel_signal_to_group_locked(Pid& group, int signo) { send_to_group_locked(group, kernel_signal(signo)); }

bool has_stopped_member_locked(Pid& group) {
    for (Process* process : group.group_members) {
        std::lock_guard lock(process->signal_mutex);
        if (process->stopped) return true;
    }
    return false;
}

// A group that nobody can continue any more is told so.
void check_orphaned_group_locked(TaskSet& tasks, Pid& group, Process* leaving) {
    if (!tasks.group_is_orphaned_locked(group, leaving) || !has_stopped_member_locked(group)) return;
    kernel_signal_to_group_locked(group, SIGHUP);
    kernel_signal_to_group_locked(group, SIGCONT);
}

// Who adopts the children of `process`: its nearest ancestor that asked for them in the same pid namespace, or init.
Process* find_reaper_locked(Process& process) {
    PidNamespace& space = process.pid->space();
    for (Process* at = process.parent; at != nullptr && &at->pid->space() == &space; at = at->parent)
        if (at->child_subreaper && !at->zombie && !at->group_exiting) return at;
    return space.init != &process ? space.init : nullptr;
}

}  // namespace

// Sends the exit signal to the parent. True: nobody will wait for the process.
bool notify_parent_locked(Process& process) {
    Process* parent = process.parent;
    if (parent == nullptr) return true;
    bool auto_reap = false;
    if (process.exit_signal != 0) {
        siginfo_t info{};
        info.si_signo = process.exit_signal;
        int status = process.exit_status;
        if ((status & 0x7f) == 0) {
            info.si_code = CLD_EXITED;
            info.si_status = status >> 8 & 0xff;
        } else {
            info.si_code = (status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED;
            info.si_status = status & 0x7f;
        }
        info.si_pid = process.pid->number_in(parent->pid->space());
        if (Ref<Credentials> credentials = process.leader->credentials_of()) info.si_uid = credentials->uid;
        info.si_utime = static_cast<clock_t>(process.final_use.user_ns / 10'000'000);
        info.si_stime = static_cast<clock_t>(process.final_use.system_ns / 10'000'000);
        bool silent = false;
        if (process.exit_signal == SIGCHLD) {
            SignalAction action;
            {
                std::lock_guard lock(parent->signal_mutex);
                action = parent->handlers->get(SIGCHLD);
            }
            auto_reap = action.is_ignore() || (action.flags & SA_NOCLDWAIT) != 0;
            silent = action.is_ignore();
        }
        if (!silent) send_to_process(*parent, info, SignalSource::kOutside);
    }
    parent->child_waiters.notify(EPOLLIN);
    return auto_reap;
}

void release_task_locked(Task& task, std::vector<Ref<RefCounted>>& dropped) {
    Task::Parts& parts = task.parts();
    if (parts.released) return;
    parts.released = true;
    Process& process = task.process();
    std::erase(process.threads, &task);
    if (process.leader == &task) process.leader = nullptr;
    traced_task_ended_locked(task, false, 0);
    Pid& pid = task.pid();
    pid.task = nullptr;
    pid.exit_waiters.notify(EPOLLIN | EPOLLHUP);
    dropped.push_back(Ref<RefCounted>(&pid));
    pid.release_if_unused_locked();
    dropped.push_back(Ref<RefCounted>::adopt(&task));
}

void reap_process_locked(Process& process, std::vector<Ref<RefCounted>>& dropped) {
    if (process.reaped) return;
    process.reaped = true;
    if (Process* parent = process.parent) {
        std::erase(parent->children, &process);
        parent->children_use.add(process.final_use);
        parent->children_use.add(process.children_use);
        process.parent = nullptr;
    }
    dropped.push_back(Ref<RefCounted>(&process));
    TaskSet& tasks = process.kernel.tasks();
    dropped.push_back(process.group);
    tasks.join_group_locked(process, nullptr);
    dropped.push_back(process.session);
    tasks.join_session_locked(process, nullptr);
    if (process.leader != nullptr) release_task_locked(*process.leader, dropped);
    process.pid->process = nullptr;
    process.pid->release_if_unused_locked();
    if (process.pid->space().init == &process) process.pid->space().init = nullptr;
}

// Robust futexes, the thread's tid word, the memory itself. Runs while the thread still counts as a member.
void TaskRunner::end_memory(Task& task) {
    if (!task.memory_) return;  // never started
    Task::Parts& parts = task.parts();
    task.kernel().futexes().task_exits(task);
    if (parts.clear_child_tid != 0 && task.memory_->ref_count() > 1) {
        uint32_t zero = 0;
        if (task.memory().copy_out(parts.clear_child_tid, &zero, sizeof(zero)).ok())
            static_cast<void>(task.kernel().futexes().wake(task, parts.clear_child_tid, 1, ~0u, false));
    }
    bool last_thread;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        last_thread = task.process().live_threads == 0;
    }
    if (last_thread) account_address_space_left(task);
    parts.standing_answers.drop();
    std::unique_ptr<AppThread> app;
    Ref<AddressSpace> memory;
    {
        std::lock_guard lock(task.mutex_);
        app = std::move(task.app_);
        memory = std::move(task.memory_);
    }
    app.reset();
    Ref<Hold> hold = std::move(parts.hold);
    if (hold) hold->child_left();
    memory.reset();
}

void TaskRunner::end(Task& task) {
    Process& process = task.process();
    TaskSet& tasks = task.kernel().tasks();
    Task::Parts& parts = task.parts();
    bool stop_complete = false;
    bool last;
    {
        std::lock_guard lock(tasks.mutex);
        std::lock_guard signal_lock(process.signal_mutex);
        parts.exiting = true;
        last = --process.live_threads == 0;
        std::erase(process.signal_targets, &task);
        // Signals to the process that this thread might have taken.
        for (Task* other : process.signal_targets) look_at_signals_locked(*other);
        if (process.stop_signal != 0 && !process.stopped && !process.signal_targets.empty() &&
            process.stopped_threads >= process.signal_targets.size()) {
            process.stopped = process.stop_unwaited = stop_complete = true;
        }
    }
    if (stop_complete) tell_parent_of_stop(process);
    drop_filter(task);
    if (last) {
        process.interval_timers->stop_all();
        process.posix_timers->remove_all();
        undo_semaphores(process);
    }
    end_memory(task);
    if (last) remove_orphaned_segments(task);

    // Descriptors: with the last user each is closed as by close(2).
    if (task.files_->ref_count() == 1)
        for (const Ref<File>& file : task.files_->remove_range(0, ~0u)) file->descriptor_closed(task);
    task.set_files(nullptr);
    task.set_fs(nullptr);
    account_thread_ended(task);

    WakeBatch::flush();

    std::vector<Ref<RefCounted>> dropped;
    Ref<ControllingTerminal> hung_up;
    bool told = false;
    {
        std::unique_lock lock(tasks.mutex);
        PidNamespace& space = process.pid->space();
        if (last && space.init == &process) {
            // The namespace ends with its init: all its other processes die first.
            space.dead = true;
            for (auto& [number, pid] : space.pids)
                if (pid->process != nullptr && pid->process != &process)
                    send_to_process(*pid->process, kernel_signal(SIGKILL), SignalSource::kOutside);
            tasks.task_gone_.wait(lock, [&] {
                for (auto& [number, pid] : space.pids) {
                    if (pid->task != nullptr && pid->task != &task && &pid->task->process() != &process &&
                        pid->task->parts().dead.load() == 0)
                        return false;
                }
                return true;
            });
        }
        parts.dead.store(1, std::memory_order_release);
        --tasks.tasks_;
        process.container->tasks.fetch_sub(1);

        // Children whose creator this thread is get their PR_SET_PDEATHSIG.
        for (Process* child : process.children) {
            if (child->parent_death_signal != 0 && child->creator.get() == task.pid_.get())
                send_to_process(*child, kernel_signal(child->parent_death_signal), SignalSource::kOutside);
        }
        tracer_ended_locked(task);
        if (process.leader != &task) {
            int status = process.group_exiting ? process.group_exit_status : parts.exit_status;
            traced_task_ended_locked(task, true, status);
            release_task_locked(task, dropped);
        }
        process.thread_gone.notify_all();
        // The process ends with its last thread to come here, which need not be the one that left last.
        bool all_dead = std::all_of(process.threads.begin(), process.threads.end(),
                                    [](Task* one) { return one->parts().dead.load() != 0; });
        if (all_dead && !process.zombie) {
            end_process_locked(task, dropped, hung_up);
            told = true;
        }
        tasks.task_gone_.notify_all();
    }
    if (hung_up) hung_up->session_ended();
    if (told && process.observer != nullptr) process.observer->process_ended(process, process.exit_status);
    // The namespaces and the last references go without locks.
    task.set_namespaces(nullptr);
    dropped.clear();
}

void TaskRunner::end_process_locked(Task& task, std::vector<Ref<RefCounted>>& dropped,
                                    Ref<ControllingTerminal>& hung_up) {
    Process& process = task.process();
    TaskSet& tasks = task.kernel().tasks();
    process.exit_status = process.group_exiting ? process.group_exit_status : process.leader->parts().exit_status;
    process.final_use = process_use_locked(process);
    process.container->past_user_ns.fetch_add(process.final_use.user_ns);
    process.container->past_system_ns.fetch_add(process.final_use.system_ns);
    process.zombie = true;
    if (process.pid->space().init == &process) process.pid->space().init = nullptr;
    if (Task* tracer = process.leader->parts().tracing.tracer.load())
        traced_task_ended_locked(*process.leader, &tracer->process() != process.parent, process.exit_status);

    Process* reaper = find_reaper_locked(process);
    std::vector<Process*> children = std::move(process.children);
    process.children.clear();
    for (Process* child : children) {
        child->parent = reaper;
        if (reaper != nullptr) reaper->children.push_back(child);
        if (child->zombie) {
            if (notify_parent_locked(*child)) reap_process_locked(*child, dropped);
        } else {
            child->exit_signal = SIGCHLD;
        }
        // A child's group may have lost the one parent that could continue it.
        if (!child->reaped && child->group && child->group != process.group && child->session == process.session)
            check_orphaned_group_locked(tasks, *child->group, nullptr);
    }
    check_orphaned_group_locked(tasks, *process.group, &process);

    if (process.session->leader == &process) {
        process.session->leader = nullptr;
        if (Ref<ControllingTerminal> terminal = std::move(process.session->terminal)) {
            if (terminal->foreground) {
                kernel_signal_to_group_locked(*terminal->foreground, SIGHUP);
                kernel_signal_to_group_locked(*terminal->foreground, SIGCONT);
            }
            dropped.push_back(std::move(terminal->foreground));
            terminal->session = nullptr;
            hung_up = std::move(terminal);
        }
    }
    process.pid->exit_waiters.notify(EPOLLIN);
    if (notify_parent_locked(process)) reap_process_locked(process, dropped);
}

}  // namespace casemate::sentry
