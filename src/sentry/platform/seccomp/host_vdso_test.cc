#include "sentry/platform/seccomp/host_vdso.h"

#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <time.h>

#include <cstring>

#include "sentry/platform/seccomp/platform_fixture.h"

namespace casemate::sentry::seccomp {
namespace {

using HostVdsoTest = SeccompPlatformTest;

int64_t nanoseconds(const timespec& at) { return at.tv_sec * 1'000'000'000 + at.tv_nsec; }

TEST_F(HostVdsoTest, ApplicationsReadTheHostsClocksWithoutAStop) {
    if (getauxval(AT_SYSINFO_EHDR) == 0) GTEST_SKIP() << "this host has no vDSO";
    const HostClocks clocks = platform_->host_clocks();
    ASSERT_NE(clocks.clock_gettime, 0u);
    EXPECT_NE(clocks.gettimeofday, 0u);
    EXPECT_NE(clocks.time, 0u);
    EXPECT_NE(clocks.clock_getres, 0u);
    auto space = make_space();
    for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE}) {
        auto thread = make_thread(*space, prog_call);
        thread->registers().r15 = clocks.clock_gettime;
        thread->registers().di = static_cast<uint64_t>(clock);
        thread->registers().si = kData;
        timespec before, told, after;
        clock_gettime(clock, &before);
        Stop stop = thread->resume();
        clock_gettime(clock, &after);
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        // On a host whose clock needs the kernel the stop is that call; else it is the program's own.
        if (stop.syscall.nr != 782) GTEST_SKIP() << "this host's clock source is not readable in user space";
        EXPECT_EQ(stop.syscall.args[0], 0u);
        std::memcpy(&told, data(), sizeof(told));
        EXPECT_LE(nanoseconds(before), nanoseconds(told));
        EXPECT_LE(nanoseconds(told), nanoseconds(after));
    }
}

TEST_F(HostVdsoTest, AddressSpacesThatAreReusedKeepIt) {
    const HostClocks clocks = platform_->host_clocks();
    if (clocks.time == 0) GTEST_SKIP() << "this host has no vDSO";
    for (int i = 0; i < 3; ++i) {
        auto space = make_space();
        auto thread = make_thread(*space, prog_call);
        thread->registers().r15 = clocks.time;
        Stop stop = thread->resume();
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
    }
}

TEST_F(HostVdsoTest, ClocksThatNeedTheKernelStop) {
    const HostClocks clocks = platform_->host_clocks();
    if (clocks.clock_gettime == 0) GTEST_SKIP() << "this host has no vDSO";
    auto space = make_space();
    auto thread = make_thread(*space, prog_call);
    thread->registers().r15 = clocks.clock_gettime;
    thread->registers().di = CLOCK_PROCESS_CPUTIME_ID;
    thread->registers().si = kData;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 228u);
    EXPECT_EQ(stop.syscall.args[0], static_cast<uint64_t>(CLOCK_PROCESS_CPUTIME_ID));
    stop = thread->complete_syscall(-22);
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 782u);
    EXPECT_EQ(static_cast<int64_t>(stop.syscall.args[0]), -22);
}

TEST_F(HostVdsoTest, ItsPagesAreReadOnly) {
    const HostClocks clocks = platform_->host_clocks();
    if (clocks.time == 0) GTEST_SKIP() << "this host has no vDSO";
    auto space = make_space();
    for (uint64_t page = STUB_CLOCK; page < STUB_CLOCK + STUB_CLOCK_SIZE; page += 0x1000) {
        auto thread = make_thread(*space, prog_store);
        thread->registers().si = page;
        Stop stop = thread->resume();
        ASSERT_EQ(stop.reason, StopReason::kFault) << page;
        EXPECT_EQ(stop.fault.signo, SIGSEGV);
    }
}

}  // namespace
}  // namespace casemate::sentry::seccomp
