// An epoll loop for one thread: descriptors, timers, deferred work, signals, child exits.
//
// Everything but post() and quit() is for the loop's own thread. Callbacks may add and remove anything, themselves
// included: after remove() returns, the removed callback does not run again, even if its event was already fetched.
// A callback must not block: it stalls the pod.
//
// Example:
//   auto loop = TRY(EventLoop::create());
//   TRY(loop->watch(fd, EPOLLIN, [&](uint32_t events) { ... }));
//   loop->after(5s, [&] { loop->quit(1); });
//   int code = loop->run();
#pragma once

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/guarded.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "linux/process.h"

namespace casemate::linux {

class EventLoop {
  public:
    using Callback = std::function<void()>;
    using FdCallback = std::function<void(uint32_t events)>;  // EPOLL*
    using SignalCallback = std::function<void(const signalfd_siginfo&)>;
    using ExitCallback = std::function<void(ExitStatus)>;
    using TimerId = uint64_t;
    using Clock = std::chrono::steady_clock;

    static SysResult<std::unique_ptr<EventLoop>> create();
    ~EventLoop();
    EventLoop(const EventLoop&) = delete;

    // Watches a borrowed descriptor, level-triggered unless EPOLLET is given. EEXIST if it is watched already. It must
    // be removed before it is closed.
    SysResult<void> watch(int fd, uint32_t events, FdCallback callback);
    SysResult<void> change(int fd, uint32_t events);
    void remove(int fd);

    TimerId after(std::chrono::nanoseconds delay, Callback callback);
    void cancel(TimerId id);

    // Runs `callback` on the loop's next turn. post() is the same for any thread.
    void defer(Callback callback);
    void post(Callback callback);

    // Blocks the signals in the calling thread (do it before other threads start, which inherit that) and gives them
    // to `callback`. Children made by host/jail.h get a clean mask; others must see to it themselves.
    SysResult<void> on_signals(std::initializer_list<int> signals, SignalCallback callback);

    // Reaps the child behind the pidfd when it ends; the loop keeps the pidfd until then. Returns its number, by which
    // forget_exit() ends the watch without reaping.
    SysResult<int> on_exit(UniqueFd pidfd, ExitCallback callback);
    // Gives the pidfd back; empty if there is no such watch.
    UniqueFd forget_exit(int pidfd);

    // Runs until quit(), returns its code. May be called again.
    int run();
    // One turn: waits up to `timeout` (negative: without end) and runs what is due.
    void run_once(std::chrono::nanoseconds timeout);
    void quit(int code = 0);  // any thread

    // For a loop around this one: readable when there is something to do, but for what is due at a time.
    int fd() const { return epoll_.get(); }
    bool quitting() const { return quit_.load(); }
    // Until something is due, at most `timeout` (negative: without end; so is the answer if nothing ever is).
    std::chrono::nanoseconds time_to_next(std::chrono::nanoseconds timeout) const;

  private:
    struct Watch {
        uint32_t generation = 0;
        FdCallback callback;
    };
    struct Child {
        UniqueFd pidfd;
        ExitCallback callback;
    };

    EventLoop() = default;
    void run_deferred();
    void run_timers();
    void read_signals();

    UniqueFd epoll_;
    UniqueFd wake_;
    UniqueFd signal_fd_;
    sigset_t signals_;
    std::map<int, std::shared_ptr<SignalCallback>> signal_callbacks_;
    std::unordered_map<int, std::shared_ptr<Watch>> watches_;
    std::unordered_map<int, Child> children_;
    uint32_t next_generation_ = 1;
    std::map<std::pair<Clock::time_point, TimerId>, Callback> timers_;
    std::unordered_map<TimerId, Clock::time_point> timer_times_;
    TimerId next_timer_ = 1;
    std::vector<Callback> deferred_;
    Guarded<std::vector<Callback>> posted_;
    std::atomic<bool> quit_{false};
    std::atomic<int> quit_code_{0};
};

}  // namespace casemate::linux
