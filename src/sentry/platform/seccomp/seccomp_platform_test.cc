// Small machine-code programs run on the platform; the test is their sentry.
#include "sentry/platform/seccomp/seccomp_platform.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "sentry/platform/seccomp/platform_fixture.h"

namespace casemate::sentry::seccomp {
namespace {

TEST_F(SeccompPlatformTest, SyscallsStopWithTheirArgumentsAndGetResults) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    Registers& registers = thread->registers();
    registers.ax = 39;
    registers.di = 1;
    registers.si = 0xffff'ffff'ffff'fff2;
    registers.dx = 3;
    registers.r10 = 4;
    registers.r8 = 5;
    registers.r9 = 6;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_FALSE(stop.has_registers);
    EXPECT_EQ(stop.syscall.arch, AUDIT_ARCH_X86_64);
    EXPECT_EQ(stop.syscall.nr, 39u);
    EXPECT_EQ(stop.syscall.args[0], 1u);
    EXPECT_EQ(stop.syscall.args[1], 0xffff'ffff'ffff'fff2);
    EXPECT_EQ(stop.syscall.args[2], 3u);
    EXPECT_EQ(stop.syscall.args[3], 4u);
    EXPECT_EQ(stop.syscall.args[4], 5u);
    EXPECT_EQ(stop.syscall.args[5], 6u);
    EXPECT_EQ(stop.syscall.ip, at(prog_syscalls) + 2);
    // The result is the next number.
    for (int64_t result : {0L, 1L, 4096L, 231L, 0x3fffffffL}) {
        stop = thread->complete_syscall(result);
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        EXPECT_EQ(stop.syscall.nr, static_cast<uint64_t>(result));
    }
}

TEST_F(SeccompPlatformTest, CompleteAndStopKeepsTheResultAndShowsRegisters) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_two);
    thread->registers().bx = 100;
    thread->registers().r15 = 0x1234567890;
    thread->registers().bp = 77;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    stop = thread->complete_and_stop(-4095);
    ASSERT_EQ(stop.reason, StopReason::kInterrupted);
    ASSERT_TRUE(stop.has_registers);
    Registers& registers = thread->registers();
    EXPECT_EQ(static_cast<int64_t>(registers.ax), -4095);
    EXPECT_EQ(registers.ip, at(prog_two) + 5);
    EXPECT_EQ(registers.r15, 0x1234567890u);
    EXPECT_EQ(registers.bp, 77u);
    EXPECT_EQ(registers.bx, 100u);
    EXPECT_EQ(registers.sp, kStackTop);
    registers.ax = 4242;
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 777u);
    EXPECT_EQ(stop.syscall.args[0], 4242u);
}

TEST_F(SeccompPlatformTest, CompleteAndStopManyTimesLosesNothing) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    thread->registers().ax = 1;
    Stop stop = thread->resume();
    for (int i = 0; i < 2000; ++i) {
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        stop = thread->complete_and_stop(1000 + i);
        ASSERT_EQ(stop.reason, StopReason::kInterrupted);
        ASSERT_EQ(thread->registers().ax, 1000u + i);
        stop = thread->resume();
        ASSERT_EQ(stop.syscall.nr, 1000u + i);
    }
}

TEST_F(SeccompPlatformTest, CallsThatNeedRegistersHaveThem) {
    auto space = make_space();
    for (uint64_t nr : {SYS_clone, SYS_clone3, SYS_fork, SYS_vfork, SYS_execve, SYS_execveat, SYS_rt_sigreturn,
                        SYS_arch_prctl, SYS_sigaltstack}) {
        auto thread = make_thread(*space, prog_two);
        thread->registers().bx = nr;
        thread->registers().di = 0xd1;
        thread->registers().r9 = 0x99;
        Stop stop = thread->resume();
        ASSERT_EQ(stop.reason, StopReason::kSyscall) << nr;
        EXPECT_TRUE(stop.has_registers);
        EXPECT_EQ(stop.syscall.nr, nr);
        EXPECT_EQ(stop.syscall.arch, AUDIT_ARCH_X86_64);
        EXPECT_EQ(stop.syscall.args[0], 0xd1u);
        EXPECT_EQ(stop.syscall.args[5], 0x99u);
        EXPECT_EQ(stop.syscall.ip, at(prog_two) + 5);
        EXPECT_EQ(thread->registers().ip, at(prog_two) + 5);
        stop = thread->complete_and_stop(5);
        ASSERT_EQ(stop.reason, StopReason::kInterrupted);
        EXPECT_EQ(thread->registers().ax, 5u);
        stop = thread->resume();
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        EXPECT_EQ(stop.syscall.nr, 777u);
        EXPECT_EQ(stop.syscall.args[0], 5u);
        EXPECT_FALSE(stop.has_registers);
    }
}

