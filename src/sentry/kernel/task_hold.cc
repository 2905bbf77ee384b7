#include "sentry/kernel/task_hold.h"

#include <sys/epoll.h>

#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
namespace {
// How long a parent is held for a child that neither execs nor ends nor sleeps. Longer than fork+exec takes, short
// against what a person or a request notices.
constexpr Nanoseconds kHoldLimit = 10'000'000;
}  // namespace

void Hold::wait(Task& parent, Task& child) {
    Task::ThreadWaiter waiter(parent, EPOLLIN);
    waiters_.add(waiter);
    Deadline deadline;
    if (!vfork_) deadline = monotonic_now() + kHoldLimit;
    while (true) {
        waiter.arm();
        if (done_.load(std::memory_order_seq_cst)) break;
        auto slept = waiter.sleep(deadline, Task::Interruptible::kOnlyByDeath);
        if (!slept.ok()) {
            if (vfork_ || parent.dying()) break;
            deadline = {};
            overdue_.store(true, std::memory_order_release);
            TaskRunner::stop_application(child);
        }
    }
    waiters_.remove(waiter);
}

void Hold::child_left() {
    done_.store(true, std::memory_order_seq_cst);
    waiters_.notify(EPOLLIN);
}

void Hold::child_sleeps(AddressSpace& child) {
    if (vfork_ || done_.load(std::memory_order_acquire)) return;
    child.release_held_parent();
    child_left();
}

void release_held_parent(Task& child) {
    Task::Parts& parts = child.parts();
    if (parts.hold) [[unlikely]] {
        Ref<Hold> hold = parts.hold;
        hold->child_sleeps(child.memory());
        if (!hold->is_vfork()) parts.hold = nullptr;
    }
}

}  // namespace casemate::sentry
