#include "sentry/platform/seccomp/yield_policy.h"

#include <gtest/gtest.h>

namespace casemate::sentry::seccomp {
namespace {

using Next = YieldSession::Next;

TEST(YieldBudgetTest, BeginsAfterLongSteadyCallsOnly) {
    YieldBudget budget;
    EXPECT_FALSE(budget.may_begin(1'000'000'000, YieldBudget::kSteady - 1));
    EXPECT_TRUE(budget.may_begin(1'000'000'000, YieldBudget::kSteady));
}

TEST(YieldBudgetTest, WhatWentWellMayBeginAgainAtOnce) {
    YieldBudget budget;
    budget.ended(1'000'000'000, 1000, false);
    EXPECT_TRUE(budget.may_begin(1'000'000'001, 0));
    budget.ended(1'000'000'002, 0, false);
    EXPECT_FALSE(budget.may_begin(1'000'000'003, YieldBudget::kSteady));
}

TEST(YieldBudgetTest, WhoWasDisturbedStaysAwayLongerAndLonger) {
    YieldBudget budget;
    int64_t now = 1'000'000'000, last = 0;
    for (int round = 0; round < 10; ++round) {
        budget.ended(now, 20, true);
        EXPECT_FALSE(budget.may_begin(now + 1'000'000, YieldBudget::kSteady));
        int64_t pause = 0;
        while (!budget.may_begin(now + pause, YieldBudget::kSteady)) pause += 1'000'000;
        EXPECT_FALSE(budget.may_begin(now + pause, 0));  // has to prove itself
        EXPECT_GE(pause, last);
        EXPECT_LE(pause, 250'000'000);
        last = pause;
        now += pause;
    }
    EXPECT_GE(last, 100'000'000);
}

TEST(YieldSessionTest, EndsAtAGapThatNobodyPaidFor) {
    YieldSession session;
    EXPECT_EQ(session.looked(0, YieldSession::kGap + 1), Next::kDisturbed);
    YieldSession another;
    for (int i = 0; i < 3; ++i) EXPECT_EQ(another.looked(1, 2000), Next::kGoOn);
    EXPECT_EQ(another.looked(1, YieldSession::kGap + 1), Next::kDisturbed);
}

TEST(YieldSessionTest, GoesOnAfterAGapThatManyCallsPaidFor) {
    YieldSession session;
    for (int round = 0; round < 10; ++round) {
        for (int i = 0; i < 150; ++i) EXPECT_EQ(session.looked(1, 2000), Next::kGoOn);
        EXPECT_EQ(session.looked(1, 2'000'000), Next::kGoOn);
    }
    EXPECT_EQ(session.looked(1, 2'000'000), Next::kDisturbed);
}

TEST(YieldSessionTest, SleepsSoonWithoutCalls) {
    YieldSession session;
    for (int i = 0; i < 100; ++i) EXPECT_EQ(session.looked(2, 2000), Next::kGoOn);
    int looks = 0;
    while (session.looked(0, 500) == Next::kGoOn) ASSERT_LT(++looks, 20);
    EXPECT_GT(looks, 4);
}

}  // namespace
}  // namespace casemate::sentry::seccomp
