// TimerThread: one thread that fires all timers of the pod (interval timers, POSIX timers, timerfd). It sleeps until
// the next deadline; without timers it burns nothing. Plain sleeping does not need it (Task::wait_on has a deadline).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>

#include "sentry/kernel/clock.h"

namespace casemate::sentry {

class TimerThread;

// Derive and keep it alive until cancel() has returned.
class Timer {
  public:
    Timer() = default;
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

  protected:
    ~Timer() = default;
    // The deadline has passed. Runs on the timer thread without its lock; may arm the timer again. The return value of
    // arm()/cancel() races are resolved by the timer's own lock and state.
    virtual void expired() = 0;

  private:
    friend class TimerThread;
    Nanoseconds deadline_ = 0;
    bool armed_ = false;  // guarded by TimerThread::mutex_
};

class TimerThread {
  public:
    TimerThread();
    ~TimerThread();

    // Fires `timer` once at `deadline` (CLOCK_MONOTONIC), instead of when it was armed for before.
    void arm(Timer& timer, Nanoseconds deadline);
    // Afterwards the timer neither fires nor is firing (unless called from its own expired()). Must not be called with
    // a lock that expired() takes.
    void cancel(Timer& timer);
    // The same without waiting for a present expired().
    void disarm(Timer& timer);

  private:
    void run();
    struct Order {
        bool operator()(const Timer* a, const Timer* b) const;
    };
    std::mutex mutex_;
    std::set<Timer*, Order> timers_;    // guarded by mutex_
    Timer* firing_ = nullptr;           // guarded by mutex_
    bool stop_ = false;                 // guarded by mutex_
    std::atomic<uint32_t> changed_{0};  // futex: the earliest deadline changed
    std::condition_variable fired_;
    std::thread thread_;
};

}  // namespace casemate::sentry
