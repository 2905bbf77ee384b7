// The traced task's side of ptrace(2): its stops, and the bonds between tracers and tracees.
#include <linux/ptrace.h>
#include <sys/epoll.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_hold.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/kernel/tracing.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kFlagTf = 0x100;
constexpr int kSyscallMark = 0x80;  // PTRACE_O_TRACESYSGOOD

bool is_restart(int64_t result) { return result <= -kRestartSys && result >= -kRestartBlock; }

siginfo_t trap_info(int code) {
    siginfo_t info{};
    info.si_signo = SIGTRAP;
    info.si_code = code;
    return info;
}

}  // namespace

bool is_traced(Task& task) { return task.parts().tracing.tracer.load(std::memory_order_acquire) != nullptr; }

// ------------------------------------------------------------------------------------------------------------ bonds

void attach_tracer_locked(Task& tracer, Task& tracee, bool seized, uint64_t options) {
    std::lock_guard lock(tracee.process().signal_mutex);
    Tracing& tracing = tracee.parts().tracing;
    tracing.seized = seized;
    tracing.options = options;
    tracing.group_stop_over = false;
    tracing.mode = Tracing::Mode::kContinue;
    tracing.tracer.store(&tracer, std::memory_order_release);
    tracer.process().tracees.push_back(&tracee);
    TaskRunner::tell_facts(tracee);
    // One that is stopped already stops for its tracer instead.
    tracee.process().stop_changed.notify_all();
}

void detach_tracer_locked(Task& tracee, int signo) {
    Tracing& tracing = tracee.parts().tracing;
    Task* tracer = tracing.tracer.load(std::memory_order_relaxed);
    if (tracer == nullptr) return;
    std::erase(tracer->process().tracees, &tracee);
    std::lock_guard lock(tracee.process().signal_mutex);
    tracing.tracer.store(nullptr, std::memory_order_release);
    tracing.options = 0;
    tracing.resume_signal = signo;
    tracing.stopped = tracing.unwaited = tracing.listening = tracing.trap_wanted = tracing.group_stop_over = false;
    tracing.mode = Tracing::Mode::kContinue;
    tracee.process().stop_changed.notify_all();
    TaskRunner::tell_facts(tracee);
    tracee.interrupt();
}

void traced_task_ended_locked(Task& task, bool told, int status) {
    Task* tracer = task.parts().tracing.tracer.load(std::memory_order_relaxed);
    if (tracer == nullptr) return;
    Process& watcher = tracer->process();
    if (told) {
        TracedExit exit{Ref<Pid>(&task.pid()), task.process().group, status};
        if (Ref<Credentials> credentials = task.credentials_of()) exit.uid = credentials->uid;
        watcher.traced_exits.push_back(std::move(exit));
    }
    detach_tracer_locked(task, 0);
    if (told) watcher.child_waiters.notify(EPOLLIN);
}

void tracer_ended_locked(Task& tracer) {
    std::vector<Task*> tracees = tracer.process().tracees;
    for (Task* tracee : tracees) {
        Tracing& tracing = tracee->parts().tracing;
        if (tracing.tracer.load(std::memory_order_relaxed) != &tracer) continue;
        bool kill = (tracing.options & PTRACE_O_EXITKILL) != 0;
        detach_tracer_locked(*tracee, 0);
        if (kill) send_to_process(tracee->process(), kernel_signal(SIGKILL), SignalSource::kOutside);
    }
}

// ------------------------------------------------------------------------------------------------------------ stops

// Brings the registers, as the tracer is to see them: with the result of the call in rax. A call that is to be
// restarted stays one; any other has ended. False: the host thread is gone.
bool TaskRunner::show_registers(Task& task, Next& next) {
    Task::Parts& parts = task.parts();
    Tracing& tracing = parts.tracing;
    tracing.original_ax = -1;
    if (next.kind == Next::Kind::kComplete) {
        int64_t result = next.result;
        if (!take_registers(task, next)) return false;
        task.registers().ax = static_cast<uint64_t>(result);
        tracing.original_ax = static_cast<int64_t>(parts.syscall_number);
        if (is_restart(result)) next = {Next::Kind::kComplete, result};
    }
    if (tracing.traps()) task.registers().flags &= ~kFlagTf;
    return true;
}

