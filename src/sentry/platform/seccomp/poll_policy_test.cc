#include "sentry/platform/seccomp/poll_policy.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace casemate::sentry::seccomp
