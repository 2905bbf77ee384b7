#include "sentry/kernel/timers.h"

#include "sentry/kernel/host_futex.h"

namespace casemate::sentry {

bool TimerThread::Order::operator()(const Timer* a, const Timer* b) const {
    return a->deadline_ != b->deadline_ ? a->deadline_ < b->deadline_ : a < b;
}

TimerThread::TimerThread() : thread_([this] { run(); }) {}

TimerThread::~TimerThread() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    changed_.fetch_add(1);
    host_futex_wake(changed_);
    thread_.join();
}

void TimerThread::arm(Timer& timer, Nanoseconds deadline) {
    bool first;
    {
        std::lock_guard lock(mutex_);
        if (timer.armed_) timers_.erase(&timer);
        timer.deadline_ = deadline;
        timer.armed_ = true;
        timers_.insert(&timer);
        first = *timers_.begin() == &timer;
    }
    if (first) {
        changed_.fetch_add(1);
        host_futex_wake(changed_);
    }
}

void TimerThread::disarm(Timer& timer) {
    std::lock_guard lock(mutex_);
    if (timer.armed_) timers_.erase(&timer);
    timer.armed_ = false;
}

void TimerThread::cancel(Timer& timer) {
    std::unique_lock lock(mutex_);
    bool on_timer_thread = std::this_thread::get_id() == thread_.get_id();
    while (true) {
        if (timer.armed_) timers_.erase(&timer);
        timer.armed_ = false;
        if (firing_ != &timer || on_timer_thread) return;
        fired_.wait(lock);
    }
}

void TimerThread::run() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
        uint32_t seen = changed_.load();
        Deadline next;
        if (!timers_.empty()) {
            Timer* first = *timers_.begin();
            if (first->deadline_ <= monotonic_now()) {
                timers_.erase(timers_.begin());
                first->armed_ = false;
                firing_ = first;
                lock.unlock();
                first->expired();
                lock.lock();
                firing_ = nullptr;
                fired_.notify_all();
                continue;
            }
            next = first->deadline_;
        }
        lock.unlock();
        host_futex_wait(changed_, seen, next);
        lock.lock();
    }
}

}  // namespace casemate::sentry