// After a stop: what the tracer made of the registers.
void TaskRunner::take_back_registers(Task& task, Next& next) {
    Tracing& tracing = task.parts().tracing;
    if (next.kind == Next::Kind::kComplete) {
        next.result = static_cast<int64_t>(task.registers().ax);
        // Another place or no call any more: nothing to make again.
        if (tracing.original_ax < 0 || !is_restart(next.result)) next = Next{};
    }
}

// The stop itself, with the registers at hand. The signal that the tracer gives; the same as the stop's if nobody
// traces any more.
int TaskRunner::stop_for_tracer(Task& task, int code, const siginfo_t* info, uint64_t message) {
    Process& process = task.process();
    TaskSet& tasks = task.kernel().tasks();
    Tracing& tracing = task.parts().tracing;
    int signo = code >> 8 == 0 && (code & kSyscallMark) == 0 ? code : 0;
    // A thread that ends stops once more; SIGKILL and another thread's exec do not wait for it.
    bool at_end = code >> 8 == PTRACE_EVENT_EXIT;
    auto no_more = [&] {
        return at_end ? process.group_exit_status == SIGKILL || process.exec_task.load() != nullptr : task.dying();
    };
    release_held_parent(task);
    {
        std::lock_guard lock(tasks.mutex);
        Task* tracer = tracing.tracer.load(std::memory_order_relaxed);
        if (tracer == nullptr) return signo;
        {
            std::lock_guard signal_lock(process.signal_mutex);
            if (no_more()) return 0;
            tracing.stopped = tracing.unwaited = true;
            tracing.listening = false;
            tracing.code = code;
            tracing.has_info = info != nullptr;
            if (info != nullptr) tracing.info = *info;
            tracing.message = message;
            tracing.resume_signal = 0;
        }
        Process& watcher = tracer->process();
        siginfo_t told{};
        told.si_signo = SIGCHLD;
        told.si_code = CLD_TRAPPED;
        told.si_status = code & 0x7f;
        told.si_pid = task.pid().number_in(tracer->pid_namespace());
        if (Ref<Credentials> credentials = task.credentials_of()) told.si_uid = credentials->uid;
        SignalAction action;
        {
            std::lock_guard watcher_lock(watcher.signal_mutex);
            action = watcher.handlers->get(SIGCHLD);
        }
        if (!action.is_ignore() && (action.flags & SA_NOCLDSTOP) == 0)
            send_to_process(watcher, told, SignalSource::kOutside);
        watcher.child_waiters.notify(EPOLLIN);
    }
    WakeBatch::flush();
    std::unique_lock lock(process.signal_mutex);
    task.parts().parked.store(true);
    process.stop_changed.wait(lock, [&] { return !tracing.stopped || no_more(); });
    task.parts().parked.store(false);
    tracing.stopped = tracing.unwaited = tracing.listening = false;
    lock.unlock();
    if (is_traced(task)) {
        if (tracing.watchpoints.on()) note_watched(task);
        if (tracing.traps()) task.registers().flags |= kFlagTf;
    }
    return tracing.resume_signal;
}

void TaskRunner::stop_for_event(Task& task, int event, uint64_t message) {
    siginfo_t info = trap_info(SIGTRAP | event << 8);
    stop_for_tracer(task, SIGTRAP | event << 8, &info, message);
}

void TaskRunner::stop_at_end(Task& task, Next& next) {
    Task::Parts& parts = task.parts();
    if (!is_traced(task) || (parts.tracing.options & PTRACE_O_TRACEEXIT) == 0) return;
    if (!show_registers(task, next)) return;
    Process& process = task.process();
    int status = process.group_exiting ? process.group_exit_status : parts.exit_status;
    stop_for_event(task, PTRACE_EVENT_EXIT, static_cast<uint64_t>(status));
}

