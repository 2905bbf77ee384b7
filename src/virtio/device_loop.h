// The event loop of a VM's devices: one epoll set, served by one thread, for doorbells, taps, sockets, rings and
// timers.
//
// Unlike linux::EventLoop it may be used from any thread, because a vCPU thread activates and resets devices. The rule
// is one lock per device (Device::mutex()): every callback runs under its device's lock, and watches are added, changed
// and removed under it. So a removed callback never runs again, even if its event was fetched already.
//
// Locks, outer to inner:  turn  >  a device's lock  >  the loop's own table.
//
// A callback must not block and does a bounded amount of work: what is left it defers to the next turn.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::virtio {

class DeviceLoop {
  public:
    using Id = uint64_t;  // 0 is none
    using Clock = std::chrono::steady_clock;

    static SysResult<std::unique_ptr<DeviceLoop>> create();
    ~DeviceLoop();
    DeviceLoop(const DeviceLoop&) = delete;

    // `owner` is the device's lock and must outlive the watch. The descriptor is borrowed: remove before it is closed.
    SysResult<Id> watch(std::mutex& owner, int fd, uint32_t events, std::function<void(uint32_t events)> callback);
    // 0 for `events`: quiet, but for errors and hang-ups.
    void change(Id id, uint32_t events);
    void remove(Id id);

    Id after(std::mutex& owner, std::chrono::nanoseconds delay, std::function<void()> callback);
    // On the next turn, so that other descriptors have theirs before.
    Id defer(std::mutex& owner, std::function<void()> callback) {
        return after(owner, std::chrono::nanoseconds(0), std::move(callback));
    }
    void cancel(Id id);

    // Either a thread of its own, which calls `prepare` first (a seccomp list, a name) ...
    Result<void> start(std::function<void()> prepare = {});
    void stop();
    // ... or somebody else's loop, which waits until fd() is readable and then calls turn().
    int fd() const { return epoll_.get(); }
    void turn(std::chrono::milliseconds timeout);

    // No callback runs between these two. Not from a callback. A thread of its own waits meanwhile; for somebody else's
    // loop, which has other things to do, turn() returns at once: it had better not watch fd(), which stays readable.
    void pause();
    void resume();

    // Timers that are set; a guest can set and cancel them all day.
    size_t timer_count();

  private:
    struct Entry {
        std::mutex* owner;
        int fd = -1;
        std::atomic<bool> removed{false};
        std::function<void(uint32_t)> callback;
        std::function<void()> timer;
        std::multimap<Clock::time_point, Id>::iterator due;  // of a timer
    };

    DeviceLoop() = default;
    SysResult<void> add(int fd, Id id);  // one of the loop's own
    std::shared_ptr<Entry> find(Id id);
    void run_timers();
    void arm_locked();

    UniqueFd epoll_;
    UniqueFd timer_fd_;
    UniqueFd wake_;  // of the thread of its own
    std::mutex turn_;
    std::condition_variable resumed_;
    bool paused_ = false;      // guarded by turn_
    bool own_thread_ = false;  // the same
    std::mutex table_;
    // Guarded by table_:
    std::unordered_map<Id, std::shared_ptr<Entry>> entries_;
    std::multimap<Clock::time_point, Id> timers_;
    Clock::time_point armed_ = Clock::time_point::max();
    Id next_id_ = 16;  // below: the loop's own descriptors
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

}  // namespace casemate::virtio
