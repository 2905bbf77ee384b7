// The loop of a task: application runs, stops, the sentry answers, application goes on. docs: "life of a syscall".
#include "sentry/kernel/task_run.h"

#include <linux/audit.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/log.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/oom_killer.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/syscall_watch.h"
#include "sentry/kernel/task_hold.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kPageFaultTrap = 14;
constexpr uint64_t kBreakpointTrap = 3;
constexpr uint64_t kInstructionFetch = 1 << 4;
constexpr uint64_t kFlagTf = 0x100;
constexpr GuestAddr kVsyscallPage = 0xffffffffff600000;

bool may_be_memory(int error) { return error == ENOMEM || error == EFAULT; }

// A call failed: if the pod has no memory left, that may be why. True: something was done about it, and the call, which
// did nothing yet, may be tried again.
bool make_room_for(Task& task, const SyscallRow& row) {
    if (row.handler == nullptr || !task.kernel().memory().used_up()) return false;
    task.kernel().oom_killer().make_room(task);
    return !task.dying();
}

bool is_restart(int64_t result) { return result <= -kRestartSys && result >= -kRestartBlock; }

}  // namespace

void TaskRunner::run(Task& task) {
    Task::Parts& parts = task.parts();
    {
        std::lock_guard lock(parts.host_thread_mutex);
        parts.host_thread = pthread_self();
        timespec used{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
        parts.host_thread_baseline_ns = used.tv_sec * kSecond + used.tv_nsec;
        parts.host_thread_valid = true;
    }
    WakeBatch batch(task);
    bool woke = false;  // others, in the last call
    Next next;          // the first start: registers are set
    Stop stop;
    stop.has_registers = true;
    parts.has_registers = true;
    parts.parked_call.stop = &stop;
    tell_facts(task);
    while (true) {
        // Pairs with Task::interrupt(): either it sees the application running, or this sees its attention.
        task.in_application_.store(true, std::memory_order_seq_cst);
        if (task.attention_.load(std::memory_order_seq_cst) != 0) [[unlikely]] {
            task.in_application_.store(false, std::memory_order_seq_cst);
            if (next.kind == Next::Kind::kPark) {
                next = again(task, false);
                parts.parked_call.set_state(ParkedCall::State::kNone);
            }
            batch.run(WakeOn::kThisCpu);
            if (!before_application(task, next, stop)) break;
            continue;
        }
        if (next.kind == Next::Kind::kPark) {
            task.in_application_.store(false, std::memory_order_seq_cst);
            woke |= batch.run(WakeOn::kThisCpu);
            if (std::exchange(woke, false) && parts.waits_after_waking < 3) ++parts.waits_after_waking;
            next = wait_parked(task, stop);
            continue;
        }
        AppThread& app = *task.app_;
        if (next.kind == Next::Kind::kComplete)
            app.answer(next.result, WakeOn::kThisCpu);
        else
            app.go_on();
        if (std::exchange(woke, false) && parts.waits_after_waking > 0) --parts.waits_after_waking;
        // The task's own application was answered first: two that take turns need one switch less.
        if (!batch.empty()) [[unlikely]] {
            woke = batch.run(parts.waits_after_waking >= 2 ? WakeOn::kThisCpu : WakeOn::kAnyCpu);
        }
        Stop came = app.wait(std::nullopt);
        if (came.reason == StopReason::kTimeout || parts.parked_call.state() != ParkedCall::State::kNone) [[unlikely]] {
            next = settle_parked(task, stop, std::move(came));
            continue;
        }
        task.in_application_.store(false, std::memory_order_release);
        parts.parked_call.stop = &stop;
        stop = came;
        next = handle_stop(task, stop);
    }
    end(task);
}

TaskRunner::Next TaskRunner::handle_stop(Task& task, const Stop& stop) {
    task.parts().has_registers = stop.has_registers;
    switch (stop.reason) {
        case StopReason::kSyscall:
            return handle_syscall(task, stop);
        case StopReason::kFault:
            handle_fault(task, stop.fault);
            return {};
        case StopReason::kInterrupted:
            return {};
        case StopReason::kTimeout:  // only where a deadline was given, and seen to there
        case StopReason::kDead:
            break;
    }
    // Broken by its own application (or by the host): no more can be run in this address space.
    log::info("task {} lost its host thread", task.tid());
    std::lock_guard lock(task.process().signal_mutex);
    task.process().begin_group_exit_locked(SIGKILL);
    request_exit(task, SIGKILL);
    return {};
}

TaskRunner::Next TaskRunner::handle_syscall(Task& task, const Stop& stop, bool may_park) {
    // A parked call began before its task was traced.
    if (is_traced(task) && !task.parts().making_again) [[unlikely]]
        return handle_traced_syscall(task, stop);
    return handle_untraced_syscall(task, stop, may_park);
}

TaskRunner::Next TaskRunner::handle_untraced_syscall(Task& task, const Stop& stop, bool may_park) {
    const SyscallStop& call = stop.syscall;
    Next next{Next::Kind::kComplete, -ENOSYS};
    // 32-bit code (int 0x80) and x32 numbers: a kernel without them says so.
    if (call.arch != AUDIT_ARCH_X86_64) [[unlikely]]
        return next;
    task.parts().syscall_number = call.nr;
    // A parked call was let through when it began.
    if (!task.parts().making_again && !always_allowed(task, call.nr)) [[unlikely]] {
        FilterOutcome outcome = apply_filter(task, call);
        if (outcome.ask_tracer) return handle_asked_syscall(task, stop, *outcome.ask_tracer);
        if (!outcome.carry_out) {
            next.result = outcome.result;
            if (is_restart(next.result)) task.attention_.fetch_or(Task::kLook, std::memory_order_relaxed);
            return next;
        }
    }
    return carry_out(task, call, may_park);
}

// The call itself, which nothing forbids.
TaskRunner::Next TaskRunner::carry_out(Task& task, const SyscallStop& call, bool may_park) {
    Next next{Next::Kind::kComplete, -ENOSYS};
    const SyscallRow* row = find_syscall(call.nr);
    if (row == nullptr) [[unlikely]]
        return next;
    SyscallArgs args;
    args.nr = call.nr;
    for (size_t i = 0; i < 6; ++i) args.a[i] = call.args[i];
    if (call.often && !is_traced(task)) [[unlikely]]
        task.memory().patch_call_site(call);
    Task::Parts& parts = task.parts();
    parts.may_park = may_park && !task.kernel().watched() && may_be_parked(call.nr);
    show_call(task, call);
    SysResult<int64_t> result = task.kernel().watched()   ? task.kernel().watch().run(task, *row, args)
                                : row->handler != nullptr ? row->handler(task, args)
                                                          : answer_missing(task, *row);
    if (!result.ok() && may_be_memory(errno_of(result.error())) && make_room_for(task, *row)) [[unlikely]]
        result = row->handler(task, args);
    if (!result.ok() && errno_of(result.error()) == kParked) return {Next::Kind::kPark, 0};
    parts.call.inside.store(false, std::memory_order_relaxed);
    if (result.ok()) [[likely]] {
        next.result = *result;
    } else {
        int code = errno_of(result.error());
        if (code == kRegistersSet) {
            next = Next{};
        } else {
            next.result = -code;
            if (code >= kRestartSys) task.attention_.fetch_or(Task::kLook, std::memory_order_relaxed);
        }
    }
    // Begun, but not left.
    if (parts.may_park && parts.parked_call.armed()) [[unlikely]] {
        parts.parked_call.leave();
        parts.parked_call.set_state(parts.making_again ? ParkedCall::State::kClaimed : ParkedCall::State::kNone);
    }
    return next;
}

void TaskRunner::show_call(Task& task, const SyscallStop& call) {
    Task::Parts::Call& shown = task.parts().call;
    shown.number.store(call.nr, std::memory_order_relaxed);
    shown.ip.store(call.ip, std::memory_order_relaxed);
    for (size_t i = 0; i < 6; ++i) shown.arguments[i].store(call.args[i], std::memory_order_relaxed);
    shown.inside.store(true, std::memory_order_relaxed);
}

void TaskRunner::handle_fault(Task& task, const FaultStop& fault) {
    task.process().faults.fetch_add(1, std::memory_order_relaxed);
    siginfo_t info{};
    info.si_signo = fault.signo;
    info.si_code = fault.code;
    info.si_addr = reinterpret_cast<void*>(fault.address);
    bool memory_fault = fault.signo == SIGSEGV || fault.signo == SIGBUS;
    if (memory_fault && fault.trap_number == kPageFaultTrap) {
        if ((fault.error_code & kInstructionFetch) != 0 && fault.address >= kVsyscallPage &&
            answer_vsyscall(task, fault))
            return;
        auto signal = task.memory().handle_fault(fault);
        if (!signal) return;
        if (signal->signo == SIGKILL && task.kernel().memory().limit() != 0) {
            // Out of memory: the instruction is tried again when there is room, or never.
            task.kernel().oom_killer().make_room(task);
            return;
        }
        info.si_signo = signal->signo;
        info.si_code = signal->code;
    }
    if (fault.signo == SIGTRAP && fault.trap_number == kBreakpointTrap) {
        if (auto to = task.memory().behind_planted_trap(task.registers().ip)) {
            // A signal's handler sees where the program stands, not how it goes on.
            task.registers().ip = task.interrupted() ? task.registers().ip - 1 : *to;
            return;
        }
    }
    if (fault.signo == SIGTRAP && fault.code == TRAP_TRACE && !end_step(task)) [[unlikely]]
        return;
    Task::Parts& parts = task.parts();
    parts.fault_trap = fault.trap_number;
    parts.fault_error = fault.error_code;
    parts.fault_address = memory_fault ? fault.address : 0;
    force_signal(task, info);
}

// The legacy page at a fixed address with three entry points; its readers jump there and expect a return.
bool TaskRunner::answer_vsyscall(Task& task, const FaultStop& fault) {
    uint64_t number;
    switch (fault.address - kVsyscallPage) {
        case 0x000:
            number = SYS_gettimeofday;
            break;
        case 0x400:
            number = SYS_time;
            break;
        case 0x800:
            number = SYS_getcpu;
            break;
        default:
            return false;
    }
    Registers& registers = task.registers();
    auto back = task.read(UserPtr<uint64_t>(registers.sp));
    const SyscallRow* row = find_syscall(number);
    if (!back.ok() || row == nullptr || row->handler == nullptr) return false;
    SyscallArgs args;
    args.nr = number;
    args.a[0] = registers.di;
    args.a[1] = registers.si;
    args.a[2] = registers.dx;
    FilterOutcome outcome;
    if (!always_allowed(task, number)) {
        SyscallStop call{AUDIT_ARCH_X86_64, number, {args.a[0], args.a[1], args.a[2]}, registers.ip};
        outcome = apply_filter(task, call);
    }
    if (outcome.carry_out) {
        SysResult<int64_t> result = row->handler(task, args);
        outcome.result = result.ok() ? *result : -errno_of(result.error());
    }
    registers.ax = static_cast<uint64_t>(outcome.result);
    registers.ip = *back;
    registers.sp += 8;
    return true;
}

void TaskRunner::request_exit(Task& task, int wait_status) {
    task.parts().exit_requested = true;
    task.parts().exit_status = wait_status;
    task.attention_.fetch_or(Task::kInterrupts | Task::kLook, std::memory_order_seq_cst);
}

void TaskRunner::stop_application(Task& task) {
    task.attention_.fetch_or(Task::kLook, std::memory_order_seq_cst);
    if (!task.in_application_.load(std::memory_order_seq_cst)) return;
    std::lock_guard lock(task.mutex_);  // as in Task::interrupt()
    if (task.app_ != nullptr && task.in_application_.load(std::memory_order_relaxed)) task.app_->interrupt();
}

// Whatever must be done before the application may go on. Leaves nothing undone that was asked for before it was
// called: what is asked meanwhile sets attention_ again.
bool TaskRunner::before_application(Task& task, Next& next, const Stop& last) {
    Task::Parts& parts = task.parts();
    task.attention_.store(0, std::memory_order_seq_cst);
    if (parts.hold && parts.hold->overdue()) release_held_parent(task);
    if (parts.wanted_picture.wanted.load(std::memory_order_relaxed) && next.kind == Next::Kind::kResume) [[unlikely]]
        take_wanted_picture(task);
    // The mask of sigsuspend, ppoll... ends with the call, unless a signal ended the call: then that is chosen by it.
    auto restore_mask = [&] {
        if (!parts.saved_mask) return;
        SignalSet mask = *parts.saved_mask;
        parts.saved_mask.reset();
        set_blocked(task, mask);
    };
    if (!(next.kind == Next::Kind::kComplete && is_restart(next.result))) {
        bool interrupted_call = next.kind == Next::Kind::kComplete && next.result == -EINTR;
        if (!interrupted_call) restore_mask();
    }
    while (true) {
        if (parts.exit_requested || task.dying()) {
            stop_at_end(task, next);
            return false;
        }
        bool traced = is_traced(task);
        if (traced) [[unlikely]] {
            bool stopped = false;
            if (!stop_as_traced(task, next, stopped)) return false;
            if (stopped) continue;
        }
        if (must_park(task)) {
            park(task);
            continue;
        }
        std::optional<QueuedSignal> taken;
        SignalAction action;
        auto take_action_locked = [&] {
            std::lock_guard handlers_lock(task.process().handlers->mutex);
            SignalAction& disposition = task.process().handlers->actions[static_cast<size_t>(taken->info.si_signo)];
            action = disposition;
            if ((action.flags & SA_RESETHAND) != 0 && !action.is_default() && !action.is_ignore())
                disposition = SignalAction{};
        };
        {
            std::lock_guard lock(task.process().signal_mutex);
            taken = parts.pending.take(~parts.blocked);
            if (!taken) taken = task.process().pending.take(~parts.blocked);
            if (taken && !traced) take_action_locked();
        }
        if (!taken) break;
        if (traced) [[unlikely]] {
            if (taken->info.si_signo != SIGKILL && !stop_for_signal(task, next, taken->info)) continue;
            std::lock_guard lock(task.process().signal_mutex);
            take_action_locked();
        }
        if (task.kernel().watched()) task.kernel().watch().signal(task, taken->info);
        if (taken->timer) signal_of_timer_taken(*taken);
        int signo = taken->info.si_signo;
        SignalSet bit = signal_bit(signo);
        if (action.is_ignore()) continue;
        if (action.is_default()) {
            if ((bit & kIgnoredByDefault) != 0) continue;
            if (task.process().unkillable && (bit & kUnblockable) == 0) continue;
            if ((bit & kStopSignals) != 0) {
                begin_stop(task, signo);
                continue;
            }
            bool core = (bit & kCoreDumpSignals) != 0;
            std::lock_guard lock(task.process().signal_mutex);
            task.process().begin_group_exit_locked(signo | (core ? 0x80 : 0));
            continue;
        }
        if (!deliver(task, next, taken->info, action)) return false;
    }
    restore_mask();
    if (next.kind == Next::Kind::kComplete && is_restart(next.result)) {
        // No handler ran: the call goes on here, and the application sees nothing.
        if (next.result == -kRestartBlock) {
            SysResult<int64_t> result = Errno(EINTR);
            if (parts.restart) {
                parts.may_park = false;  // this is not the call itself
                auto again = std::move(parts.restart);
                parts.restart = nullptr;
                result = again(task);
            }
            next.result = result.ok() ? *result : -errno_of(result.error());
            if (is_restart(next.result)) task.attention_.fetch_or(Task::kLook, std::memory_order_relaxed);
        } else {
            next = handle_syscall(task, last);
        }
    }
    return true;
}

// Ends the syscall so that its registers can be changed. False: the host thread is gone.
bool TaskRunner::take_registers(Task& task, Next& next) {
    if (next.kind == Next::Kind::kResume) return true;
    if (task.parts().has_registers) {
        task.registers().ax = static_cast<uint64_t>(next.result);
    } else {
        Stop stop = task.app_->complete_and_stop(next.result);
        if (stop.reason == StopReason::kDead) {
            handle_stop(task, stop);
            return false;
        }
        // A fault instead of the stop is raised again by the instruction when the handler has returned.
        task.parts().has_registers = true;
    }
    next = Next{};
    return true;
}

// Lets the application go on in the handler. False: the task is to end.
bool TaskRunner::deliver(Task& task, Next& next, const siginfo_t& info, const SignalAction& action) {
    Task::Parts& parts = task.parts();
    bool restart = false;
    if (next.kind == Next::Kind::kComplete && is_restart(next.result)) {
        restart = next.result == -kRestartNoIntr || (next.result == -kRestartSys && (action.flags & SA_RESTART) != 0);
        next.result = -EINTR;
        parts.restart = nullptr;
    }
    if (!take_registers(task, next)) return false;
    if (parts.tracing.steps() && is_traced(task)) [[unlikely]] {
        // The step ends at the handler's first instruction.
        task.registers().flags &= ~kFlagTf;
        parts.tracing.step_over = true;
    }
    bool watched = parts.tracing.watchpoints.on() && is_traced(task);
    if (watched) [[unlikely]]
        task.registers().flags &= ~kFlagTf;  // not for the frame
    if (restart) {
        task.registers().ax = parts.syscall_number;
        task.registers().ip -= 2;  // the `syscall` instruction
    }
    SignalSet frame_mask = parts.saved_mask ? *parts.saved_mask : parts.blocked;
    if (!push_signal_frame(task, info, action, frame_mask)) {
        force_fatal(task, SIGSEGV);
        return true;
    }
    if (watched) [[unlikely]] {
        note_watched(task);
        if (!parts.tracing.steps()) task.registers().flags |= kFlagTf;
    }
    parts.saved_mask.reset();
    SignalSet mask = parts.blocked | action.mask;
    if ((action.flags & SA_NODEFER) == 0) mask |= signal_bit(info.si_signo);
    set_blocked(task, mask);
    return true;
}

}  // namespace casemate::sentry
