#include "sentry/kernel/task_signals.h"

#include <sys/epoll.h>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

bool default_ignored(const SignalAction& action, int signo) {
    return action.is_ignore() || (action.is_default() && (kIgnoredByDefault & signal_bit(signo)) != 0);
}

bool fatal_by_default(int signo) { return ((kIgnoredByDefault | kStopSignals) & signal_bit(signo)) == 0; }

// What a stop signal and SIGCONT do to each other, before they are queued.
void prepare_locked(Process& process, int signo) {
    SignalSet bit = signal_bit(signo);
    if ((bit & kStopSignals) != 0) {
        process.pending.discard(signal_bit(SIGCONT));
        for (Task* task : process.signal_targets) task->parts().pending.discard(signal_bit(SIGCONT));
    } else if (signo == SIGCONT) {
        process.pending.discard(kStopSignals);
        for (Task* task : process.signal_targets) task->parts().pending.discard(kStopSignals);
        if (process.stop_signal != 0) {
            if (process.stopped) {
                process.continue_unwaited = true;
                process.continue_untold = true;
            }
            process.stop_signal = 0;
            process.stopped = false;
            process.stop_unwaited = false;
            process.stopped_threads = 0;
            for (Task* task : process.signal_targets) {
                task->parts().stop_counted = false;
                Tracing& tracing = task->parts().tracing;
                tracing.group_stop_over = false;
                if (!tracing.seized || !is_traced(*task)) continue;
                // Its tracer is told that the stop is over.
                tracing.trap_wanted = true;
                if (tracing.listening) tracing.stopped = false;
                task->interrupt();
            }
            process.stop_changed.notify_all();
        }
    }
}

bool wants(Task& task, int signo) {
    const Task::Parts& parts = task.parts();
    // A stopped thread takes nothing but SIGKILL until it is continued.
    if (parts.stop_counted && signo != SIGKILL) return false;
    return ((~parts.blocked | parts.wanted) & signal_bit(signo)) != 0;
}

// `task` null: to the process.
int send_locked(Process& process, Task* only, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer) {
    int signo = info.si_signo;
    SignalSet bit = signal_bit(signo);
    if (process.group_exiting.load(std::memory_order_relaxed) || process.signal_targets.empty()) return 0;
    prepare_locked(process, signo);

    SignalAction action = process.handlers->get(signo);
    Task& judge = only != nullptr ? *only : *process.signal_targets.front();
    bool blocked = ((judge.parts().blocked | judge.parts().wanted) & bit) != 0;
    bool forced = source == SignalSource::kOutside && (bit & kUnblockable) != 0;
    if (process.unkillable && action.is_default() && !forced && !(blocked && (bit & kUnblockable) == 0)) return 0;
    // A tracer wants to know about ignored signals, too.
    bool traced = is_traced(judge);
    if (!blocked && !traced && default_ignored(action, signo)) return 0;

    PendingSignals& queue = only != nullptr ? only->parts().pending : process.pending;
    if (!queue.add(info, process.limit(RLIMIT_SIGPENDING).soft, std::move(timer))) return EAGAIN;
    process.signal_waiters.notify(EPOLLIN);

    Task* chosen = nullptr;
    if (only != nullptr) {
        if (wants(*only, signo)) chosen = only;
    } else {
        for (Task* task : process.signal_targets) {
            if (!wants(*task, signo)) continue;
            chosen = task;
            break;
        }
    }
    if (signo == SIGKILL && !(process.unkillable && !forced)) {
        process.begin_group_exit_locked(SIGKILL);
        return 0;
    }
    if (chosen == nullptr) return 0;
    if (!is_traced(*chosen) && action.is_default() && fatal_by_default(signo) && (kCoreDumpSignals & bit) == 0 &&
        !process.unkillable && (chosen->parts().blocked & bit) == 0) {
        process.begin_group_exit_locked(signo);
        return 0;
    }
    chosen->interrupt();
    return 0;
}

}  // namespace

int send_to_task_locked(Task& task, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer) {
    bool target = false;
    for (Task* one : task.process().signal_targets) target = target || one == &task;
    if (!target) return 0;
    return send_locked(task.process(), &task, info, source, std::move(timer));
}

int send_to_task(Task& task, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer) {
    std::lock_guard lock(task.process().signal_mutex);
    return send_to_task_locked(task, info, source, std::move(timer));
}

int send_to_process(Process& process, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer) {
    std::lock_guard lock(process.signal_mutex);
    return send_locked(process, nullptr, info, source, std::move(timer));
}

void Task::send_signal(const siginfo_t& info) { send_to_task(*this, info, SignalSource::kInside); }

void Process::send_signal(const siginfo_t& info) { send_to_process(*this, info, SignalSource::kInside); }