TEST_F(SeccompPlatformTest, FaultsTellTheirAddressAndGoOnAfterRepair) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_load);
    thread->registers().si = 0x10000008;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    ASSERT_TRUE(stop.has_registers);
    EXPECT_EQ(stop.fault.signo, SIGSEGV);
    EXPECT_EQ(stop.fault.code, SEGV_MAPERR);
    EXPECT_EQ(stop.fault.address, 0x10000008u);
    EXPECT_EQ(stop.fault.trap_number, 14u);
    EXPECT_EQ(stop.fault.error_code & 0x12, 0u);
    const uint64_t value = 0xfeedfacecafebeef;
    std::memcpy(data() + 8, &value, 8);
    const MapOrder repair = map_order(0x10000000, 0x1000, PROT_READ, kFileData);
    ASSERT_TRUE(space->apply({&repair, 1}).ok());
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.args[0], value);

    auto writer = make_thread(*space, prog_store);
    writer->registers().si = 0x10000010;
    writer->registers().dx = 42;
    stop = writer->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.code, SEGV_ACCERR);
    EXPECT_EQ(stop.fault.error_code & 2, 2u);
    const MapOrder protect{
        .kind = MapOrder::Kind::kProtect, .address = 0x10000000, .size = 0x1000, .protection = PROT_READ | PROT_WRITE};
    ASSERT_TRUE(space->apply({&protect, 1}).ok());
    stop = writer->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 779u);
    EXPECT_EQ(data()[0x10], 42);

    auto divide = make_thread(*space, prog_divide);
    stop = divide->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.signo, SIGFPE);
    EXPECT_EQ(stop.fault.address, at(prog_divide) + 4);

    auto jump = make_thread(*space, prog_jump);
    jump->registers().r15 = kData;
    stop = jump->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.error_code & 0x10, 0x10u);
    EXPECT_EQ(jump->registers().ip, kData);
}

TEST_F(SeccompPlatformTest, SegmentBasesAreKeptAndSet) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_bases);
    const uint64_t values[] = {11, 22, 33};
    std::memcpy(data(), values, sizeof(values));
    thread->registers().fs_base = kData;
    thread->registers().gs_base = kData + 8;
    thread->registers().bx = 0x7654321000;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 780u);
    EXPECT_EQ(stop.syscall.args[0], 11u);
    EXPECT_EQ(stop.syscall.args[1], 33u);
    EXPECT_EQ(stop.syscall.args[2], kData);
    stop = thread->complete_syscall(0);
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    ASSERT_TRUE(stop.has_registers);
    EXPECT_EQ(thread->registers().fs_base, 0x7654321000u);
    EXPECT_EQ(thread->registers().gs_base, kData + 8);
    // Not settable by any application: cleaned, not fatal.
    thread->registers().fs_base = 0x8000'0000'0000'0000;
    thread->registers().gs_base = ~0ULL;
    thread->registers().flags = ~0ULL & ~0x100ULL & ~0x40000ULL;
    thread->registers().ip = at(prog_load);
    thread->registers().si = kData;
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.args[0], 11u);
}