// A seized task's stop by PTRACE_INTERRUPT, or that of a new one; the group's stop of job control, which a tracer sees
// once.
void TaskRunner::stop_for_group(Task& task, int signo) {
    Process& process = task.process();
    Tracing& tracing = task.parts().tracing;
    bool tell = false, seized;
    {
        std::lock_guard lock(process.signal_mutex);
        tracing.trap_wanted = false;
        seized = tracing.seized;
        if (process.stop_signal != 0 && !tracing.group_stop_over) {
            signo = process.stop_signal;
            tracing.group_stop_over = true;
            Task::Parts& parts = task.parts();
            if (!parts.stop_counted) {
                parts.stop_counted = true;
                ++process.stopped_threads;
            }
            if (!process.stopped && process.stopped_threads >= process.signal_targets.size())
                process.stopped = process.stop_unwaited = tell = true;
        }
    }
    if (tell) tell_parent_of_stop(process);
    if (seized) {
        siginfo_t info{};
        info.si_signo = signo;
        info.si_code = signo | PTRACE_EVENT_STOP << 8;
        stop_for_tracer(task, info.si_code, &info);
    } else {
        stop_for_tracer(task, signo, nullptr);
    }
    std::lock_guard lock(process.signal_mutex);
    if (task.parts().stop_counted) {
        task.parts().stop_counted = false;
        if (process.stopped_threads > 0) --process.stopped_threads;
    }
}

// The stops that are due before signals are looked at. False: the host thread is gone. `stopped` tells whether there
// was one.
bool TaskRunner::stop_as_traced(Task& task, Next& next, bool& stopped) {
    Tracing& tracing = task.parts().tracing;
    bool trap, group, step = std::exchange(tracing.step_over, false);
    {
        std::lock_guard lock(task.process().signal_mutex);
        trap = tracing.trap_wanted;
        group = task.process().stop_signal != 0 && !tracing.group_stop_over && !task.process().container->frozen();
    }
    stopped = trap || group;
    if (step) {
        if (!show_registers(task, next)) return false;
        force_signal(task, trap_info(TRAP_TRACE));
    }
    if (!stopped) return true;
    if (!show_registers(task, next)) return false;
    stop_for_group(task, SIGTRAP);
    take_back_registers(task, next);
    return true;
}

// The tracer decides about a signal before it is acted on. False: there is none any more.
bool TaskRunner::stop_for_signal(Task& task, Next& next, siginfo_t& info) {
    if (!show_registers(task, next)) return false;
    Tracing& tracing = task.parts().tracing;
    tracing.info = info;
    int signo = stop_for_tracer(task, info.si_signo, &info);
    take_back_registers(task, next);
    if (signo == 0) return false;
    info = tracing.info;  // PTRACE_SETSIGINFO
    if (signo != info.si_signo) {
        info = siginfo_t{};
        info.si_signo = signo;
        info.si_code = SI_USER;
    }
    if ((task.parts().blocked & signal_bit(signo)) == 0) return true;
    static_cast<void>(send_to_task(task, info, SignalSource::kOutside));
    return false;
}

// ----------------------------------------------------------------------------------------------------- system calls

// The call as the tracer left it in the registers. False: none is to be made.
bool TaskRunner::take_back_call(Task& task, SyscallStop& call) {
    const Registers& registers = task.registers();
    int64_t number = task.parts().tracing.original_ax;
    call.nr = static_cast<uint32_t>(number);
    uint64_t arguments[] = {registers.di, registers.si, registers.dx, registers.r10, registers.r8, registers.r9};
    std::copy(std::begin(arguments), std::end(arguments), call.args);
    return number >= 0;
}

