#include "linux/event_loop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <thread>

#include "linux/event_fds.h"

namespace casemate::linux {
namespace {

using std::chrono::milliseconds;

class EventLoopTest : public testing::Test {
  protected:
    void SetUp() override { loop_ = MUST(EventLoop::create()); }
    std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, tells_of_descriptors_until_removed) {
    Pipe pipe = MUST(create_pipe());
    int calls = 0;
    int fd = pipe.read_end.get();
    ASSERT_TRUE(loop_
                    ->watch(fd, EPOLLIN,
                            [&](uint32_t events) {
                                EXPECT_NE(events & EPOLLIN, 0u);
                                if (++calls == 3) loop_->remove(fd);
                            })
                    .ok());
    EXPECT_EQ(loop_->watch(fd, EPOLLIN, [](uint32_t) {}).error().value, EEXIST);
    ASSERT_EQ(::write(pipe.write_end.get(), "x", 1), 1);
    for (int i = 0; i < 10; i++) loop_->run_once(milliseconds(0));
    EXPECT_EQ(calls, 3);
}

TEST_F(EventLoopTest, an_event_fetched_for_a_removed_watch_is_dropped) {
    Pipe one = MUST(create_pipe()), two = MUST(create_pipe());
    int calls = 0;
    // Whichever runs first removes the other, though both are ready in one turn.
    auto remove_other = [&](int other) {
        return [&, other](uint32_t) {
            calls++;
            loop_->remove(other);
            EXPECT_TRUE(loop_->watch(other, 0, [&](uint32_t) { calls += 100; }).ok());
        };
    };
    ASSERT_TRUE(loop_->watch(one.read_end.get(), EPOLLIN, remove_other(two.read_end.get())).ok());
    ASSERT_TRUE(loop_->watch(two.read_end.get(), EPOLLIN, remove_other(one.read_end.get())).ok());
    ASSERT_EQ(::write(one.write_end.get(), "x", 1) + ::write(two.write_end.get(), "x", 1), 2);
    loop_->run_once(milliseconds(0));
    EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, timers_run_in_order_and_can_be_cancelled) {
    std::string order;
    loop_->after(milliseconds(20), [&] {
        order += "c";
        loop_->quit(5);
    });
    loop_->after(milliseconds(5), [&] { order += "b"; });
    auto cancelled = loop_->after(milliseconds(6), [&] { order += "x"; });
    loop_->after(milliseconds(0), [&] {
        order += "a";
        loop_->cancel(cancelled);
    });
    EXPECT_EQ(loop_->run(), 5);
    EXPECT_EQ(order, "abc");
}

TEST_F(EventLoopTest, work_is_posted_from_other_threads) {
    int count = 0;
    std::thread thread([&] {
        for (int i = 0; i < 1000; i++) loop_->post([&] { count++; });
        loop_->post([&] { loop_->defer([&] { loop_->quit(); }); });
    });
    EXPECT_EQ(loop_->run(), 0);
    thread.join();
    EXPECT_EQ(count, 1000);
}

TEST_F(EventLoopTest, signals_come_to_their_callbacks) {
    std::string got;
    ASSERT_TRUE(loop_->on_signals({SIGUSR1}, [&](const signalfd_siginfo&) { got += "1"; }).ok());
    ASSERT_TRUE(loop_
                    ->on_signals({SIGUSR2},
                                 [&](const signalfd_siginfo& info) {
                                     got += info.ssi_pid == static_cast<uint32_t>(::getpid()) ? "2" : "?";
                                 })
                    .ok());
    ::kill(::getpid(), SIGUSR1);
    ::kill(::getpid(), SIGUSR2);
    loop_->run_once(milliseconds(1000));
    EXPECT_EQ(got, "12");
}

TEST_F(EventLoopTest, children_are_reaped) {
    pid_t child = ::fork();
    if (child == 0) ::_exit(3);
    ExitStatus seen;
    ASSERT_TRUE(loop_
                    ->on_exit(MUST(pidfd_open(child)),
                              [&](ExitStatus status) {
                                  seen = status;
                                  loop_->quit();
                              })
                    .ok());
    loop_->run();
    EXPECT_EQ(seen, (ExitStatus{false, 3}));
    EXPECT_EQ(::kill(child, 0), -1);

    child = ::fork();
    if (child == 0)
        for (;;) ::pause();
    int number = MUST(loop_->on_exit(MUST(pidfd_open(child)), [&](ExitStatus) { ADD_FAILURE(); }));
    UniqueFd pidfd = loop_->forget_exit(number);
    ASSERT_TRUE(pidfd);
    kill_and_reap(pidfd.get());
    loop_->run_once(milliseconds(0));
}

}  // namespace
}  // namespace casemate::linux