TEST_F(SeccompPlatformTest, FloatingPointStateRoundTrips) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_fp);
    ASSERT_GE(platform_->fp_state_size(), 832u);
    const uint64_t second[4] = {100, 200, 300, 400};
    std::memcpy(data(), second, sizeof(second));
    // xmm1 low half in the FXSAVE area, its high half behind the header (AVX component at 576).
    auto image = thread->fp_state();
    const uint64_t low[2] = {1, 2}, high[2] = {3, 4};
    std::memcpy(image.data() + 160 + 16, low, 16);
    std::memcpy(image.data() + 576 + 16, high, 16);
    uint64_t present = 7;
    std::memcpy(image.data() + 512, &present, 8);
    uint32_t mxcsr = 0x9fc0;
    std::memcpy(image.data() + 24, &mxcsr, 4);
    thread->registers().di = kData;
    thread->registers().si = kData + 0x100;
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.signo, SIGTRAP);
    uint64_t sum[4];
    std::memcpy(sum, data() + 0x100, sizeof(sum));
    EXPECT_EQ(sum[0], 101u);
    EXPECT_EQ(sum[1], 202u);
    EXPECT_EQ(sum[2], 303u);
    EXPECT_EQ(sum[3], 404u);
    std::memcpy(&mxcsr, data() + 0x120, 4);
    EXPECT_EQ(mxcsr, 0x9fc0u);
    // And it is seen: ymm3.
    image = thread->fp_state();
    uint64_t seen[2];
    std::memcpy(seen, image.data() + 160 + 3 * 16, 16);
    EXPECT_EQ(seen[0], 101u);
    std::memcpy(seen, image.data() + 576 + 3 * 16, 16);
    EXPECT_EQ(seen[1], 404u);
    // Untouched, it stays through a stop.
    std::memset(data() + 0x100, 0, 0x40);
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    std::memcpy(sum, data() + 0x100, sizeof(sum));
    EXPECT_EQ(sum[3], 404u);
    // Garbage everywhere is cleaned enough for the hardware to take it.
    image = thread->fp_state();
    std::memset(image.data(), 0xff, image.size());
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.signo, SIGTRAP);
}

TEST_F(SeccompPlatformTest, BusyLoopIsInterrupted) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_spin);
    for (int i = 0; i < 5; ++i) {
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(3));
            thread->interrupt();
        });
        Stop stop = thread->resume();
        other.join();
        ASSERT_EQ(stop.reason, StopReason::kInterrupted);
        ASSERT_TRUE(stop.has_registers);
        EXPECT_GT(thread->registers().bx, 0u);
    }
    // Before the run: the run ends soon.
    thread->interrupt();
    Stop stop = thread->resume();
    EXPECT_EQ(stop.reason, StopReason::kInterrupted);
}

TEST_F(SeccompPlatformTest, InterruptsAtAnyMomentLoseNoSyscall) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    std::atomic<bool> done = false;
    std::thread other([&] {
        while (!done) {
            thread->interrupt();
            std::this_thread::sleep_for(std::chrono::microseconds(30));
        }
    });
    thread->registers().ax = 1;
    Stop stop = thread->resume();
    uint64_t expected = 1, interrupts = 0;
    for (int i = 0; i < 20000; ++i) {
        while (stop.reason == StopReason::kInterrupted) {
            ++interrupts;
            ASSERT_EQ(thread->registers().ax, expected);
            stop = thread->resume();
        }
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        ASSERT_EQ(stop.syscall.nr, expected);
        expected = 1 + static_cast<uint64_t>(i) % 10;
        stop = thread->complete_syscall(static_cast<int64_t>(expected));
    }
    done = true;
    other.join();
    EXPECT_GT(interrupts, 0u);
}

TEST_F(SeccompPlatformTest, ThirtyTwoBitCodeIsSeen) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_int80);
    Stop stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.arch, AUDIT_ARCH_I386);
    EXPECT_EQ(stop.syscall.nr, 20u);
    stop = thread->complete_syscall(-ENOSYS);
    ASSERT_EQ(stop.reason, StopReason::kFault);
    EXPECT_EQ(stop.fault.signo, SIGILL);

    auto other = make_thread(*space, prog_sysenter);
    stop = other->resume();
    ASSERT_NE(stop.reason, StopReason::kDead);
    if (stop.reason == StopReason::kSyscall) {
        EXPECT_EQ(stop.syscall.arch, AUDIT_ARCH_I386);
        stop = other->complete_syscall(-ENOSYS);
        EXPECT_EQ(stop.reason, StopReason::kFault);
    }
}

