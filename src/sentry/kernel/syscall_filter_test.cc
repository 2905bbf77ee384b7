#include "sentry/kernel/syscall_filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <sys/syscall.h>

#include "oci/config_parser.h"
#include "sentry/boot/seccomp_profile.h"

namespace casemate::sentry {
namespace {

uint32_t judged(const SyscallFilter& filter, int number, std::initializer_list<uint64_t> args = {}) {
    seccomp_data data{};
    data.nr = number;
    data.arch = AUDIT_ARCH_X86_64;
    size_t i = 0;
    for (uint64_t one : args) data.args[i++] = one;
    return filter.judge(data).value;
}

Ref<SyscallFilter> compile(const std::string& json) {
    std::string text = R"({"ociVersion":"1.0.2","root":{"path":"/"},"linux":{"seccomp":)" + json + "}}";
    auto spec = oci::parse_config(text);
    EXPECT_TRUE(spec.ok()) << (spec.ok() ? "" : spec.error().message());
    if (!spec.ok()) return nullptr;
    auto made = compile_profile(*spec->linux.seccomp);
    EXPECT_TRUE(made.ok()) << (made.ok() ? "" : made.error().message());
    return made.ok() ? made.take_value() : nullptr;
}

constexpr uint32_t kAllow = SECCOMP_RET_ALLOW;
constexpr uint32_t fails(uint32_t error) { return SECCOMP_RET_ERRNO | error; }

TEST(SeccompProfile, DefaultsAndNames) {
    auto filter = compile(R"({"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
        {"names":["read","write","no_such_call_anywhere"],"action":"SCMP_ACT_ALLOW"},
        {"names":["mount"],"action":"SCMP_ACT_ERRNO"},
        {"names":["ptrace"],"action":"SCMP_ACT_KILL_PROCESS"},
        {"names":["chroot"],"action":"SCMP_ACT_TRAP"},
        {"names":["getpid"],"action":"SCMP_ACT_LOG"},
        {"names":["umask"],"action":"SCMP_ACT_KILL"},
        {"names":["setsid"],"action":"SCMP_ACT_TRACE","errnoRet":77}]})");
    ASSERT_TRUE(filter);
    EXPECT_EQ(judged(*filter, SYS_read), kAllow);
    EXPECT_EQ(judged(*filter, SYS_open), fails(38));
    EXPECT_EQ(judged(*filter, SYS_mount), fails(EPERM));
    EXPECT_EQ(judged(*filter, SYS_ptrace), uint32_t{SECCOMP_RET_KILL_PROCESS});
    EXPECT_EQ(judged(*filter, SYS_chroot), uint32_t{SECCOMP_RET_TRAP});
    EXPECT_EQ(judged(*filter, SYS_getpid), uint32_t{SECCOMP_RET_LOG});
    EXPECT_EQ(judged(*filter, SYS_umask), uint32_t{SECCOMP_RET_KILL_THREAD});
    EXPECT_EQ(judged(*filter, SYS_setsid), SECCOMP_RET_TRACE | 77u);
    EXPECT_EQ(judged(*filter, 0x40000000 | SYS_read), fails(38)) << "x32";
}

