// Waiting: threads of tasks, epoll instances and timers queue on what they wait for.
//
// A WaitQueue belongs to a waitable object (pipe, socket, futex bucket, child list). Lock order: the owner's lock may
// be held while notify() is called; Waiter::notified() runs under the queue's lock and must only set flags, unpark a
// thread or queue work: it takes no lock of a waitable object.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace casemate::sentry {

// Told beside poll events: a descriptor of the file was closed, or its status flags changed.
constexpr uint32_t kDescriptorChanged = 1 << 24;

// One entry in a queue. Stays linked until removed; the owner removes it before it dies.
class Waiter {
  public:
    // `events`: the poll mask (EPOLLIN...) the waiter cares for.
    explicit Waiter(uint32_t events = ~0u) : events_(events) {}
    Waiter(const Waiter&) = delete;
    Waiter& operator=(const Waiter&) = delete;
    virtual ~Waiter() = default;
    // Something of `events` happened. Returns true if this waiter consumes an exclusive wake-up.
    virtual bool notified(uint32_t events) = 0;

    uint32_t events() const { return events_; }
    void set_events(uint32_t events) { events_ = events; }
    void set_exclusive(bool exclusive) { exclusive_ = exclusive; }

  private:
    friend class WaitQueue;
    uint32_t events_;
    bool exclusive_ = false;
    bool linked_ = false;
    Waiter* next_ = nullptr;
    Waiter* previous_ = nullptr;
};

class WaitQueue {
  public:
    WaitQueue() = default;
    WaitQueue(const WaitQueue&) = delete;
    WaitQueue& operator=(const WaitQueue&) = delete;

    void add(Waiter& waiter);
    // Told before all that are there already.
    void add_first(Waiter& waiter);
    void remove(Waiter& waiter);  // harmless if not linked
    // Tells all waiters whose mask meets `events` (of the exclusive ones: `exclusive_limit` that consume it).
    // Cheap when nobody waits: one atomic load.
    void notify(uint32_t events, uint32_t exclusive_limit = 1);
    bool empty() const { return count_.load(std::memory_order_acquire) == 0; }

  private:
    void count_one();

    std::mutex mutex_;
    Waiter* first_ = nullptr;
    Waiter* last_ = nullptr;
    std::atomic<uint32_t> count_{0};
};

}  // namespace casemate::sentry
