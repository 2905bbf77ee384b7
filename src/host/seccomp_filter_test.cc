// The generator against a small BPF interpreter, and installed in a child.
#include "host/seccomp_filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

namespace casemate::host {
namespace {

uint32_t run(const std::vector<sock_filter>& program, const seccomp_data& data) {
    uint32_t a = 0;
    for (size_t pc = 0; pc < program.size(); pc++) {
        const sock_filter& i = program[pc];
        switch (i.code) {
            case BPF_LD | BPF_W | BPF_ABS:
                std::memcpy(&a, reinterpret_cast<const char*>(&data) + i.k, 4);
                break;
            case BPF_ALU | BPF_AND | BPF_K:
                a &= i.k;
                break;
            case BPF_JMP | BPF_JA:
                pc += i.k;
                break;
            case BPF_JMP | BPF_JEQ | BPF_K:
                pc += a == i.k ? i.jt : i.jf;
                break;
            case BPF_JMP | BPF_JGT | BPF_K:
                pc += a > i.k ? i.jt : i.jf;
                break;
            case BPF_JMP | BPF_JGE | BPF_K:
                pc += a >= i.k ? i.jt : i.jf;
                break;
            case BPF_RET | BPF_K:
                return i.k;
            default:
                ADD_FAILURE() << "unknown instruction " << i.code;
                return 0;
        }
    }
    ADD_FAILURE() << "ran off the end";
    return 0;
}

seccomp_data call(int nr, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t a2 = 0) {
    seccomp_data data = {};
    data.nr = nr;
    data.arch = AUDIT_ARCH_X86_64;
    data.args[0] = a0, data.args[1] = a1, data.args[2] = a2;
    return data;
}

constexpr uint32_t kAllow = SeccompFilter::kAllow, kKill = SeccompFilter::kKillProcess;

TEST(SeccompFilter, empty_allows_nothing) {
    auto program = MUST(SeccompFilter().build());
    EXPECT_EQ(run(program, call(0)), kKill);
    EXPECT_EQ(run(program, call(400)), kKill);
}

TEST(SeccompFilter, allows_exactly_what_is_listed) {
    SeccompFilter filter;
    for (int nr = 0; nr < 500; nr += 3) filter.allow({nr});
    filter.allow({3, 6});
    EXPECT_EQ(filter.syscall_count(), 167u);
    auto program = MUST(filter.build());
    for (int nr = 0; nr < 600; nr++) EXPECT_EQ(run(program, call(nr)), nr < 500 && nr % 3 == 0 ? kAllow : kKill) << nr;
    EXPECT_EQ(run(program, call(0x40000000 | 3)), kKill);  // x32
    auto other = call(3);
    other.arch = AUDIT_ARCH_I386;
    EXPECT_EQ(run(program, other), kKill);
}

TEST(SeccompFilter, neighbours_are_looked_up_together) {
    SeccompFilter filter;
    filter.allow({0, 1, 3, 7, 8, 9, 10, 11, 20, 21, 22, 30});
    filter.allow_if(10, {ArgCheck::equal32(1, 5)});  // allowed anyway
    filter.allow_if(23, {ArgCheck::equal32(1, 5)});
    filter.add_rule(24, {}, SECCOMP_RET_ERRNO | 1);
    filter.add_rule(25, {}, SECCOMP_RET_ERRNO | 1);
    filter.add_rule(26, {}, SECCOMP_RET_ERRNO | 2);
    auto program = MUST(filter.build());
    for (int number = 0; number < 40; ++number) {
        seccomp_data data = {};
        data.nr = number;
        data.arch = AUDIT_ARCH_X86_64;
        uint32_t wanted = SeccompFilter::kKillProcess;
        for (int allowed : {0, 1, 3, 7, 8, 9, 10, 11, 20, 21, 22, 30})
            if (number == allowed) wanted = SeccompFilter::kAllow;
        if (number == 24 || number == 25) wanted = SECCOMP_RET_ERRNO | 1;
        if (number == 26) wanted = SECCOMP_RET_ERRNO | 2;
        EXPECT_EQ(run(program, data), wanted) << number;
    }
}

TEST(SeccompFilter, checks_arguments) {
    SeccompFilter filter(SECCOMP_RET_ERRNO | ENOSYS);
    constexpr uint64_t kBig = 0x1'0000'0005;
    filter.allow_if(10, {ArgCheck::equal(0, 5), ArgCheck::equal(1, kBig)});
    filter.allow_if(10, {ArgCheck::at_most(2, kBig), ArgCheck::not_equal(2, 7), ArgCheck::not_equal(2, 0)});
    filter.allow_if(11, {ArgCheck::no_bits(2, PROT_EXEC)});
    filter.allow_if(12, {ArgCheck::equal32(0, 0xfffffff0)});
    filter.add_rule(13, {ArgCheck::masked(0, 0xff, 0x7f)}, SECCOMP_RET_USER_NOTIF);
    filter.allow({13});
    auto program = MUST(filter.build());
    const uint32_t kNo = SECCOMP_RET_ERRNO | ENOSYS;
    EXPECT_EQ(run(program, call(10, 5, kBig)), kAllow);
    EXPECT_EQ(run(program, call(10, 5, 5)), kNo);
    EXPECT_EQ(run(program, call(10, kBig, kBig)), kNo);
    EXPECT_EQ(run(program, call(10, 0, 0, 1)), kAllow);
    EXPECT_EQ(run(program, call(10, 0, 0, 7)), kNo);
    EXPECT_EQ(run(program, call(10, 0, 0, uint64_t{7} << 32)), kNo);
    EXPECT_EQ(run(program, call(10, 0, 0, kBig)), kAllow);
    EXPECT_EQ(run(program, call(10, 0, 0, kBig + 1)), kNo);
    EXPECT_EQ(run(program, call(10, 0, 0, 0xffffffff)), kAllow);
    EXPECT_EQ(run(program, call(10, 0, 0, 0x2'0000'0000)), kNo);
    EXPECT_EQ(run(program, call(11, 0, 0, PROT_READ)), kAllow);
    EXPECT_EQ(run(program, call(11, 0, 0, PROT_READ | PROT_EXEC)), kNo);
    EXPECT_EQ(run(program, call(12, 0xdead'ffff'fff0)), kAllow);
    EXPECT_EQ(run(program, call(12, 0xf0)), kNo);
    EXPECT_EQ(run(program, call(13, 0x17f)), static_cast<uint32_t>(SECCOMP_RET_USER_NOTIF));
    EXPECT_EQ(run(program, call(13, 0x17e)), kAllow);
}

TEST(SeccompFilter, long_bodies_are_reached) {
    SeccompFilter filter;
    for (uint64_t value = 0; value < 200; value++) filter.allow_if(16, {ArgCheck::equal(1, value * 2)});
    filter.allow({1, 2, 3, 15, 17, 18, 19});
    auto program = MUST(filter.build());
    EXPECT_EQ(run(program, call(16, 0, 398)), kAllow);
    EXPECT_EQ(run(program, call(16, 0, 399)), kKill);
    for (int nr : {1, 2, 3, 15, 17, 18, 19}) EXPECT_EQ(run(program, call(nr)), kAllow) << nr;
    EXPECT_EQ(run(program, call(20)), kKill);
    for (uint64_t value = 0; value < 2000; value++) filter.allow_if(16, {ArgCheck::equal(1, value)});
    EXPECT_EQ(filter.build().error().code(), E2BIG);
}

TEST(SeccompFilter, requests_of_one_call_are_looked_up_in_few_steps) {
    SeccompFilter filter;
    for (uint32_t value = 0; value < 20; value++) filter.allow_if(16, {ArgCheck::equal32(1, 0xae00 + value)});
    filter.allow_if(16, {ArgCheck::equal32(2, 77)});  // another argument between
    filter.allow_if(16, {ArgCheck::equal32(1, 0xaf00)});
    filter.add_rule(16, {ArgCheck::equal32(1, 0xaf01)}, SECCOMP_RET_TRACE);
    filter.allow_if(16, {ArgCheck::equal32(1, 0xaf02), ArgCheck::equal32(0, 9)});
    filter.allow_if(16, {ArgCheck::equal32(1, 0xaf03)});
    filter.allow({1});
    auto program = MUST(filter.build());
    EXPECT_LE(program.size(), 45u);
    for (uint32_t value = 0; value < 20; value++) EXPECT_EQ(run(program, call(16, 0, 0xae00 + value)), kAllow);
    EXPECT_EQ(run(program, call(16, 0, 0xdead'0000'ae07)), kAllow);
    EXPECT_EQ(run(program, call(16, 0, 0xae14)), kKill);
    EXPECT_EQ(run(program, call(16, 0, 5, 77)), kAllow);
    EXPECT_EQ(run(program, call(16, 0, 77, 5)), kKill);
    EXPECT_EQ(run(program, call(16, 0, 0xaf00, 5)), kAllow);
    EXPECT_EQ(run(program, call(16, 0, 0xaf01)), static_cast<uint32_t>(SECCOMP_RET_TRACE));
    EXPECT_EQ(run(program, call(16, 9, 0xaf02)), kAllow);
    EXPECT_EQ(run(program, call(16, 8, 0xaf02)), kKill);
    EXPECT_EQ(run(program, call(16, 8, 0xaf03)), kAllow);
}

TEST(SeccompFilter, short_and_long_lists_say_the_same) {
    // Past some length a jump to the shared returns at the end would be too long, and each rule keeps its own.
    for (int count : {1, 2, 3, 50, 100, 130, 200, 400}) {
        SeccompFilter filter(SECCOMP_RET_ERRNO | EPERM);
        for (int nr = 0; nr < count; nr++) {
            if (nr % 5 == 1) filter.allow_if(nr, {ArgCheck::equal32(1, 7)});
            if (nr % 5 == 1) filter.add_rule(nr, {ArgCheck::equal32(1, 8)}, SECCOMP_RET_TRACE);
            if (nr % 5 == 2) filter.add_rule(nr, {ArgCheck::no_bits(2, PROT_EXEC)}, SECCOMP_RET_LOG);
            if (nr % 5 > 2) filter.allow({nr});
        }
        auto program = MUST(filter.build());
        const uint32_t kNo = SECCOMP_RET_ERRNO | EPERM;
        for (int nr = 0; nr < count + 3; nr++) {
            int kind = nr < count ? nr % 5 : 0;
            EXPECT_EQ(run(program, call(nr, 0, 7)), kind == 1 || kind > 2 ? kAllow : kind == 2 ? SECCOMP_RET_LOG : kNo);
            EXPECT_EQ(run(program, call(nr, 0, 8, PROT_EXEC)), kind == 1 ? SECCOMP_RET_TRACE : kind > 2 ? kAllow : kNo);
            EXPECT_EQ(run(program, call(nr, 0, 9, 1)), kind == 2 ? SECCOMP_RET_LOG : kind > 2 ? kAllow : kNo) << nr;
        }
        if (count == 50) {
            EXPECT_LT(program.size(), 150u);
        }
    }
}

TEST(SeccompFilter, the_kernel_obeys) {
    pid_t child = ::fork();
    if (child == 0) {
        SeccompFilter filter;
        filter.allow({SYS_exit_group});
        filter.allow_if(SYS_getpid, {});
        if (!install_filter(MUST(filter.build())).ok()) ::_exit(1);
        if (::syscall(SYS_getpid) <= 0) ::_exit(2);
        ::syscall(SYS_getuid);
        ::_exit(3);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

constexpr SeccompFilter some_list() {
    SeccompFilter filter;
    filter.allow({SYS_read, SYS_write, SYS_exit_group});
    filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC), ArgCheck::at_most(1, uint64_t{1} << 40)});
    filter.add_rule(SYS_socket, {}, SECCOMP_RET_ERRNO | 1);
    return filter;
}

TEST(SeccompFilter, a_program_made_by_the_compiler_is_the_same) {
    static constexpr auto compiled = compiled_filter<some_list>();
    std::vector<sock_filter> built = MUST(some_list().build());
    ASSERT_EQ(compiled.size(), built.size());
    EXPECT_EQ(std::memcmp(compiled.data(), built.data(), sizeof compiled), 0);
}

}  // namespace
}  // namespace casemate::host