TEST_F(SeccompPlatformTest, VsyscallPageStops) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_call_vsyscall);
    Stop stop = thread->resume();
    if (stop.reason == StopReason::kFault) GTEST_SKIP() << "the host has no vsyscall page";
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, static_cast<uint64_t>(SYS_time));
    stop = thread->complete_syscall(123456);
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 781u);
    EXPECT_EQ(stop.syscall.args[0], 123456u);
}

TEST_F(SeccompPlatformTest, ThreadsOfOneSpaceRunAtOnce) {
    auto space = make_space();
    std::vector<std::thread> sentry;
    for (int i = 0; i < 8; ++i) {
        sentry.emplace_back([&, i] {
            auto thread = make_thread(*space, prog_syscalls);
            thread->registers().ax = 1000;
            thread->registers().r8 = static_cast<uint64_t>(i);
            Stop stop = thread->resume();
            for (int64_t n = 0; n < 500; ++n) {
                ASSERT_EQ(stop.reason, StopReason::kSyscall);
                ASSERT_EQ(stop.syscall.args[4], static_cast<uint64_t>(i));
                stop = thread->complete_syscall(n % 300);
                ASSERT_EQ(stop.syscall.nr, static_cast<uint64_t>(n % 300));
            }
        });
    }
    for (auto& thread : sentry) thread.join();
}

TEST_F(SeccompPlatformTest, SpacesAreSeparateAndReused) {
    auto first = make_space();
    auto second = make_space();
    EXPECT_NE(first->host_process_id(), second->host_process_id());
    const MapOrder only_first = map_order(0x20000000, 0x1000, PROT_READ, kFileData);
    ASSERT_TRUE(first->apply({&only_first, 1}).ok());
    auto thread = make_thread(*second, prog_load);
    thread->registers().si = 0x20000000;
    EXPECT_EQ(thread->resume().reason, StopReason::kFault);
    thread.reset();

    // One thread parked in a syscall, one at a frame.
    thread = make_thread(*first, prog_syscalls);
    thread->registers().r12 = 0x1212;
    thread->registers().fs_base = kData;
    EXPECT_EQ(thread->resume().reason, StopReason::kSyscall);
    auto faulting = make_thread(*first, prog_fp);
    EXPECT_EQ(faulting->resume().reason, StopReason::kFault);
    const int pid = first->host_process_id();
    const int tid = thread->host_thread_id();
    thread.reset();
    faulting.reset();
    first.reset();
    auto again = make_space();
    EXPECT_EQ(again->host_process_id(), pid);
    bool same_thread = false;
    std::unique_ptr<AppThread> reused[2];
    for (auto& other : reused) {
        other = make_thread(*again, prog_load);
        same_thread = same_thread || other->host_thread_id() == tid;
        EXPECT_EQ(other->registers().r12, 0u);
        EXPECT_EQ(other->registers().fs_base, 0u);
        other->registers().si = 0x20000000;  // not there any more
        Stop stop = other->resume();
        ASSERT_EQ(stop.reason, StopReason::kFault);
        EXPECT_EQ(stop.fault.address, 0x20000000u);
    }
    EXPECT_TRUE(same_thread);
}

TEST_F(SeccompPlatformTest, HostFilesAreMappedAndTheirDescriptorsGo) {
    auto space = make_space();
    UniqueFd file(memfd_create("host-file", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(file.get(), 0x2000), 0);
    const uint64_t value = 0x1122334455667788;
    ASSERT_EQ(pwrite(file.get(), &value, 8, 0x1000), 8);
    for (int round = 0; round < 3; ++round) {
        const MapOrder orders[] = {map_order(0x30000000, 0x1000, PROT_READ, 0x1000, file.get()),
                                   map_order(0x30001000, 0x1000, PROT_READ, 0x1000, file.get())};
        ASSERT_TRUE(space->apply(orders).ok());
        auto thread = make_thread(*space, prog_load);
        thread->registers().si = 0x30001000;
        Stop stop = thread->resume();
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        EXPECT_EQ(stop.syscall.args[0], value);
        std::byte buffer[8];
        ASSERT_TRUE(space->read_memory(0x30000000, buffer).ok());
        EXPECT_EQ(std::memcmp(buffer, &value, 8), 0);
    }
    // A failing order in between: the rest is not done, the descriptor is closed, later threads work.
    const MapOrder orders[] = {map_order(0x30000000, 0x1000, PROT_READ, 0, file.get()),
                               {.kind = MapOrder::Kind::kProtect, .address = 0x50000000, .size = 0x1000},
                               map_order(0x40000000, 0x1000, PROT_READ, 0, file.get())};
    auto result = space->apply(orders);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().value, ENOMEM);
    std::byte byte[1];
    EXPECT_FALSE(space->read_memory(0x40000000, byte).ok());
    std::vector<std::unique_ptr<AppThread>> threads;
    for (int i = 0; i < 3; ++i) threads.push_back(make_thread(*space, prog_syscalls));
    for (auto& thread : threads) EXPECT_EQ(thread->resume().reason, StopReason::kSyscall);
}

