#include "sentry/fs/event/timerfd.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <time.h>

#include <algorithm>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

TimerFile::TimerFile(Path path, int flags, int clock, TimerThread& timers)
    : File(std::move(path), flags), clock_(clock), timers_(timers) {}

TimerFile::~TimerFile() { timers_.cancel(*this); }

Nanoseconds TimerFile::clock_now() const {
    return clock_ == CLOCK_REALTIME || clock_ == CLOCK_REALTIME_ALARM ? realtime_now() : monotonic_now();
}

// Counts what has expired by now and moves the due time on.
void TimerFile::count_locked() {
    Nanoseconds now = clock_now();
    if (due_ == 0 || now < due_) return;
    if (interval_ == 0) {
        expirations_++;
        due_ = 0;
        return;
    }
    Nanoseconds periods = (now - due_) / interval_ + 1;
    expirations_ += static_cast<uint64_t>(periods);
    due_ += periods * interval_;
}

TimerFile::Setting TimerFile::get_locked() {
    count_locked();
    return {due_ == 0 ? 0 : std::max<Nanoseconds>(due_ - clock_now(), 1), interval_};
}

TimerFile::Setting TimerFile::get() {
    std::lock_guard lock(mutex_);
    return get_locked();
}

TimerFile::Setting TimerFile::set(const Setting& now, bool absolute, bool cancel_on_set) {
    std::lock_guard lock(mutex_);
    Setting old = get_locked();
    expirations_ = 0;
    interval_ = now.interval;
    set_flags_ = (absolute ? TFD_TIMER_ABSTIME : 0) | (cancel_on_set ? TFD_TIMER_CANCEL_ON_SET : 0);
    Nanoseconds present = clock_now();
    if (now.value == 0)
        due_ = 0;
    else if (absolute)
        due_ = now.value;
    else if (__builtin_add_overflow(present, now.value, &due_))
        due_ = INT64_MAX;
    if (due_ == 0)
        timers_.disarm(*this);
    else
        timers_.arm(*this, monotonic_now() + std::max<Nanoseconds>(due_ - present, 0));
    return old;
}

void TimerFile::expired() {
    {
        std::lock_guard lock(mutex_);
        count_locked();
        if (due_ != 0) timers_.arm(*this, monotonic_now() + std::max<Nanoseconds>(due_ - clock_now(), 0));
        if (expirations_ == 0) return;
    }
    waiters_.notify(EPOLLIN, ~0u);
}

uint32_t TimerFile::poll_events(Task*) {
    std::lock_guard lock(mutex_);
    count_locked();
    return expirations_ > 0 ? uint32_t{EPOLLIN} : 0;
}

SysResult<size_t> TimerFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
    uint64_t count = TRY(task.wait_on(waiters_, EPOLLIN, std::nullopt, [&]() -> std::optional<SysResult<uint64_t>> {
        std::lock_guard lock(mutex_);
        count_locked();
        if (expirations_ == 0) {
            if (nonblocking()) return SysResult<uint64_t>(Errno(EAGAIN));
            return std::nullopt;
        }
        return SysResult<uint64_t>(std::exchange(expirations_, 0));
    }));
    return into.copy_to(&count, sizeof(count));
}

std::string TimerFile::fdinfo(Task& task) {
    Setting left;
    uint64_t ticks;
    int flags;
    {
        std::lock_guard lock(mutex_);
        left = get_locked();
        ticks = expirations_;
        flags = set_flags_;
    }
    return File::fdinfo(task) +
           fmt::format("clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: ({}, {})\nit_interval: ({}, {})\n",
                       clock_, ticks, flags, left.value / kSecond, left.value % kSecond, left.interval / kSecond,
                       left.interval % kSecond);
}

}  // namespace casemate::sentry
