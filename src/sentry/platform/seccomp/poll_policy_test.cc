#include "sentry/platform/seccomp/poll_policy.h"

#include <gtest/gtest.h>

#include <optional>

namespace casemate::sentry::seccomp {
namespace {

TEST(CallRhythmTest, FastCallsAreNoticedAndSlowOnesNot) {
    CallRhythm fast;
    int64_t now = 1'000'000'000;
    EXPECT_FALSE(fast.call_came(now));
    for (int i = 1; i < CallRhythm::kEnough; ++i) EXPECT_FALSE(fast.call_came(now += CallRhythm::kFast - 1));
    EXPECT_TRUE(fast.call_came(now += CallRhythm::kFast - 1));
    EXPECT_FALSE(fast.call_came(now += CallRhythm::kFast));  // a pause: from the beginning
    CallRhythm slow;
    for (int i = 0; i < 100; ++i) EXPECT_FALSE(slow.call_came(now += CallRhythm::kFast));
}

TEST(CallRhythmTest, ManyThreadsOnACpuHaveMoreTime) {
    CallRhythm rhythm;
    int64_t now = 1'000'000'000;
    for (int i = 0; i < CallRhythm::kEnough; ++i) EXPECT_FALSE(rhythm.call_came(now += CallRhythm::kFast + 1, 1));
    for (int i = 1; i < CallRhythm::kEnough; ++i) EXPECT_FALSE(rhythm.call_came(now += CallRhythm::kFast + 1, 2));
    EXPECT_TRUE(rhythm.call_came(now += CallRhythm::kFast + 1, 2));
}

TEST(CallRhythmTest, OnlyAGapAsOfAnotherThreadsSliceEndsSteadiness) {
    CallRhythm rhythm;
    int64_t now = 1'000'000'000;
    rhythm.call_came(now);
    EXPECT_EQ(rhythm.steady(), 0);
    for (int i = 0; i < 100; ++i) rhythm.call_came(now += 100'000);
    EXPECT_EQ(rhythm.steady(), 10'000'000);
    rhythm.call_came(now += CallRhythm::kGap + 1);
    EXPECT_EQ(rhythm.steady(), 0);
}

TEST(CallRhythmTest, WhoIsMostlyRefusedIsLeftAloneLongerAndLonger) {
    CallRhythm rhythm;
    int64_t now = 1'000'000'000;
    auto fast_again_after = [&]() {
        const int64_t start = now;
        while (!rhythm.call_came(now += 10'000)) {
        }
        return now - start;
    };
    fast_again_after();
    int64_t last = 0;
    for (int round = 0; round < 5; ++round) {
        int asked = 1;
        while (!rhythm.was_asked(false, now)) ASSERT_LT(++asked, 100);
        const int64_t pause = fast_again_after();
        EXPECT_GT(pause, last);
        last = pause;
    }
    // One refusal among many answers is no reason to stop.
    for (int i = 0; i < 1000; ++i) EXPECT_FALSE(rhythm.was_asked(i % 4 != 0, now));
}

TEST(PollBudgetTest, NeedsACpuBesidesThoseThatRun) {
    PollBudget budget;
    EXPECT_FALSE(budget.may_wake(0, 0, 1));
    EXPECT_TRUE(budget.may_wake(0, 0, 2));
    EXPECT_FALSE(budget.may_wake(0, 1, 2));
    EXPECT_TRUE(budget.may_wake(0, 1, 3));
}

TEST(PollBudgetTest, WhatWasNoUseIsTriedLaterAndLater) {
    PollBudget budget;
    int64_t now = 1'000'000'000, last = 0;
    for (int round = 0; round < 10; ++round) {
        budget.ended(now, 0, round % 2 == 0);
        int64_t pause = 0;
        while (!budget.may_wake(now + pause, 0, 2)) pause += 1'000'000;
        EXPECT_GE(pause, last);
        EXPECT_LE(pause, 250'000'000);
        last = pause;
        now += pause;
    }
    EXPECT_GE(last, 100'000'000);
    // Sleeping for want of calls is no failure; and one good session makes good.
    budget.ended(now, 1000, false);
    EXPECT_TRUE(budget.may_wake(now, 0, 2));
    budget.ended(now, 0, true);
    EXPECT_TRUE(budget.may_wake(now + 5'000'000, 0, 2));
}

class SharedCpuTrialTest : public testing::Test {
  protected:
    static constexpr int64_t kMillisecond = SharedCpuTrial::kMillisecond;
    // Calls at a rate until the trial shall start; how long that took, or nothing within `limit`.
    std::optional<int64_t> wait_for_start(uint64_t rate, int64_t limit = 10'000 * kMillisecond) {
        const int64_t begun = now_;
        while (now_ - begun < limit) {
            if (trial_.may_start(now_, calls_)) {
                trial_.started(now_, calls_);
                return now_ - begun;
            }
            pass(rate, kMillisecond / 10);
        }
        return std::nullopt;
    }
    void pass(uint64_t rate, int64_t time) {
        now_ += time;
        calls_ += rate * static_cast<uint64_t>(time) / kMillisecond;
    }
    // One step with the poller.
    bool step(uint64_t rate, int callers = 2, int running = 2) {
        pass(rate, SharedCpuTrial::kStep);
        EXPECT_TRUE(trial_.step_is_over(now_));
        return trial_.goes_well(now_, calls_, callers, running);
    }
    SharedCpuTrial trial_;
    int64_t now_ = 1'000'000'000;
    uint64_t calls_ = 0;
};

TEST_F(SharedCpuTrialTest, StartsWhereCallsAreManyAfterAMeasurement) {
    EXPECT_FALSE(wait_for_start(20));
    auto waited = wait_for_start(100);
    ASSERT_TRUE(waited);
    EXPECT_GE(*waited, SharedCpuTrial::kWindow);
    EXPECT_LE(*waited, SharedCpuTrial::kLongWindow + SharedCpuTrial::kWindow);
}

TEST_F(SharedCpuTrialTest, GoesOnWhileItPaysAndIsMeasuredAgain) {
    ASSERT_TRUE(wait_for_start(100));
    int64_t begun = now_;
    while (step(200)) ASSERT_LT(now_ - begun, 2 * SharedCpuTrial::kTrust);
    EXPECT_GE(now_ - begun, SharedCpuTrial::kTrust / 2);
    trial_.ended(now_, calls_, false);
    // It did pay: nothing but the measurement comes before the next.
    auto waited = wait_for_start(100);
    ASSERT_TRUE(waited);
    EXPECT_LE(*waited, 2 * SharedCpuTrial::kWindow);
    // After a pause without calls it goes on at once.
    EXPECT_TRUE(step(200));
    trial_.ended(now_, calls_, false);
    pass(0, 10 * kMillisecond);
    EXPECT_EQ(wait_for_start(100), 0);
}

TEST_F(SharedCpuTrialTest, WhatDoesNotPayIsTriedLaterAndLater) {
    int64_t last = 0;
    for (int round = 0; round < 6; ++round) {
        auto waited = wait_for_start(100);
        ASSERT_TRUE(waited);
        EXPECT_GT(*waited, last);
        last = *waited;
        EXPECT_TRUE(step(105));  // once may be chance
        EXPECT_FALSE(step(105));
        trial_.ended(now_, calls_, false);
    }
    EXPECT_GE(last, 100 * kMillisecond);
    // Nor when somebody else wanted the CPU, or an application did something else than to call.
    ASSERT_TRUE(wait_for_start(100));
    EXPECT_TRUE(step(300));
    trial_.ended(now_, calls_, true);
    auto waited = wait_for_start(100);
    ASSERT_TRUE(waited);
    EXPECT_GE(*waited, 10 * kMillisecond);
    EXPECT_TRUE(step(300, 1, 2));
    EXPECT_FALSE(step(300, 1, 2));
}

// A session that ends before its first step for want of calls is judged all the same.
TEST_F(SharedCpuTrialTest, ShortSessionsThatDoNotPayAreNotRepeated) {
    ASSERT_TRUE(wait_for_start(100));
    pass(30, SharedCpuTrial::kStep / 4);
    trial_.ended(now_, calls_, false);
    EXPECT_EQ(wait_for_start(100), 0);
    pass(30, SharedCpuTrial::kStep / 4);
    trial_.ended(now_, calls_, false);
    auto waited = wait_for_start(100);
    ASSERT_TRUE(waited);
    EXPECT_GE(*waited, 10 * kMillisecond);
}

}  // namespace
TEST(ParkPatience, yields_as_long_as_it_is_of_use) {
    ParkPatience patience;
    int64_t now = 1'000'000'000;
    for (int i = 0; i <= 1000; ++i) {
        EXPECT_EQ(patience.yields(now), ParkPatience::kYields);
        patience.answered(i % 3 == 0, now += 10'000);
    }
    // In vain, several times one after the other.
    for (int i = 0; i < 4; ++i) {
        EXPECT_NE(patience.yields(now), 0);
        patience.answered(true, now);
    }
    EXPECT_EQ(patience.yields(now), 0);
    EXPECT_NE(patience.yields(now + 2'000'000), 0);
}

TEST(ParkPatience, stays_away_longer_and_longer_where_somebody_takes_the_cpu) {
    ParkPatience patience;
    int64_t now = 1'000'000'000, tried = 0;
    for (; now < 11'000'000'000; now += 100'000) {
        if (patience.yields(now) == 0) continue;
        ++tried;
        patience.late(now);
    }
    EXPECT_LT(tried, 40);
    // And comes back when that is over.
    now += 500'000'000;
    for (int i = 0; i < 200; ++i) patience.answered(false, 0);
    patience.late(now);
    EXPECT_NE(patience.yields(now + 2'000'000), 0);
}

}  // namespace casemate::sentry::seccomp
