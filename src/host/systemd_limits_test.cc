// What systemd is told of a cgroup's limits, from files that imitate a v2 cgroup. With a real systemd: tests/lab.
#include "host/systemd_limits.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace casemate::host {
namespace {

class SystemdLimits : public testing::Test {
  protected:
    SystemdLimits() {
        char name[] = "/tmp/casemate-limits-XXXXXX";
        directory_ = ::mkdtemp(name);
        record_.paths.emplace("", directory_);
    }
    ~SystemdLimits() override { std::filesystem::remove_all(directory_); }
    void file(const std::string& name, const std::string& text) { std::ofstream(directory_ + "/" + name) << text; }
    std::map<std::string, uint64_t> numbers() {
        auto limits = systemd_limits(CgroupSettings(record_));
        return {limits.numbers.begin(), limits.numbers.end()};
    }

    std::string directory_;
    CgroupRecord record_;
};

TEST_F(SystemdLimits, are_what_the_files_say) {
    file("memory.max", "1048576\n");
    file("memory.low", "0\n");
    file("memory.swap.max", "max\n");
    file("pids.max", "278\n");
    file("cpu.weight", "39\n");
    file("cpu.idle", "0\n");
    file("cpu.max", "25000 50000\n");
    file("io.weight", "default 300\n8:0 200\n");
    file("cpuset.cpus", "0-2,8\n");
    file("cpuset.mems", "\n");
    std::map<std::string, uint64_t> expected = {{"MemoryMax", 1048576},
                                                {"MemoryLow", 0},
                                                {"MemorySwapMax", UINT64_MAX},
                                                {"TasksMax", 278},
                                                {"CPUWeight", 39},
                                                {"CPUQuotaPerSecUSec", 500000},
                                                {"CPUQuotaPeriodUSec", 50000},
                                                {"IOWeight", 300}};
    EXPECT_EQ(numbers(), expected);
    auto masks = systemd_limits(CgroupSettings(record_)).masks;
    ASSERT_EQ(masks.size(), 1u);
    EXPECT_EQ(masks[0], std::pair(std::string("AllowedCPUs"), std::string("\x07\x01", 2)));
}

TEST_F(SystemdLimits, leave_out_what_the_cgroup_lacks) { EXPECT_TRUE(numbers().empty()); }

TEST_F(SystemdLimits, round_a_quota_up_to_what_systemd_keeps) {
    file("cpu.max", "12345 100000\n");
    EXPECT_EQ(numbers()["CPUQuotaPerSecUSec"], 130000u);
    file("cpu.max", "max 100000\n");
    EXPECT_EQ(numbers()["CPUQuotaPerSecUSec"], UINT64_MAX);
}

TEST_F(SystemdLimits, call_an_idle_cgroup_so) {
    file("cpu.idle", "1\n");
    file("cpu.weight", "0\n");
    EXPECT_EQ(numbers()["CPUWeight"], 0u);
}

TEST(MaskOfList, takes_numbers_and_ranges) {
    EXPECT_EQ(mask_of_list(""), "");
    EXPECT_EQ(mask_of_list("1,3"), "\x0a");
    EXPECT_EQ(mask_of_list("7-8\n"), std::string("\x80\x01", 2));
    EXPECT_EQ(mask_of_list("nonsense,2"), "\x04");
    EXPECT_LE(mask_of_list("0-4294967295").size(), 8192u);
}

}  // namespace
}  // namespace casemate::host
