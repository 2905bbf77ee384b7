// Calls that are parked: how a task's thread leaves one and comes back to it, and how another thread makes it again.
#include <sched.h>
#include <sys/syscall.h>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/parked_call.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_hold.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {

using State = ParkedCall::State;

// Calls whose handlers pass kParked on as it is. All others block in the ordinary way.
bool TaskRunner::may_be_parked(uint64_t number) {
    switch (number) {
        case SYS_read:
        case SYS_readv:
        case SYS_recvfrom:
        case SYS_recvmsg:
        case SYS_accept:
        case SYS_accept4:
        case SYS_poll:
        case SYS_ppoll:
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
        case SYS_epoll_pwait2:
        case SYS_futex:
        case SYS_wait4:
            return true;
        default:
            return false;
    }
}

bool Task::begin_park(Deadline& deadline) {
    Parts& parts = *parts_;
    deadline = deadline_of_call(deadline);
    if (!parts.may_park || parts.saved_mask || interrupted()) return false;
    if (deadline && *deadline <= monotonic_now()) return false;
    release_held_parent(*this);
    parts.sleeping.store(true, std::memory_order_relaxed);
    process_->switches.fetch_add(1, std::memory_order_relaxed);
    if (parts.clone_rhythm.undecided()) parts.clone_rhythm.sleeps(monotonic_now());
    parts.parked_call.arm(deadline);
    return true;
}

void Task::park_at(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events) {
    parts_->parked_call.join(std::move(keep), queue, events);
}

Deadline Task::deadline_of_call(Deadline fresh) const {
    return parts_->making_again ? parts_->parked_call.deadline() : fresh;
}

void Task::cancel_park() {
    parts_->parked_call.leave();
    parts_->sleeping.store(false, std::memory_order_relaxed);
}

bool Task::borrowed() const { return WakeBatch::serves_other_than(*this); }

// Owner: makes the call once more, or takes the result that came for it.
TaskRunner::Next TaskRunner::again(Task& task, bool may_park) {
    Task::Parts& parts = task.parts();
    task.cancel_park();
    if (parts.futex_sleeper) task.kernel().futexes().leave_parked(task);
    if (parts.parked_call.result) {
        parts.call.inside.store(false, std::memory_order_relaxed);
        return {Next::Kind::kComplete, *std::exchange(parts.parked_call.result, std::nullopt)};
    }
    parts.making_again = true;
    Next next = handle_syscall(task, *parts.parked_call.stop, may_park);
    parts.making_again = false;
    return next;
}

// The task's thread: waits for the stop that follows the parked call, whoever answers it. `stop` is the call, and then
// what came. Returns how to go on.
TaskRunner::Next TaskRunner::wait_parked(Task& task, Stop& stop) {
    Task::Parts& parts = task.parts();
    ParkedCall& parked = parts.parked_call;
    if (!parked.change(State::kArmed, State::kParked)) {
        // Woken meanwhile.
        parked.set_state(State::kClaimed);
        Next next = again(task, true);
        if (next.kind != Next::Kind::kPark) parked.set_state(State::kNone);
        return next;
    }
    // Pairs with Task::interrupt(): either it sees the call parked, or this sees its attention.
    if (task.attention_.load(std::memory_order_seq_cst) != 0 && parked.claim()) {
        Next next = again(task, false);
        parked.set_state(State::kNone);
        return next;
    }
    task.in_application_.store(true, std::memory_order_seq_cst);
    return settle_parked(task, stop, task.app_->wait(parked.deadline()));
}

