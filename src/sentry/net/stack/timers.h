// TimerList: the deadlines of connections and tables, over one alarm. Re-arming for later is free: an entry that fires
// too early asks for the rest.
#pragma once

#include <functional>
#include <map>
#include <mutex>

#include "base/ref.h"
#include "sentry/kernel/clock.h"

namespace casemate::sentry::stack {

class TimerTarget : public RefCounted {
  public:
    // May come before the deadline that was last asked for; whoever still waits then arms again.
    virtual void timer_fired(Nanoseconds now) = 0;

  private:
    friend class TimerList;
    Nanoseconds armed_ = 0;  // guarded by TimerList::mutex_; 0: not
};

class TimerList {
  public:
    // `alarm` is asked to call run() at a time (CLOCK_MONOTONIC) or soon after; a later call replaces an earlier one.
    explicit TimerList(std::function<void(Nanoseconds)> alarm) : alarm_(std::move(alarm)) {}

    // Fires at `deadline` or earlier.
    void arm(TimerTarget& target, Nanoseconds deadline);
    void disarm(TimerTarget& target);
    void run(Nanoseconds now);
    Nanoseconds next();  // 0: none
    void clear();

  private:
    const std::function<void(Nanoseconds)> alarm_;
    std::mutex mutex_;
    std::multimap<Nanoseconds, Ref<TimerTarget>> entries_;  // guarded by mutex_
    Nanoseconds alarm_at_ = 0;                              // guarded by mutex_; 0: none asked for
};

}  // namespace casemate::sentry::stack
