#include "sentry/boot/confine.h"

#include <gtest/gtest.h>

namespace casemate::sentry {
namespace {

TEST(Confine, TheListIsShortAndFits) {
    auto filter = sentry_filter();
    RecordProperty("syscalls", static_cast<int>(filter.syscall_count()));
    std::printf("the sentry's allow-list names %zu host syscalls\n", filter.syscall_count());
    EXPECT_LE(filter.syscall_count(), 80u);
    EXPECT_TRUE(filter.build().ok());
}

}  // namespace
}  // namespace casemate::sentry
