// Applications that attack their stub: only the stub may suffer.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <thread>

#include "sentry/platform/seccomp/platform_fixture.h"

namespace casemate::sentry::seccomp {
namespace {

using SeccompHostileTest = SeccompPlatformTest;

TEST_F(SeccompHostileTest, NoSyscallNumberReachesTheHost) {
    auto space = make_space();
    auto thread = make_thread(*space, prog_syscalls);
    thread->registers().ax = 0;
    thread->registers().di = kData;
    thread->registers().si = kData + 0x100;
    thread->registers().dx = ~0ULL;
    thread->registers().r10 = kData + 0x200;
    thread->registers().r8 = STUB_ORDERS;
    thread->registers().r9 = 1;
    Stop stop = thread->resume();
    for (int64_t nr = 0; nr <= 600; ++nr) {
        // uretprobe and uprobe, which newer kernels exempt from all filters: they are refused where the kernel itself
        // did not set the call (SIGILL, ENXIO).
        if (nr == 335 || nr == 336) continue;
        ASSERT_EQ(stop.reason, StopReason::kSyscall) << nr;
        ASSERT_EQ(stop.syscall.nr, static_cast<uint64_t>(nr));
        ASSERT_EQ(stop.syscall.args[0], kData);
        stop = thread->complete_syscall(nr == 334 ? 337 : nr + 1);
    }
    for (uint64_t nr : std::initializer_list<uint64_t>{0x40000000, 0x40000000 + SYS_execve, 0xffffffff, STUB_CALL_FRAME,
                                                       STUB_CALL_MAP}) {
        stop = thread->complete_syscall(static_cast<int64_t>(nr));
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        ASSERT_EQ(stop.syscall.nr, nr);
    }
}

// Jumps to every byte of the stub's code with registers that would make each syscall there do something, were it let
// through. Only stops may come, or the death of that stub.
TEST_F(SeccompHostileTest, JumpsIntoTheStubsCodeHurtOnlyTheirStub) {
    const size_t size = static_cast<size_t>(casemate_stub_end - casemate_stub_begin);
    const uint64_t canary = 0xabcdabcdabcdabcd;
    size_t deaths = 0;
    auto space = make_space();
    auto witness_space = make_space();
    auto witness = make_thread(*witness_space, prog_syscalls);
    ASSERT_EQ(witness->resume().reason, StopReason::kSyscall);
    std::memcpy(data() + 0x3000, &canary, 8);
    for (size_t offset = 0; offset < size; ++offset) {
        for (int variant = 0; variant < 3; ++variant) {
            auto made = space->create_thread();
            if (!made.ok()) {
                space = make_space();
                made = space->create_thread();
                ++deaths;
            }
            ASSERT_TRUE(made.ok());
            auto& thread = **made;
            Registers& registers = thread.registers();
            registers.ip = STUB_CODE + offset;
            registers.sp = variant == 0 ? kStackTop : variant == 1 ? Block::area_address(0) + 0x3000 : 0;
            registers.r15 = variant == 2 ? kData : STUB_ORDERS;
            registers.bx = variant == 2 ? Block::area_address(0) + STUB_AREA_HEADER : kData;
            registers.ax = variant == 0 ? SYS_execve : variant == 1 ? SYS_munmap : SYS_kill;
            registers.di = variant == 1 ? kCode : static_cast<uint64_t>(getpid());
            registers.si = 0x1000;
            Stop stop = thread.resume();
            for (int i = 0; i < 4 && stop.reason != StopReason::kDead; ++i) {
                stop = stop.reason == StopReason::kSyscall ? thread.complete_syscall(i == 1 ? -1 : 0) : thread.resume();
                if (stop.reason == StopReason::kFault) break;
            }
        }
    }
    // The witness lives, and so does everything mapped.
    EXPECT_EQ(witness->complete_syscall(9).syscall.nr, 9u);
    EXPECT_EQ(std::memcmp(data() + 0x3000, &canary, 8), 0);
    RecordProperty("deaths", static_cast<int>(deaths));
}

// A frame of the application's making, through the one rt_sigreturn that is let through: it can set what it could set
// anyway, and break its own signal handling.
TEST_F(SeccompHostileTest, ForgedSigreturnHurtsOnlyItsStub) {
    for (int variant = 0; variant < 3; ++variant) {
        auto space = make_space();
        auto thread = make_thread(*space, prog_jump);
        // Just before rt_sigreturn: mov $15, %eax; syscall.
        thread->registers().r15 = stub_address(casemate_stub_sigreturn_return) - 7;
        thread->registers().sp = kData + 8;
        auto* frame = reinterpret_cast<SignalFrame*>(data());
        std::memset(static_cast<void*>(frame), 0, sizeof(*frame));
        frame->uc_flags = 6;
        frame->cs = 0x33;
        frame->ss = 0x2b;
        frame->general[17] = 0x3202;
        frame->general[16] = at(prog_syscalls);
        frame->general[13] = 55;  // rax
        frame->stack_address = kData + 0x1000;
        frame->stack_size = 0x2000;
        if (variant == 1) frame->signal_mask = ~0ULL;
        if (variant == 2) frame->general[16] = 0x8000'0000'0000'0000;
        Stop stop = thread->resume();
        if (variant == 2) {
            // The fault's frame lies on the forged stack: the stub is condemned.
            EXPECT_EQ(stop.reason, StopReason::kDead);
            continue;
        }
        ASSERT_EQ(stop.reason, StopReason::kSyscall);
        EXPECT_EQ(stop.syscall.nr, 55u);
        if (variant == 0) {
            stop = thread->complete_and_stop(3);
            EXPECT_EQ(stop.reason, StopReason::kDead);
        } else {
            // All signals blocked: the stop does not come, the next syscall does.
            stop = thread->complete_and_stop(3);
            EXPECT_EQ(stop.reason, StopReason::kSyscall);
            EXPECT_EQ(stop.syscall.nr, 3u);
            stop = thread->complete_syscall(SYS_clone);  // SIGSYS while blocked kills
            EXPECT_EQ(stop.reason, StopReason::kDead);
        }
    }
    auto space = make_space();
    EXPECT_EQ(make_thread(*space, prog_syscalls)->resume().reason, StopReason::kSyscall);
}

TEST_F(SeccompHostileTest, ScribblingOverThreadAreasHurtsOnlyItsStub) {
    for (uint64_t pattern :
         std::initializer_list<uint64_t>{~0ULL, 0, 0x4141414141414141, STUB_CODE, 0x00000007'00000007}) {
        auto space = make_space();
        auto victim = make_thread(*space, prog_syscalls);
        victim->registers().ax = SYS_clone;
        auto scribbler = make_thread(*space, prog_scribble);
        scribbler->registers().di = Block::area_address(3);
        scribbler->registers().si = STUB_AREAS_TOP;
        scribbler->registers().dx = pattern;
        std::thread sentry([&] {
            Stop stop = scribbler->resume();
            while (stop.reason != StopReason::kDead) {
                stop = stop.reason == StopReason::kSyscall ? scribbler->complete_syscall(0) : scribbler->resume();
            }
        });
        Stop stop = victim->resume();
        for (int i = 0; i < 300 && stop.reason != StopReason::kDead; ++i) {
            victim->fp_state();
            stop = stop.reason == StopReason::kSyscall ? victim->complete_syscall(SYS_clone) : victim->resume();
            if (i % 50 == 49) {
                auto more = space->create_thread();
                const MapOrder order = map_order(0x70000000, 0x1000, PROT_READ, 0);
                auto applied = space->apply({&order, 1});
                static_cast<void>(applied);
            }
        }
        space->kill();
        sentry.join();
    }
    auto space = make_space();
    EXPECT_EQ(make_thread(*space, prog_syscalls)->resume().reason, StopReason::kSyscall);
}

// What the map thread's recvmsg is told and writes is the application's to spoil. Then descriptors go missing, and the
// stub with them: none may stay behind, whose number a later map would take for another file.
TEST_F(SeccompHostileTest, SpoiltPassingLeavesNoDescriptorBehind) {
    UniqueFd files[2];
    for (int i = 0; i < 2; ++i) {
        files[i].reset(memfd_create("passed", MFD_CLOEXEC));
        ASSERT_EQ(ftruncate(files[i].get(), 0x1000), 0);
        ASSERT_EQ(pwrite(files[i].get(), i == 0 ? "first" : "other", 5, 0), 5);
    }
    const uint64_t line = Block::area_address(0) + STUB_AREA_HEADER + STUB_PASS;
    for (uint64_t pattern : std::initializer_list<uint64_t>{0, 1, 16, 20, kData, line, STUB_ORDERS, ~0ULL}) {
        auto space = make_space();
        auto victim = make_thread(*space, prog_syscalls);
        auto scribbler = make_thread(*space, prog_scribble);
        scribbler->registers().di = line;
        scribbler->registers().si = line + sizeof(PassLine);
        scribbler->registers().dx = pattern;
        std::thread sentry([&] {
            Stop stop = scribbler->resume();
            while (stop.reason != StopReason::kDead) stop = scribbler->resume();
        });
        const auto passed = [&] {
            int found = 0;
            const std::string folder = "/proc/" + std::to_string(space->host_process_id()) + "/fd/";
            for (int fd = 0; fd < 40; ++fd) {
                char target[256] = {};
                if (readlink((folder + std::to_string(fd)).c_str(), target, sizeof(target) - 1) > 0)
                    found += strstr(target, "passed") != nullptr;
            }
            return found;
        };
        for (int i = 0; i < 300; ++i) {
            const uint64_t first = 0x70000000, other = 0x70001000;
            const MapOrder orders[] = {map_order(first, 0x1000, PROT_READ, 0, files[0].get()),
                                       map_order(other, 0x1000, PROT_READ, 0, files[1].get())};
            if (!space->apply(orders).ok()) break;
            EXPECT_EQ(passed(), 0);
            std::byte seen[10];
            EXPECT_TRUE(space->read_memory(first, std::span(seen, 5)).ok());
            EXPECT_TRUE(space->read_memory(other, std::span(seen + 5, 5)).ok());
            EXPECT_EQ(std::memcmp(seen, "firstother", 10), 0);
        }
        space->kill();
        sentry.join();
    }
}

}  // namespace
}  // namespace casemate::sentry::seccomp