TEST_F(SeccompPlatformTest, ManyOrdersInOneCall) {
    auto space = make_space();
    std::vector<MapOrder> orders;
    for (uint64_t i = 0; i < 1000; ++i) {
        orders.push_back(map_order(0x100000000 + i * 0x2000, 0x1000, PROT_READ, kFileData));
    }
    ASSERT_TRUE(space->apply(orders).ok());
    std::byte byte[1];
    for (uint64_t i = 0; i < 1000; ++i) ASSERT_TRUE(space->read_memory(0x100000000 + i * 0x2000, byte).ok());
}

TEST_F(SeccompPlatformTest, OrdersOutsideTheUserRangeAreRefused) {
    auto space = make_space();
    for (const MapOrder& order :
         {map_order(platform_->max_user_address(), 0x1000, PROT_READ, 0), map_order(STUB_CODE, 0x1000, PROT_READ, 0),
          map_order(kCode + 1, 0x1000, PROT_READ, 0), map_order(0 - 0x1000ULL, 0x1000, PROT_READ, 0),
          map_order(kCode, 0, PROT_READ, 0), map_order(kCode, 0x1000, 0x100, 0)}) {
        auto result = space->apply({&order, 1});
        ASSERT_FALSE(result.ok());
        EXPECT_EQ(result.error().value, EINVAL);
    }
    std::byte bytes[8] = {};
    EXPECT_FALSE(space->read_memory(STUB_ORDERS, bytes).ok());
    EXPECT_FALSE(space->write_memory(STUB_AREAS_TOP - 8, bytes).ok());
}

TEST_F(SeccompPlatformTest, MemoryIsCopiedUpToAHole) {
    auto space = make_space();
    std::byte bytes[0x3000];
    std::memset(bytes, 7, sizeof(bytes));
    auto written = space->write_memory(kData + 0x2000, bytes);
    ASSERT_TRUE(written.ok());
    EXPECT_EQ(*written, 0x2000u);
    EXPECT_EQ(data()[0x3fff], 7);
    auto read = space->read_memory(kData + 0x3800, bytes);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, 0x800u);
    EXPECT_EQ(space->read_memory(0x1000, bytes).error().value, EFAULT);
}

TEST_F(SeccompPlatformTest, KilledProcessStopsDead) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_spin);
    std::thread killer([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        space->kill();
    });
    EXPECT_EQ(thread->resume().reason, StopReason::kDead);
    killer.join();
    EXPECT_EQ(thread->resume().reason, StopReason::kDead);
    EXPECT_EQ(thread->complete_syscall(0).reason, StopReason::kDead);
    EXPECT_EQ(thread->complete_and_stop(0).reason, StopReason::kDead);
    EXPECT_FALSE(space->create_thread().ok());
    const MapOrder order = map_order(kCode, 0x1000, PROT_READ, 0);
    EXPECT_FALSE(space->apply({&order, 1}).ok());
    thread.reset();
    space.reset();
    EXPECT_TRUE(make_thread(*make_space(), prog_syscalls) != nullptr);
}

TEST_F(SeccompPlatformTest, AnotherThreadMayAnswer) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    thread->registers().ax = 11;
    ASSERT_EQ(thread->resume().syscall.nr, 11u);
    for (WakeOn where : {WakeOn::kThisCpu, WakeOn::kAnyCpu, WakeOn::kThisCpu}) {
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            thread->answer(12, where);
        });
        Stop stop = thread->wait(std::nullopt);
        other.join();
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        EXPECT_EQ(stop.syscall.nr, 12u);
    }
}