TEST(SeccompProfile, ConditionsOnArguments) {
    auto filter = compile(R"({"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8589934593,"op":"SCMP_CMP_EQ"}]},
        {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[{"index":5,"value":5,"op":"SCMP_CMP_NE"}]},
        {"names":["open"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_LT"}]},
        {"names":["close"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_LE"}]},
        {"names":["stat"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_GE"}]},
        {"names":["poll"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":4294967296,"op":"SCMP_CMP_GT"}]},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
        {"names":["mmap"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_GE"}]},
        {"names":["lseek"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_LT"}]}]})");
    ASSERT_TRUE(filter);
    constexpr uint64_t kBig = uint64_t{1} << 32;
    EXPECT_EQ(judged(*filter, SYS_read, {2 * kBig + 1}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_read, {1}), fails(EPERM));
    EXPECT_EQ(judged(*filter, SYS_write, {0, 0, 0, 0, 0, 5}), fails(EPERM));
    EXPECT_EQ(judged(*filter, SYS_write, {0, 0, 0, 0, 0, kBig + 5}), kAllow);
    struct Row {
        int number;
        bool below, equal, above;
    } rows[] = {{SYS_open, true, false, false},
                {SYS_close, true, true, false},
                {SYS_stat, false, true, true},
                {SYS_poll, false, false, true}};
    for (const Row& row : rows) {
        EXPECT_EQ(judged(*filter, row.number, {0, kBig - 1}) == kAllow, row.below) << row.number;
        EXPECT_EQ(judged(*filter, row.number, {0, kBig}) == kAllow, row.equal) << row.number;
        EXPECT_EQ(judged(*filter, row.number, {0, kBig + 1}) == kAllow, row.above) << row.number;
        EXPECT_EQ(judged(*filter, row.number, {0, 0}) == kAllow, row.below) << row.number;
        EXPECT_EQ(judged(*filter, row.number, {0, ~uint64_t{0}}) == kAllow, row.above) << row.number;
    }
    EXPECT_EQ(judged(*filter, SYS_clone, {0x11}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_clone, {0x10000011}), fails(EPERM));
    EXPECT_EQ(judged(*filter, SYS_mmap, {0}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_lseek, {0}), fails(EPERM));
}

// As in Podman's profile: what is asked for is refused in another way than the rest.
TEST(SeccompProfile, SeveralRulesForOneCall) {
    auto filter = compile(R"({"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":22,"args":[
            {"index":0,"value":16,"op":"SCMP_CMP_EQ"},{"index":2,"value":9,"op":"SCMP_CMP_EQ"}]},
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":9,"op":"SCMP_CMP_NE"}]},
        {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":16,"op":"SCMP_CMP_NE"}]},
        {"names":["umask"],"action":"SCMP_ACT_ALLOW"},
        {"names":["umask"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[
            {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]}]})");
    ASSERT_TRUE(filter);
    EXPECT_EQ(judged(*filter, SYS_socket, {16, 3, 9}), fails(22));
    EXPECT_EQ(judged(*filter, SYS_socket, {16, 3, 0}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_socket, {2, 1, 9}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_umask, {1}), fails(EPERM));
    EXPECT_EQ(judged(*filter, SYS_umask, {2}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_personality, {1}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_personality, {2}), kAllow);
    EXPECT_EQ(judged(*filter, SYS_personality, {3}), fails(38));
}

TEST(SyscallFilter, RemembersWhatIsAlwaysAllowed) {
    auto filter = compile(R"({"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
        {"names":["open"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":0,"op":"SCMP_CMP_EQ"}]},
        {"names":["getpid"],"action":"SCMP_ACT_LOG"}]})");
    ASSERT_TRUE(filter);
    EXPECT_TRUE(filter->always_allows(SYS_read));
    EXPECT_TRUE(filter->always_allows(SYS_write));
    EXPECT_FALSE(filter->always_allows(SYS_open)) << "depends on an argument";
    EXPECT_FALSE(filter->always_allows(SYS_getpid)) << "is to be logged";
    EXPECT_FALSE(filter->always_allows(SYS_close));
    EXPECT_FALSE(filter->always_allows(100000));
    EXPECT_FALSE(filter->always_allows(~uint64_t{0}));
    // A filter on top takes away, never adds.
    std::vector<sock_filter> no_read = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    auto above = SyscallFilter::create(no_read, {}, filter);
    ASSERT_TRUE(above.ok());
    EXPECT_FALSE((*above)->always_allows(SYS_read));
    EXPECT_TRUE((*above)->always_allows(SYS_write));
    EXPECT_FALSE((*above)->always_allows(SYS_close));
    EXPECT_EQ(judged(**above, SYS_read), uint32_t{SECCOMP_RET_TRAP});
    EXPECT_EQ(judged(**above, SYS_close), fails(EPERM)) << "the filter below still counts";
    EXPECT_TRUE((*above)->is_or_above(filter.get()));
    EXPECT_FALSE(filter->is_or_above(above->get()));
}

TEST(SyscallFilter, LongChainsEndWithoutRecursion) {
    std::vector<sock_filter> allow = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    Ref<SyscallFilter> top;
    size_t made = 0;
    while (true) {
        auto next = SyscallFilter::create(allow, {}, top);
        if (!next.ok()) break;
        top = next.take_value();
        ++made;
    }
    EXPECT_GT(made, 5000u);
    EXPECT_EQ(top->depth(), made);
    EXPECT_EQ(judged(*top, SYS_read), kAllow);
}

// Any bytes that pass the check run to their end.
TEST(ClassicBpf, WhateverPassesTheCheckEnds) {
    uint64_t state = 88172645463325252;
    auto next = [&] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    };
    constexpr uint16_t kCodes[] = {0x20, 0x80, 0x81, 0x00, 0x01, 0x60, 0x61, 0x02, 0x03, 0x06, 0x16, 0x07, 0x87, 0x04,
                                   0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x54, 0x5c, 0x44, 0x4c, 0xa4, 0xac, 0x64,
                                   0x6c, 0x74, 0x7c, 0x84, 0x05, 0x15, 0x1d, 0x35, 0x3d, 0x25, 0x2d, 0x45, 0x4d, 0x94};
    int passed = 0;
    for (int round = 0; round < 20000; ++round) {
        std::vector<sock_filter> program(1 + next() % 12);
        for (sock_filter& one : program) {
            one.code = next() % 50 == 0 ? static_cast<uint16_t>(next()) : kCodes[next() % std::size(kCodes)];
            one.jt = static_cast<uint8_t>(next() % 6);
            one.jf = static_cast<uint8_t>(next() % 6);
            one.k = static_cast<uint32_t>(next() % 3 == 0 ? next() : next() % 20 * 4);
        }
        program.back() = BPF_STMT(BPF_RET | BPF_A, 0);
        if (!check_bpf(program).ok()) continue;
        ++passed;
        seccomp_data data{};
        data.nr = static_cast<int>(next());
        static_cast<void>(run_bpf(program, data));
        static_cast<void>(run_bpf_by_number(program, 1, 2));
    }
    EXPECT_GT(passed, 100);
}

}  // namespace
}  // namespace casemate::sentry
