// When it pays that the poller (call_poller.h) shares a CPU with the applications whose calls it answers, and both give
// it to each other by sched_yield: two switches between running threads are half the price of two that sleep and wake.
// But who gives away its CPU gives it to anybody: beside a thread that only computes, each time costs that one's whole
// slice. So it begins only after calls followed each other for longer than a slice without a gap, and ends at the first
// gap that not many calls have paid for.
//
// Plain arithmetic on nanoseconds of CLOCK_MONOTONIC.
#pragma once

#include <algorithm>
#include <cstdint>

namespace casemate::sentry::seccomp {

// Whether to begin.
class YieldBudget {
  public:
    static constexpr int64_t kSteady = 10'000'000;  // longer than two slices

    // `steady`: so long a thread's calls have followed each other without a gap.
    bool may_begin(int64_t now, int64_t steady) const { return now >= not_before_ && (proven_ || steady >= kSteady); }
    // `disturbed`: somebody else wanted this CPU.
    void ended(int64_t now, uint64_t calls, bool disturbed) {
        proven_ = !disturbed && calls >= kUseful;
        if (calls >= kPaid) pause_ = kLeastPause;
        if (!disturbed && calls >= kUseful) return;
        not_before_ = now + pause_;
        pause_ = std::min(pause_ * 2, kMostPause);
    }

  private:
    static constexpr int64_t kLeastPause = 4'000'000, kMostPause = 200'000'000;
    static constexpr uint64_t kUseful = 16, kPaid = 2000;
    int64_t not_before_ = 0, pause_ = kLeastPause;
    bool proven_ = false;
};

// One time of it: told what each look found, it says when to end.
class YieldSession {
  public:
    static constexpr int64_t kGap = 200'000;

    enum class Next { kGoOn, kIdle, kDisturbed };
    // `calls` were found, after the CPU had been given away for `away`.
    Next looked(int calls, int64_t away) {
        if (away > kGap) {
            if (calls_since_gap_ < kPaysForGap) return Next::kDisturbed;
            calls_since_gap_ = 0;
        }
        if (calls == 0) return --patience_ <= 0 ? Next::kIdle : Next::kGoOn;
        patience_ = std::min(patience_ + 2 * calls, kPatience);
        calls_since_gap_ += calls;
        return Next::kGoOn;
    }

  private:
    static constexpr int kPatience = 12;
    static constexpr int kPaysForGap = 100;
    int patience_ = kPatience;
    int64_t calls_since_gap_ = 0;
};

}  // namespace casemate::sentry::seccomp
