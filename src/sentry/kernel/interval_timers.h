// setitimer(2) and alarm(2): the three interval timers of a process. ITIMER_VIRTUAL and ITIMER_PROF look at CPU time,
// which is the host's to count: they are checked when they could have expired at the earliest.
#pragma once

#include <sys/time.h>

#include <array>
#include <mutex>

#include "base/result.h"
#include "sentry/kernel/timers.h"

namespace casemate::sentry {

class Process;

class IntervalTimers {
  public:
    explicit IntervalTimers(Process& process);
    ~IntervalTimers();

    struct Setting {
        Nanoseconds remaining = 0, interval = 0;
    };
    Setting get(int which);
    // The old setting. remaining 0 stops it.
    Setting set(int which, Setting now);
    void stop_all();
    // RLIMIT_CPU changed (or came with a fork).
    void watch_cpu_limit();

  private:
    class One final : public Timer {
      public:
        IntervalTimers* owner = nullptr;
        int which = 0;
        Nanoseconds due = 0;  // on its own clock; 0: off; guarded by owner->mutex_
        Nanoseconds interval = 0;
        void expired() override;
    };
    class CpuLimit final : public Timer {
      public:
        IntervalTimers* owner = nullptr;
        bool armed = false;          // guarded by owner->mutex_
        uint64_t warned_second = 0;  // SIGXCPU was sent for it
        void expired() override;
    };
    Nanoseconds now(int which) const;
    void arm_locked(One& timer);

    Process& process_;
    std::mutex mutex_;
    std::array<One, 3> timers_;
    CpuLimit cpu_limit_;
};

}  // namespace casemate::sentry