TEST_F(SeccompPlatformTest, AnotherThreadMayAnswerAndStop) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_two);
    thread->registers().bx = 100;
    thread->registers().bp = 4711;
    ASSERT_EQ(thread->resume().syscall.nr, 100u);
    std::thread other([&] { thread->answer_and_stop(55); });
    Stop stop = thread->wait(std::nullopt);
    other.join();
    ASSERT_EQ(stop.reason, StopReason::kInterrupted);
    ASSERT_TRUE(stop.has_registers);
    EXPECT_EQ(thread->registers().ax, 55u);
    EXPECT_EQ(thread->registers().bp, 4711u);
    // And again, from a stop that has registers.
    thread->answer_and_stop(56);
    stop = thread->wait(std::nullopt);
    ASSERT_EQ(stop.reason, StopReason::kInterrupted);
    EXPECT_EQ(thread->registers().ax, 56u);
    EXPECT_EQ(thread->registers().bp, 4711u);
    stop = thread->resume();
    ASSERT_EQ(stop.reason, StopReason::kSyscall);
    EXPECT_EQ(stop.syscall.nr, 777u);
    EXPECT_EQ(stop.syscall.args[0], 56u);
}

TEST_F(SeccompPlatformTest, WaitingEndsAtItsDeadline) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    ASSERT_EQ(thread->resume().reason, StopReason::kSyscall);
    auto now = [] {
        timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        return at.tv_sec * 1'000'000'000 + at.tv_nsec;
    };
    const int64_t deadline = now() + 5'000'000;
    EXPECT_EQ(thread->wait(deadline).reason, StopReason::kTimeout);
    EXPECT_GE(now(), deadline - 1'000'000);
    EXPECT_EQ(thread->wait(0).reason, StopReason::kTimeout);
    thread->answer(33, WakeOn::kThisCpu);
    EXPECT_EQ(thread->wait(now() + 60'000'000'000).syscall.nr, 33u);
    // A death ends it too.
    std::thread killer([&] { space->kill(); });
    EXPECT_EQ(thread->wait(now() + 60'000'000'000).reason, StopReason::kDead);
    killer.join();
}

TEST_F(SeccompPlatformTest, StubHasNoDescriptorsAndNoPagesOfTheSentrys) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    const std::string base = "/proc/" + std::to_string(space->host_process_id());
    FILE* maps = fopen((base + "/maps").c_str(), "r");
    ASSERT_NE(maps, nullptr);
    char line[512];
    int own = 0;
    while (fgets(line, sizeof(line), maps) != nullptr) {
        const uint64_t address = strtoull(line, nullptr, 16);
        if (address > STUB_TASK_TOP) continue;  // vsyscall
        if (address >= STUB_CLOCK) {
            EXPECT_LT(address, STUB_CLOCK + STUB_CLOCK_SIZE) << line;
            EXPECT_TRUE(strstr(line, " [v") != nullptr && strstr(line, " rw") == nullptr) << line;
            continue;
        }
        own += address >= STUB_BLOCK_BASE;
        EXPECT_TRUE(address == kCode || address == kData || address == STUB_AREAS_BASE || address == STUB_ORDERS ||
                    address == STUB_CODE)
            << line;
        EXPECT_TRUE(address != STUB_ORDERS || strstr(line, "r--s") != nullptr) << line;
        EXPECT_TRUE(address != STUB_CODE || strstr(line, "r-x") != nullptr) << line;
    }
    fclose(maps);
    EXPECT_EQ(own, 3);
    for (int fd = 0; fd < 20; ++fd) {
        if (fd == STUB_FD_SOCKET) continue;  // its map thread's, to the sentry
        char target[256] = {};
        if (readlink((base + "/fd/" + std::to_string(fd)).c_str(), target, sizeof(target) - 1) < 0) continue;
        EXPECT_TRUE(strstr(target, "test-memory") != nullptr || strstr(target, "seccomp notify") != nullptr) << target;
    }
}

// ---- In the sentry's own confinement: nobody, a user namespace, PID 1 of a pid namespace, no capabilities.

int jailed_main(int memory_file) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0) return 10;
    auto platform = SeccompPlatform::create(memory_file);
    if (!platform.ok()) {
        fprintf(stderr, "%s\n", platform.error().message().c_str());
        return 11;
    }
    for (int round = 0; round < 3; ++round) {
        auto space = (*platform)->create_address_space();
        if (!space.ok()) return 12;
        const MapOrder orders[] = {map_order(kCode, 0x1000, PROT_READ | PROT_EXEC, kFileCode),
                                   map_order(kData, 0x4000, PROT_READ | PROT_WRITE, kFileData)};
        if (!(*space)->apply(orders).ok()) return 13;
        UniqueFd file(memfd_create("host-file", MFD_CLOEXEC));
        if (ftruncate(file.get(), 0x1000) != 0) return 14;
        const MapOrder passed = map_order(0x30000000, 0x1000, PROT_READ, 0, file.get());
        if (!(*space)->apply({&passed, 1}).ok()) return 15;
        auto thread = (*space)->create_thread();
        if (!thread.ok()) return 16;
        (*thread)->registers().ip = at(prog_syscalls);
        (*thread)->registers().ax = 5;
        if ((*thread)->resume().syscall.nr != 5) return 17;
        if ((*thread)->complete_and_stop(6).reason != StopReason::kInterrupted) return 18;
        if ((*thread)->registers().ax != 6) return 19;
        std::byte bytes[8];
        if (!(*space)->read_memory(kData, bytes).ok() || !(*space)->write_memory(kData, bytes).ok()) return 20;
    }
    return 0;
}

