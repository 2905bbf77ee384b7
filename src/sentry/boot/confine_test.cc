#include "sentry/boot/confine.h"

#include <gtest/gtest.h>

namespace casemate::sentry {
namespace {

TEST(Confine, TheListIsShortAndFits) {
    auto filter = sentry_filter();
    RecordProperty("syscalls", static_cast<int>(filter.allowed_count()));
    std::printf("the sentry may make %zu host syscalls\n", filter.allowed_count());
    EXPECT_LE(filter.allowed_count(), 60u);
    EXPECT_TRUE(filter.build().ok());
}

}  // namespace
}  // namespace casemate::sentry
