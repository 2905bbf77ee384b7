#include "sentry/kernel/clone_rhythm.h"

#include <gtest/gtest.h>

namespace casemate::sentry {
namespace {

constexpr Nanoseconds kMicrosecond = 1000;

TEST(CloneRhythm, WhoWaitsAtOnceGoesOnDoingSo) {
    CloneRhythm rhythm;
    EXPECT_TRUE(rhythm.waits_soon());
    for (int i = 0; i < 5; ++i) {
        rhythm.cloned(i * 1000 * kMicrosecond);
        EXPECT_TRUE(rhythm.undecided());
        rhythm.sleeps((i * 1000 + 100) * kMicrosecond);
        EXPECT_FALSE(rhythm.undecided());
    }
    EXPECT_TRUE(rhythm.waits_soon());
    rhythm.cloned(0);
    rhythm.sleeps(10'000 * kMicrosecond);
    EXPECT_TRUE(rhythm.waits_soon());  // once is not a habit
}

TEST(CloneRhythm, WhoMakesManyOrWorksOnDoesNot) {
    CloneRhythm many;
    for (int i = 0; i < 3; ++i) many.cloned(i * kMicrosecond);
    EXPECT_FALSE(many.waits_soon());
    CloneRhythm busy;
    busy.cloned(0);
    busy.sleeps(5'000 * kMicrosecond);
    EXPECT_FALSE(busy.waits_soon());
    busy.sleeps(6'000 * kMicrosecond);  // sleeps that follow no clone say nothing
    for (int i = 0; i < 2; ++i) {
        busy.cloned(i * 1000 * kMicrosecond);
        busy.sleeps((i * 1000 + 10) * kMicrosecond);
    }
    EXPECT_TRUE(busy.waits_soon());
}

}  // namespace
}  // namespace casemate::sentry