// A system call of a traced task, with its stops before and after.
TaskRunner::Next TaskRunner::handle_traced_syscall(Task& task, const Stop& stop) {
    using Mode = Tracing::Mode;
    Tracing& tracing = task.parts().tracing;
    auto syscall_stop = [&](Tracing::Phase phase) {
        bool marked = (tracing.options & PTRACE_O_TRACESYSGOOD) != 0;
        int code = SIGTRAP | (marked ? kSyscallMark : 0);
        siginfo_t info = trap_info(code);
        // Without the mark Linux itself cannot tell such a stop from others.
        if (marked) tracing.phase = phase;
        int signo = stop_for_tracer(task, code, &info, phase == Tracing::Phase::kEntry ? 1 : 2);
        tracing.phase = Tracing::Phase::kNone;
        // As on Linux: a signal given here is sent, not delivered.
        if (signo != 0) static_cast<void>(send_to_task(task, kernel_signal(signo), SignalSource::kOutside));
    };
    Stop call = stop;
    bool skip = false;
    const Mode before = tracing.mode;
    const bool emulate = before == Mode::kEmulate || before == Mode::kEmulateStep;
    Next next;
    if (before == Mode::kSyscall || emulate) {
        task.parts().syscall_number = call.syscall.nr;
        next = {Next::Kind::kComplete, -ENOSYS};
        if (!show_registers(task, next)) return Next{};
        syscall_stop(Tracing::Phase::kEntry);
        if (task.dying()) return Next{};
        call.has_registers = true;
        skip = !take_back_call(task, call.syscall) || emulate;
    }
    tracing.original_ax = static_cast<int64_t>(call.syscall.nr);
    // A new task does not step.
    if (tracing.traps() && call.has_registers) task.registers().flags &= ~kFlagTf;
    if (skip) tracing.original_ax = -1;
    next = skip ? Next{Next::Kind::kComplete, static_cast<int64_t>(task.registers().ax)}
                : handle_untraced_syscall(task, call, false);
    if (task.parts().exit_requested || task.dying() || !is_traced(task)) return next;
    // What the call wrote is not what the application did.
    if (tracing.watchpoints.on()) note_watched(task);
    if (tracing.mode == Mode::kSyscall) {
        int64_t number = static_cast<int64_t>(call.syscall.nr);
        if (!show_registers(task, next)) return Next{};
        tracing.original_ax = number;
        syscall_stop(Tracing::Phase::kExit);
        take_back_registers(task, next);
    } else if (tracing.mode == Mode::kStep) {
        tracing.step_over = true;
    } else if (tracing.traps() && task.parts().has_registers) {
        task.registers().flags |= kFlagTf;
    }
    task.attention_.fetch_or(Task::kLook, std::memory_order_relaxed);
    return next;
}

// A call that the filter has the tracer decide about.
TaskRunner::Next TaskRunner::handle_asked_syscall(Task& task, const Stop& stop, uint32_t told) {
    Tracing& tracing = task.parts().tracing;
    Next next{Next::Kind::kComplete, -ENOSYS};
    if (!show_registers(task, next)) return Next{};
    tracing.original_ax = static_cast<int64_t>(stop.syscall.nr);
    tracing.phase = Tracing::Phase::kFilter;
    stop_for_event(task, PTRACE_EVENT_SECCOMP, told);
    tracing.phase = Tracing::Phase::kNone;
    if (task.dying()) return Next{};
    SyscallStop call = stop.syscall;
    bool carry = take_back_call(task, call);
    if (tracing.traps()) task.registers().flags &= ~kFlagTf;
    auto unchanged = [&] { return Next{Next::Kind::kComplete, static_cast<int64_t>(task.registers().ax)}; };
    if (!carry) return unchanged();
    task.parts().syscall_number = call.nr;
    if (!always_allowed(task, call.nr)) {
        FilterOutcome outcome = apply_filter(task, call, true);
        if (!outcome.carry_out) return Next{Next::Kind::kComplete, outcome.result};
    }
    return carry_out(task, call, false);
}

}  // namespace casemate::sentry