// The task's thread: what came while a call was parked, or may have been.
TaskRunner::Next TaskRunner::settle_parked(Task& task, Stop& stop, Stop came) {
    Task::Parts& parts = task.parts();
    ParkedCall& parked = parts.parked_call;
    // Without a stop of its own, the call is in the parts until its owner comes here.
    auto take_call = [&] {
        if (parked.stop == &parts.quick_stop) stop = parts.quick_stop;
        parked.stop = &stop;
        task.app_->take_parked();
    };
    while (true) {
        switch (parked.state()) {
            case State::kParked: {
                // Nobody was here: the deadline is near (the rest is slept in the call itself), or the thread is gone.
                if (!parked.claim()) continue;
                take_call();
                bool timeout = came.reason == StopReason::kTimeout;
                if (timeout) {
                    task.in_application_.store(false, std::memory_order_release);
                    if (parts.futex_sleeper) {
                        task.kernel().futexes().leave_parked(task);
                        // The time may have been an earlier call's, which somebody else answered.
                        const Deadline& deadline = parked.deadline();
                        if (!parked.result && deadline && monotonic_now() >= *deadline) parked.result = -ETIMEDOUT;
                    }
                    Next next = again(task, false);
                    parked.set_state(State::kNone);
                    return next;
                }
                if (came.reason == StopReason::kInterrupted) {
                    // Out of its sleep: the call is made again with all registers at hand.
                    parked.set_state(State::kKicked);
                    continue;
                }
                task.cancel_park();
                if (parts.futex_sleeper) task.kernel().futexes().leave_parked(task);
                parked.set_state(State::kNone);
                continue;
            }
            case State::kNone:
                if (came.reason == StopReason::kTimeout) {
                    came = task.app_->wait(std::nullopt);
                    continue;
                }
                task.in_application_.store(false, std::memory_order_release);
                parked.stop = &stop;
                stop = came;
                return handle_stop(task, stop);
            case State::kKicked: {
                if (came.reason == StopReason::kTimeout) {
                    came = task.app_->wait(std::nullopt);
                    continue;
                }
                task.in_application_.store(false, std::memory_order_release);
                parked.set_state(State::kClaimed);
                take_call();
                if (!came.has_registers) {
                    task.cancel_park();
                    if (parts.futex_sleeper) task.kernel().futexes().leave_parked(task);
                    parked.set_state(State::kNone);
                    stop = came;
                    return handle_stop(task, stop);
                }
                // A fault instead of the stop is raised again by its instruction.
                parts.has_registers = stop.has_registers = true;
                take_wanted_picture(task);
                Next next;
                if (parts.parked_answer) {
                    next = {Next::Kind::kComplete, *parts.parked_answer};
                    parts.parked_answer.reset();
                } else {
                    next = again(task, true);
                }
                if (next.kind != Next::Kind::kPark) parked.set_state(State::kNone);
                return next;
            }
            default:
                // Another thread is at it: it ends the call, or parks it again (then a time-out is still to be seen
                // to).
                ::sched_yield();
        }
    }
}

// The thread that was asked for the answer of a call that is parked now.
void TaskRunner::park_quick_call(Task& task) {
    ParkedCall& parked = task.parts().parked_call;
    if (!parked.change(State::kArmed, State::kParked)) {
        // Woken meanwhile.
        parked.set_state(State::kClaimed);
        return make_again(task, WakeOn::kAnyCpu);
    }
    if (task.attention_.load(std::memory_order_seq_cst) != 0 && parked.claim()) parked.kick();
}

// Another thread, which claimed the call.
void TaskRunner::make_again(Task& task, WakeOn where) {
    Task::Parts& parts = task.parts();
    ParkedCall& parked = parts.parked_call;
    while (true) {
        Next next = again(task, true);
        if (next.kind == Next::Kind::kPark) {
            if (!parked.change(State::kArmed, State::kParked)) {
                parked.set_state(State::kClaimed);
                continue;
            }
            if (task.attention_.load(std::memory_order_seq_cst) != 0 && parked.claim()) parked.kick();
            return;
        }
        if (task.attention_.load(std::memory_order_seq_cst) != 0) {
            // Signals and the like are its own thread's business.
            parts.parked_answer = next.result;
            parked.kick();
            return;
        }
        if (task.app_->answer_stopped(next.result)) return parked.set_state(State::kNone);
        // The lock keeps app_ alive once the task's thread is no longer held up by the state.
        std::lock_guard lock(task.mutex_);
        parked.set_state(State::kNone);
        task.app_->answer(next.result, where);
        return;
    }
}

}  // namespace casemate::sentry
