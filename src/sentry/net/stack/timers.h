// TimerList: the deadlines of connections and tables, over one alarm. Re-arming for later is free: an entry that fires
// too early asks for the rest. A heap in one piece of memory, 16 bytes an entry, because there may be thousands.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/clock.h"

namespace casemate::sentry::stack {

class TimerTarget : public RefCounted {
  public:
    // May come before the deadline that was last asked for; whoever still waits then arms again.
    virtual void timer_fired(Nanoseconds now) = 0;

  private:
    friend class TimerList;
    static constexpr uint32_t kNowhere = ~uint32_t{0};
    uint32_t place_ = kNowhere;  // in the heap; guarded by TimerList::mutex_
};

class TimerList {
  public:
    // `alarm` is asked to call run() at a time (CLOCK_MONOTONIC) or soon after; a later call replaces an earlier one.
    // It is asked with the list's lock, so that of two deadlines the earlier one stays.
    explicit TimerList(std::function<void(Nanoseconds)> alarm) : alarm_(std::move(alarm)) {}

    // Fires at `deadline` or earlier.
    void arm(TimerTarget& target, Nanoseconds deadline);
    void disarm(TimerTarget& target);
    void run(Nanoseconds now);
    Nanoseconds next();  // 0: none
    void clear();
    size_t size();
    size_t room();  // for how many it has memory

  private:
    struct Entry {
        Nanoseconds deadline;
        Ref<TimerTarget> target;
    };
    void put_locked(size_t place, Entry entry);
    void rise_locked(size_t place);
    void sink_locked(size_t place);
    Ref<TimerTarget> take_locked(size_t place);

    const std::function<void(Nanoseconds)> alarm_;
    std::mutex mutex_;
    std::vector<Entry> heap_;   // guarded by mutex_; no entry is before the one at (place - 1) / 2
    Nanoseconds alarm_at_ = 0;  // guarded by mutex_; 0: none asked for
};

}  // namespace casemate::sentry::stack