TEST(SeccompPlatformJail, WorksWithoutPrivileges) {
    UniqueFd memory_file = make_memory_file();
    const pid_t outer = fork();
    if (outer == 0) {
        if (getuid() == 0 && (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0)) _exit(2);
        prctl(PR_SET_DUMPABLE, 1);
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) != 0) _exit(77);
        const int map = open("/proc/self/uid_map", O_WRONLY);
        const std::string line = std::to_string(65534) + " " + std::to_string(65534) + " 1\n";
        if (map < 0 || write(map, line.data(), line.size()) < 0) _exit(3);
        const pid_t init = fork();
        if (init == 0) {
            struct {
                uint32_t version = 0x20080522;
                int pid = 0;
            } header;
            uint32_t none[6] = {};
            if (syscall(SYS_capset, &header, none) != 0) _exit(4);
            _exit(jailed_main(memory_file.get()));
        }
        int status = 0;
        waitpid(init, &status, 0);
        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 99);
    }
    int status = 0;
    ASSERT_EQ(waitpid(outer, &status, 0), outer);
    ASSERT_TRUE(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "no unprivileged user namespaces here";
    EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(SeccompPlatformLifetime, StubsDieWithTheSentry) {
    UniqueFd memory_file = make_memory_file();
    int pipe_fds[2];
    ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    const pid_t sentry = fork();
    if (sentry == 0) {
        auto platform = SeccompPlatform::create(memory_file.get());
        if (!platform.ok()) _exit(1);
        auto space = (*platform)->create_address_space();
        if (!space.ok()) _exit(1);
        const int pid = (*space)->host_process_id();
        if (write(pipe_fds[1], &pid, sizeof(pid)) != sizeof(pid)) _exit(1);
        pause();
    }
    int stub = 0;
    ASSERT_EQ(read(pipe_fds[0], &stub, sizeof(stub)), static_cast<ssize_t>(sizeof(stub)));
    EXPECT_EQ(kill(stub, 0), 0);
    kill(sentry, SIGKILL);
    waitpid(sentry, nullptr, 0);
    for (int i = 0; i < 200 && kill(stub, 0) == 0; ++i) {
        // Gone, or a zombie that nobody here has to reap.
        char state = 0;
        FILE* stat = fopen(("/proc/" + std::to_string(stub) + "/stat").c_str(), "r");
        if (stat == nullptr || fscanf(stat, "%*d %*s %c", &state) != 1 || state == 'Z') {
            if (stat != nullptr) fclose(stat);
            return;
        }
        fclose(stat);
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_NE(kill(stub, 0), 0);
}

}  // namespace
}  // namespace casemate::sentry::seccomp
