// When it pays that a thread looks for calls in shared memory (call_poller.h): plain arithmetic on nanoseconds of
// CLOCK_MONOTONIC, so that it can be tested without a clock.
#pragma once

#include <algorithm>
#include <cstdint>

namespace casemate::sentry::seccomp {

// The rhythm of one application thread's calls, and how many of them the poller could answer.
class CallRhythm {
  public:
    static constexpr int64_t kFast = 25'000;
    static constexpr int kEnough = 5;
    static constexpr int64_t kGap = 500'000;

    // A call came the slow way. True: they come so fast that each should be looked for. `crowd`: so many threads share
    // a CPU.
    bool call_came(int64_t now, int crowd = 1) {
        const int64_t pause = now - last_;
        streak_ = pause < kFast * crowd ? streak_ + 1 : 0;
        if (pause > kGap) steady_since_ = now;
        last_ = now;
        return streak_ >= kEnough && may_be_asked(now);
    }
    bool may_be_asked(int64_t now) const { return now >= not_before_; }
    // For how long there was no gap as another thread's slice would make.
    int64_t steady() const { return last_ - steady_since_; }
    // The poller was asked. True: it could help so seldom that it shall look elsewhere for a while.
    bool was_asked(bool answered, int64_t now) {
        if (answered) {
            refused_ = std::max(refused_ - 1, 0);
            if (++good_ >= 64) penalty_ = kLeastPenalty, good_ = 0;
            return false;
        }
        refused_ += 2;
        if (refused_ < 8) return false;
        refused_ = good_ = 0;
        not_before_ = now + penalty_;
        penalty_ = std::min(penalty_ * 2, kMostPenalty);
        return true;
    }

  private:
    static constexpr int64_t kLeastPenalty = 1'000'000, kMostPenalty = 200'000'000;
    int64_t last_ = 0, steady_since_ = 0, not_before_ = 0, penalty_ = kLeastPenalty;
    int streak_ = 0, refused_ = 0, good_ = 0;
};

// How often the application of a parked call gives its CPU away before it sleeps. Where the answer is given by another
// CPU, and soon, it need not be woken then. As somebody may take the CPU and keep it, and the answer may come late,
// that is tried only as long as it is of use.
class ParkPatience {
  public:
    static constexpr int kYields = 20;

    int yields(int64_t now) const { return now >= not_before_ ? kYields : 0; }
    // An answer came. `slept`: the application slept by then, though it could have yielded.
    void answered(bool slept, int64_t now) {
        if (!slept) {
            in_vain_ = 0;
            if (++good_ >= kProven) pause_ = kLeastPause;
        } else if (++in_vain_ >= kInVain) {
            rest(now);
        }
    }
    // An answer was there, but the CPU for long not.
    void late(int64_t now) { rest(now); }

  private:
    static constexpr int kInVain = 4, kProven = 200;
    static constexpr int64_t kLeastPause = 2'000'000, kMostPause = 500'000'000;
    void rest(int64_t now) {
        not_before_ = now + pause_;
        pause_ = std::min(pause_ * 2, kMostPause);
        in_vain_ = good_ = 0;
    }
    int64_t not_before_ = 0, pause_ = kLeastPause;
    int in_vain_ = 0, good_ = 0;
};

// Whether there is a CPU to look from.
class PollBudget {
  public:
    static constexpr int64_t kIdle = 50'000;         // without a call: go to sleep
    static constexpr int64_t kSharedIdle = 200'000;  // the same where a CPU was taken: to begin again costs more
    static constexpr int64_t kSharedContended = 1'000'000;
    static constexpr int64_t kContended = 100'000;  // between two looks: somebody else wants this CPU

    static constexpr int64_t kSlowWake = 500'000;  // until it ran after it was woken: the same
    // Where an application of the pod's has to leave first.
    static constexpr int64_t kSlowSharedWake = 3'000'000;

