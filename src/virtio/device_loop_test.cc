#include "virtio/device_loop.h"

#include <gtest/gtest.h>

#include "linux/event_fds.h"

namespace casemate::virtio {
namespace {

using std::chrono::milliseconds;

TEST(DeviceLoop, RunsCallbacksUnderTheOwnersLock) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    UniqueFd event = MUST(linux::create_eventfd());
    int calls = 0;
    auto id = MUST(loop->watch(owner, event.get(), EPOLLIN, [&](uint32_t) {
        EXPECT_FALSE(owner.try_lock());
        linux::drain_eventfd(event.get());
        ++calls;
    }));
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 0);
    linux::signal_eventfd(event.get());
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 1);
    loop->remove(id);
    linux::signal_eventfd(event.get());
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 1);
}

TEST(DeviceLoop, ARemovedCallbackDoesNotRunThoughItsEventWasFetched) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    UniqueFd first = MUST(linux::create_eventfd()), second = MUST(linux::create_eventfd());
    DeviceLoop::Id ids[2];
    int calls = 0;
    auto callback = [&](int other) {
        return [&, other](uint32_t) {
            ++calls;
            loop->remove(ids[other]);
        };
    };
    ids[0] = MUST(loop->watch(owner, first.get(), EPOLLIN, callback(1)));
    ids[1] = MUST(loop->watch(owner, second.get(), EPOLLIN, callback(0)));
    linux::signal_eventfd(first.get());
    linux::signal_eventfd(second.get());
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 1);
}

TEST(DeviceLoop, TimersRunOnceAndCanBeCancelled) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    int calls = 0;
    loop->after(owner, milliseconds(1), [&] { ++calls; });
    auto cancelled = loop->after(owner, milliseconds(1), [&] { calls += 100; });
    loop->after(owner, std::chrono::hours(1), [&] { calls += 1000; });
    loop->cancel(cancelled);
    for (int i = 0; i < 100 && calls == 0; ++i) loop->turn(milliseconds(100));
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 1);
    // Earlier than the one that is armed.
    loop->defer(owner, [&] { ++calls; });
    for (int i = 0; i < 100 && calls == 1; ++i) loop->turn(milliseconds(100));
    EXPECT_EQ(calls, 2);
}

TEST(DeviceLoop, CancelledTimersLeaveNothingBehind) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    auto stays = loop->after(owner, std::chrono::hours(1), [] {});
    for (int i = 0; i < 1000; ++i) loop->cancel(loop->after(owner, std::chrono::seconds(30), [] {}));
    EXPECT_EQ(loop->timer_count(), 1u);
    loop->cancel(stays);
    EXPECT_EQ(loop->timer_count(), 0u);
}

// A paused monitor still has to hear "resume".
TEST(DeviceLoop, SomebodyElsesLoopDoesNotWaitForAPausedOne) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    UniqueFd event = MUST(linux::create_eventfd());
    int calls = 0;
    (void)MUST(loop->watch(owner, event.get(), EPOLLIN | EPOLLET, [&](uint32_t) { ++calls; }));
    loop->pause();
    linux::signal_eventfd(event.get());
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 0);
    loop->resume();
    loop->turn(milliseconds(0));
    EXPECT_EQ(calls, 1);
}

TEST(DeviceLoop, WhatIsPausedDoesNotRun) {
    auto loop = MUST(DeviceLoop::create());
    std::mutex owner;
    std::atomic<int> calls{0};
    UniqueFd event = MUST(linux::create_eventfd());
    (void)MUST(loop->watch(owner, event.get(), EPOLLIN, [&](uint32_t) {
        linux::drain_eventfd(event.get());
        ++calls;
    }));
    ASSERT_TRUE(loop->start().ok());
    loop->pause();
    linux::signal_eventfd(event.get());
    EXPECT_EQ(calls, 0);
    loop->resume();
    for (int i = 0; i < 10'000 && calls == 0; ++i) ::usleep(1000);
    EXPECT_EQ(calls, 1);
    loop->pause();
    loop->stop();  // also while paused
}

}  // namespace
}  // namespace casemate::virtio
