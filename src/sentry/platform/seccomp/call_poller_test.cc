// Calls in shared memory: answered while nobody drives the thread, refused, forged, interrupted.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "sentry/platform/seccomp/platform_fixture.h"

namespace casemate::sentry::seccomp {
namespace {

constexpr uint64_t kThunkPage = kCode - 0x10000;
constexpr uint64_t kFileThunks = 0x20000;
constexpr uint64_t kFileCopy = 0x30000;

class CallPollerTest : public SeccompPlatformTest {
  protected:
    // Answers getpid with a count, refuses all else.
    struct Answers final : QuickCalls {
        std::optional<QuickAnswer> answer_now(const SyscallStop& call) override {
            ++asked;
            if (parks.load()) return QuickAnswer{.parked = true, .deadline = deadline};
            if (call.nr != SYS_getpid || refuse.load()) return std::nullopt;
            return QuickAnswer{++count, false};
        }
        void parked() override { ++parked_calls; }
        void answered() override {}
        std::atomic<int64_t> asked{0}, count{0};
        std::atomic<bool> refuse{false}, parks{false};
        std::atomic<int> parked_calls{0};
        std::optional<int64_t> deadline;
    };
    // Lets the thread call until a call of it is parked; false: this machine's poller never came.
    bool run_until_parked() {
        answers_.parks = true;
        waiter_ = std::thread([this] {
            for (int i = 0; i < 20'000 && stop_.reason == StopReason::kSyscall; ++i)
                stop_ = thread_->complete_syscall(0);
        });
        for (int i = 0; i < 5000 && answers_.parked_calls.load() == 0; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return answers_.parked_calls.load() > 0;
    }
    void end_run() {
        answers_.parks = false;
        answers_.refuse = true;
        thread_->interrupt();
        waiter_.join();
    }

    // A space whose getpid loop is patched, and a thread that runs it and has made its first call.
    void start() {
        space_ = make_space();
        const MapOrder thunks = map_order(kThunkPage, 0x1000, PROT_READ | PROT_EXEC, kFileThunks);
        ASSERT_TRUE(space_->apply({&thunks, 1}).ok());
        thread_ = make_thread(*space_, prog_getpid_loop);
        thread_->set_quick_calls(&answers_);
        stop_ = thread_->resume();
        ASSERT_EQ(stop_.reason, StopReason::kSyscall);
        auto* page = reinterpret_cast<std::byte*>(memory_.data() + kFileCopy);
        std::memcpy(page, memory_.data() + kFileCode, 0x1000);
        ASSERT_EQ(space_->patch_call_site(
                      stop_.syscall, {.page_address = kCode,
                                      .page = {page, 0x1000},
                                      .thunks_address = kThunkPage,
                                      .thunks = {reinterpret_cast<std::byte*>(memory_.data() + kFileThunks), 0x1000}}),
                  PatchOutcome::kDone);
        const MapOrder copy = map_order(kCode, 0x1000, PROT_READ | PROT_EXEC, kFileCopy);
        ASSERT_TRUE(space_->apply({&copy, 1}).ok());
    }
    Answers answers_;
    std::thread waiter_;
    std::unique_ptr<HostAddressSpace> space_;
    std::unique_ptr<AppThread> thread_;
    Stop stop_;
};

TEST_F(CallPollerTest, APatchedSiteWorksWithoutAPoller) {
    start();
    thread_->set_quick_calls(nullptr);
    for (int i = 0; i < 1000; ++i) {
        stop_ = thread_->complete_syscall(i);
        ASSERT_EQ(stop_.reason, StopReason::kSyscall);
        ASSERT_EQ(stop_.syscall.nr, static_cast<uint64_t>(SYS_getpid));
    }
    EXPECT_EQ(platform_->calls_polled(), 0u);
    EXPECT_EQ(answers_.asked.load(), 0);
}

// Whatever the machine does, each call is answered once: by the poller or by a stop.
TEST_F(CallPollerTest, EachCallIsAnsweredOnceByOneOfTheTwo) {
    start();
    Stop stop = stop_;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
    while (std::chrono::steady_clock::now() < end && answers_.count.load() < 1000) {
        answers_.refuse = answers_.count.load() % 100 == 99 && !answers_.refuse.load();
        const int64_t before = answers_.count.load();
        std::thread interrupter([&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            thread_->interrupt();
        });
        // Slow answers until the interruption comes.
        do {
            stop = stop.reason == StopReason::kSyscall ? thread_->complete_syscall(0) : thread_->resume();
        } while (stop.reason == StopReason::kSyscall);
        interrupter.join();
        ASSERT_EQ(stop.reason, StopReason::kInterrupted);
        // Never inside of the trampoline: at the site, or behind its call.
        const uint64_t ip = thread_->registers().ip;
        ASSERT_GE(ip, at(prog_getpid_loop));
        ASSERT_LE(ip, at(prog_getpid_loop) + 9);
        if (ip == at(prog_getpid_loop) + 5) {
            ASSERT_EQ(thread_->registers().ax, static_cast<uint64_t>(SYS_getpid));
        }
        ASSERT_EQ(thread_->registers().gs_base, 0u);
        ASSERT_GE(answers_.count.load(), before);
    }
    answers_.refuse = true;
    do {
        stop = thread_->resume();
    } while (stop.reason == StopReason::kInterrupted);
    EXPECT_EQ(stop.reason, StopReason::kSyscall);
}

// On one CPU, which the application, its driver and the poller share.
TEST_F(CallPollerTest, OnOneCpuTheyTakeTurns) {
    cpu_set_t before, only;
    ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    CPU_ZERO(&only);
    CPU_SET(static_cast<size_t>(sched_getcpu()), &only);
    ASSERT_EQ(sched_setaffinity(0, sizeof(only), &only), 0);
    // What is made from here on inherits it.
    platform_.reset();
    auto platform = SeccompPlatform::create(memory_file_.get());
    ASSERT_TRUE(platform.ok());
    platform_ = std::move(*platform);
    start();
    // On a machine that is busy it may never begin; it may not do harm then.
    std::atomic<bool> over{false};
    std::thread interrupter([&] {
        for (int i = 0; i < 3000 && answers_.count.load() < 2000; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        while (!over.load()) {
            thread_->interrupt();
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    });
    int64_t slow = 0;
    while (stop_.reason == StopReason::kSyscall) {
        ASSERT_EQ(stop_.syscall.nr, static_cast<uint64_t>(SYS_getpid));
        ++slow;
        stop_ = thread_->complete_syscall(0);
    }
    over = true;
    interrupter.join();
    EXPECT_EQ(stop_.reason, StopReason::kInterrupted);
    const uint64_t ip = thread_->registers().ip;
    EXPECT_GE(ip, at(prog_getpid_loop));
    EXPECT_LE(ip, at(prog_getpid_loop) + 9);
    EXPECT_GT(slow, 0);
    EXPECT_LE(answers_.count.load(), static_cast<int64_t>(platform_->calls_polled()));
    RecordProperty("answered", static_cast<int>(answers_.count.load()));
    sched_setaffinity(0, sizeof(before), &before);
}

// However much it was used: without calls it sleeps.
TEST_F(CallPollerTest, SleepsSoonAfterTheLastCall) {
    start();
    answers_.refuse = true;
    for (int i = 0; i < 2000; ++i) {
        stop_ = thread_->complete_syscall(0);
        ASSERT_EQ(stop_.reason, StopReason::kSyscall);
    }
    for (int i = 0; i < 10'000 && platform_->polling(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_FALSE(platform_->polling());
    const uint64_t calls = platform_->calls_polled();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(platform_->polling());
    EXPECT_EQ(platform_->calls_polled(), calls);
}

// A platform whose calls are slow has its poller asleep.
TEST_F(CallPollerTest, SlowCallsWakeNobody) {
    start();
    for (int i = 0; i < 30; ++i) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        stop_ = thread_->complete_syscall(0);
        ASSERT_EQ(stop_.reason, StopReason::kSyscall);
    }
    EXPECT_EQ(answers_.asked.load(), 0);
}

TEST_F(CallPollerTest, AParkedCallIsAnsweredWhereItWaits) {
    start();
    if (!run_until_parked()) {
        end_run();
        GTEST_SKIP() << "no CPU for the poller";
    }
    answers_.parks = false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_EQ(answers_.parked_calls.load(), 1);  // it waits
    EXPECT_FALSE(thread_->answer_stopped(7));
    thread_->answer(7, WakeOn::kAnyCpu);
    // The loop goes on: by the poller or by stops.
    const int64_t asked = answers_.asked.load();
    for (int i = 0; i < 5000 && stop_.reason == StopReason::kSyscall && answers_.asked.load() == asked; ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    end_run();
    EXPECT_EQ(answers_.parked_calls.load(), 1);
}

TEST_F(CallPollerTest, AParkedCallThatIsInterruptedIsItsDriversToEnd) {
    start();
    if (!run_until_parked()) {
        end_run();
        GTEST_SKIP() << "no CPU for the poller";
    }
    end_run();
    ASSERT_EQ(stop_.reason, StopReason::kInterrupted);
    EXPECT_EQ(thread_->registers().ip, at(prog_getpid_loop) + 7);  // behind the call, whose result is to come
    EXPECT_EQ(thread_->registers().gs_base, 0u);
    // Whoever had the result now would leave it there.
    EXPECT_TRUE(thread_->answer_stopped(77));
    EXPECT_EQ(thread_->registers().ax, 77u);
    EXPECT_FALSE(thread_->answer_stopped(78));
    stop_ = thread_->resume();
    while (stop_.reason == StopReason::kInterrupted) stop_ = thread_->resume();
    EXPECT_EQ(stop_.reason, StopReason::kSyscall);
    EXPECT_EQ(stop_.syscall.nr, static_cast<uint64_t>(SYS_getpid));
}

TEST_F(CallPollerTest, AParkedCallEndsAtItsDeadline) {
    start();
    answers_.deadline = monotonic_time() + 300'000'000;
    if (!run_until_parked()) {
        end_run();
        GTEST_SKIP() << "no CPU for the poller";
    }
    answers_.parks = false;
    answers_.refuse = true;
    waiter_.join();
    ASSERT_EQ(stop_.reason, StopReason::kTimeout);
    EXPECT_GE(monotonic_time(), *answers_.deadline - 1'000'000);
    thread_->take_parked();
    thread_->answer(-EINTR, WakeOn::kThisCpu);
    stop_ = thread_->wait(std::nullopt);
    EXPECT_EQ(stop_.reason, StopReason::kSyscall);
    // The same, with a signal before the next instruction.
    answers_.parks = true;
    answers_.refuse = false;
    answers_.deadline = monotonic_time() + 300'000'000;
    const int before = answers_.parked_calls.load();
    for (int i = 0; i < 20'000 && stop_.reason == StopReason::kSyscall; ++i) stop_ = thread_->complete_syscall(0);
    if (answers_.parked_calls.load() == before) GTEST_SKIP() << "no CPU for the poller";
    ASSERT_EQ(stop_.reason, StopReason::kTimeout);
    answers_.parks = false;
    thread_->take_parked();
    stop_ = thread_->complete_and_stop(99);
    ASSERT_EQ(stop_.reason, StopReason::kInterrupted);
    EXPECT_EQ(thread_->registers().ip, at(prog_getpid_loop) + 7);
    EXPECT_EQ(thread_->registers().ax, 99u);
}

}  // namespace
}  // namespace casemate::sentry::seccomp