    // `others`: application threads that run, but for the caller's.
    bool may_wake(int64_t now, int others, int cpus) const { return now >= not_before_ && others + 2 <= cpus; }
    // The poller goes to sleep after having answered `calls`; `contended`: because it has, or had, no CPU of its own.
    // What was no use is tried again later and later.
    void ended(int64_t now, uint64_t calls, bool contended) {
        if (calls >= kUseful) pause_ = kLeastPause;
        if (!contended && calls > 0) return;
        not_before_ = now + pause_;
        pause_ = std::min(pause_ * 2, kMostPause);
    }

  private:
    static constexpr int64_t kLeastPause = 4'000'000, kMostPause = 200'000'000;
    static constexpr uint64_t kUseful = 200;
    int64_t not_before_ = 0, pause_ = kLeastPause;
};

// Whether it pays to take a CPU from running applications, which then share the others: when nearly all they do is to
// make calls, a call in shared memory is so much cheaper that they get further on half of the CPUs. That is measured:
// the rate of calls without the poller, and with it, again and again.
class SharedCpuTrial {
  public:
    static constexpr int64_t kWindow = 1'000'000;      // of a measurement without the poller, at least
    static constexpr int64_t kLongWindow = 8'000'000;  // and at most
    static constexpr int64_t kStep = 2'000'000;        // of one with it
    static constexpr int64_t kTrust = 500'000'000;     // how long a measurement without it is believed
    static constexpr int64_t kLeastRate = 40;          // calls a millisecond: below, calls are not what takes the time
    static constexpr int64_t kMillisecond = 1'000'000;

    // There is no idle CPU. `calls`: all that could be answered by the poller, ever. True: it shall be tried.
    bool may_start(int64_t now, uint64_t calls) {
        if (now < not_before_) {
            window_ = 0;
            return false;
        }
        if (now < trusted_until_) return true;
        const int64_t elapsed = now - window_;
        if (window_ == 0 || elapsed > kLongWindow) {
            window_ = now;
            calls_ = calls;
            return false;
        }
        if (elapsed < kWindow) return false;
        const int64_t rate = rate_of(calls - calls_, elapsed);
        window_ = 0;
        if (rate < kLeastRate) return false;
        needed_ = rate + rate / 8;
        trusted_until_ = now + kTrust;
        return true;
    }
    void started(int64_t now, uint64_t calls) {
        window_ = now;
        calls_ = calls;
    }
    // While the poller looks. `callers` of the `running` application threads made calls since the last step. False: it
    // shall stop.
    bool goes_well(int64_t now, uint64_t calls, int callers, int running) {
        const int64_t elapsed = now - window_;
        judge(rate_of(calls - calls_, elapsed) >= needed_ && callers >= running);
        started(now, calls);
        return well() && now < trusted_until_;
    }
    bool step_is_over(int64_t now) const { return now - window_ >= kStep; }
    // `pushed_out`: the CPU was not to be had. Otherwise there were no calls for a while, or it went badly.
    void ended(int64_t now, uint64_t calls, bool pushed_out) {
        if (window_ != 0 && now > window_ && well()) judge(rate_of(calls - calls_, now - window_) >= needed_);
        window_ = 0;
        if (well() && !pushed_out) return;
        bad_steps_ = 0;
        trusted_until_ = 0;
        not_before_ = now + pause_;
        pause_ = std::min(pause_ * 2, kMostPause);
    }

  private:
    static constexpr int64_t kLeastPause = 10'000'000, kMostPause = 1'000'000'000;
    static int64_t rate_of(uint64_t calls, int64_t elapsed) {
        return static_cast<int64_t>(calls) * kMillisecond / std::max<int64_t>(elapsed, 1);
    }
    int64_t window_ = 0, needed_ = 0, trusted_until_ = 0, not_before_ = 0, pause_ = kLeastPause;
    uint64_t calls_ = 0;
    static constexpr int kBadSteps = 2;  // one may be chance
    void judge(bool well) {
        bad_steps_ = well ? 0 : bad_steps_ + 1;
        if (well) pause_ = kLeastPause;
    }
    bool well() const { return bad_steps_ < kBadSteps; }
    int bad_steps_ = 0;
};

}  // namespace casemate::sentry::seccomp
