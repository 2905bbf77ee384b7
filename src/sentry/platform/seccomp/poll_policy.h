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

    // A call came the slow way. True: they come so fast that each should be looked for.
    bool call_came(int64_t now) {
        streak_ = now - last_ < kFast ? streak_ + 1 : 0;
        last_ = now;
        return streak_ >= kEnough && now >= not_before_;
    }
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
    int64_t last_ = 0, not_before_ = 0, penalty_ = kLeastPenalty;
    int streak_ = 0, refused_ = 0, good_ = 0;
};

// Whether there is a CPU to look from.
class PollBudget {
  public:
    static constexpr int64_t kIdle = 50'000;        // without a call: go to sleep
    static constexpr int64_t kContended = 100'000;  // between two looks: somebody else wants this CPU

    static constexpr int64_t kSlowWake = 500'000;  // until it ran after it was woken: the same

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

}  // namespace casemate::sentry::seccomp