int Process::send_signal_locked(const siginfo_t& info, bool from_outside, Ref<RefCounted> timer) {
    return send_locked(*this, nullptr, info, from_outside ? SignalSource::kOutside : SignalSource::kInside,
                       std::move(timer));
}

void Process::begin_group_exit_locked(int wait_status) {
    if (group_exiting.load(std::memory_order_relaxed)) return;
    group_exit_status = wait_status;
    group_exiting.store(true, std::memory_order_seq_cst);
    stop_signal = 0;
    stopped = false;
    stop_changed.notify_all();
    for (Task* task : signal_targets) task->interrupt();
}

void force_signal(Task& task, siginfo_t info) {
    Process& process = task.process();
    std::lock_guard lock(process.signal_mutex);
    SignalSet bit = signal_bit(info.si_signo);
    bool blocked = (task.parts().blocked & bit) != 0;
    {
        std::lock_guard handlers_lock(process.handlers->mutex);
        SignalAction& action = process.handlers->actions[static_cast<size_t>(info.si_signo)];
        if (blocked || action.is_ignore()) action = SignalAction{};
        // Init dies of its own faults.
        if (action.is_default()) process.unkillable = false;
    }
    task.parts().blocked &= ~bit;
    task.parts().pending.discard(bit);
    task.parts().pending.add(info, UINT64_MAX);
    task.interrupt();
}

void force_fatal(Task& task, int signo) {
    Process& process = task.process();
    {
        std::lock_guard lock(process.signal_mutex);
        std::lock_guard handlers_lock(process.handlers->mutex);
        process.handlers->actions[static_cast<size_t>(signo)] = SignalAction{};
    }
    force_signal(task, kernel_signal(signo));
}

void look_at_signals_locked(Task& task) {
    SignalSet pending = task.parts().pending.set() | task.process().pending.set();
    if ((pending & ~task.parts().blocked) != 0) task.interrupt();
}

void set_blocked(Task& task, SignalSet mask) {
    std::lock_guard lock(task.process().signal_mutex);
    task.parts().blocked = mask & ~kUnblockable;
    look_at_signals_locked(task);
}

void Task::set_temporary_mask(SignalSet mask) {
    if (!parts_->saved_mask) parts_->saved_mask = parts_->blocked;
    attention_.fetch_or(kLook, std::memory_order_relaxed);
    set_blocked(*this, mask);
}

std::optional<siginfo_t> Task::take_signal(SignalSet wanted) {
    std::optional<QueuedSignal> taken;
    {
        std::lock_guard lock(process_->signal_mutex);
        taken = parts_->pending.take(wanted);
        if (!taken) taken = process_->pending.take(wanted);
    }
    if (!taken) return std::nullopt;
    if (taken->timer) signal_of_timer_taken(*taken);
    return taken->info;
}

SignalSet Task::pending_signals() {
    std::lock_guard lock(process_->signal_mutex);
    return pending_signals_locked();
}

SignalSet Task::pending_signals_locked() { return parts_->pending.set() | process_->pending.set(); }

SignalSet Task::signal_mask() {
    std::lock_guard lock(process_->signal_mutex);
    return parts_->blocked;
}

void send_to_group_locked(Pid& group, const siginfo_t& info) {
    for (Process* process : group.group_members) send_to_process(*process, info, SignalSource::kInside);
}

namespace {

void tell_parent(Process& process, int code, int status) {
    std::lock_guard lock(process.kernel.tasks().mutex);
    Process* parent = process.parent;
    if (parent == nullptr || process.zombie) return;
    siginfo_t info{};
    info.si_signo = SIGCHLD;
    info.si_code = code;
    info.si_status = status;
    info.si_pid = process.pid->number_in(parent->pid->space());
    if (process.leader != nullptr)
        if (Ref<Credentials> credentials = process.leader->credentials_of()) info.si_uid = credentials->uid;
    CpuTimes times = process_cpu_times_locked(process);
    info.si_utime = static_cast<clock_t>(times.user_ns / 10'000'000);
    info.si_stime = static_cast<clock_t>(times.system_ns / 10'000'000);
    bool silent =
        (parent->handlers->get(SIGCHLD).flags & SA_NOCLDSTOP) != 0 || parent->handlers->get(SIGCHLD).is_ignore();
    if (!silent) parent->send_signal(info);
    parent->child_waiters.notify(EPOLLIN);
}

}  // namespace

void tell_parent_of_stop(Process& process) { tell_parent(process, CLD_STOPPED, process.stop_code); }
void tell_parent_of_continue(Process& process) { tell_parent(process, CLD_CONTINUED, SIGCONT); }

}  // namespace casemate::sentry
