#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

void WaitQueue::add(Waiter& waiter) {
    std::lock_guard lock(mutex_);
    if (waiter.linked_) return;
    waiter.linked_ = true;
    waiter.next_ = nullptr;
    waiter.previous_ = last_;
    (last_ != nullptr ? last_->next_ : first_) = &waiter;
    last_ = &waiter;
    count_one();
}

void WaitQueue::add_first(Waiter& waiter) {
    std::lock_guard lock(mutex_);
    if (waiter.linked_) return;
    waiter.linked_ = true;
    waiter.previous_ = nullptr;
    waiter.next_ = first_;
    (first_ != nullptr ? first_->previous_ : last_) = &waiter;
    first_ = &waiter;
    count_one();
}

void WaitQueue::count_one() {
    // Pairs with the fence in notify(): either the waiter's look at its condition, which follows, sees the change, or
    // notify() sees the waiter.
    count_.fetch_add(1, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

void WaitQueue::remove(Waiter& waiter) {
    std::lock_guard lock(mutex_);
    if (!waiter.linked_) return;
    waiter.linked_ = false;
    (waiter.previous_ != nullptr ? waiter.previous_->next_ : first_) = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->previous_ : last_) = waiter.previous_;
    waiter.next_ = waiter.previous_ = nullptr;
    count_.fetch_sub(1, std::memory_order_relaxed);
}

void WaitQueue::notify(uint32_t events, uint32_t exclusive_limit) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (count_.load(std::memory_order_relaxed) == 0) return;
    std::lock_guard lock(mutex_);
    for (Waiter* waiter = first_; waiter != nullptr;) {
        Waiter* next = waiter->next_;
        if ((waiter->events_ & events) != 0) {
            if (!waiter->exclusive_) {
                waiter->notified(events);
            } else if (exclusive_limit > 0 && waiter->notified(events)) {
                --exclusive_limit;
            }
        }
        waiter = next;
    }
}

}  // namespace casemate::sentry
