// The probes come to an end and say something on any host; what they say depends on it.
#include "host/check.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "host/probe_child.h"

namespace casemate::host {
namespace {

TEST(Check, every_lack_has_a_remedy) {
    for (const HostCheck& check : check_host()) {
        EXPECT_FALSE(check.name.empty());
        EXPECT_FALSE(check.found.empty()) << check.name;
        EXPECT_EQ(check.status == CheckStatus::kOk, check.remedy.empty()) << check.name;
        std::printf("    %-26s %s%s%s\n", check.title.c_str(), check.found.c_str(), check.remedy.empty() ? "" : " -> ",
                    check.remedy.c_str());
    }
}

TEST(Check, kvm_that_runs_has_a_speed) {
    KvmProbe probe = probe_kvm();
    if (!probe.present) GTEST_SKIP() << probe.failure;
    EXPECT_GT(probe.ring0_instructions_per_second, 10'000u);
}

TEST(Check, verdicts_follow_the_speed) {
    KvmProbe probe;
    probe.present = true;
    probe.ring0_instructions_per_second = 2'000'000;
    EXPECT_EQ(describe(probe).status, CheckStatus::kWarning);
    probe.ring0_instructions_per_second = 3'000'000'000;
    EXPECT_EQ(describe(probe).status, CheckStatus::kOk);
    probe = {};
    probe.failure = "open /dev/kvm: Permission denied";
    EXPECT_NE(describe(probe).remedy.find("group kvm"), std::string::npos);
}

TEST(Check, probes_that_hang_or_die_are_survived) {
    EXPECT_EQ(run_probe<int>(50, [] { return ::pause(); }).error().value, ETIMEDOUT);
    EXPECT_EQ(run_probe<int>(5000, []() -> int { ::_exit(3); }).error().value, ECHILD);
    EXPECT_EQ(*run_probe<int>(5000, [] { return 42; }), 42);
}

}  // namespace
}  // namespace casemate::host
