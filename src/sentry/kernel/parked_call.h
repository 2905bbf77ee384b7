// A blocked system call whose thread need not be woken to end it.
//
// A task that blocks in the ordinary way keeps its sentry thread asleep in the handler: who wakes it wakes that thread,
// perhaps on another core, which then answers the application: two wake-ups. A call that has changed nothing yet can be
// parked instead (Task::wait_or_park): its handler returns kParked, its thread waits for the application's next stop
// although the present one is unanswered, and whoever makes the condition true makes the call again, on its own
// thread, and answers the application. A system call of another task does so when it has answered its own application
// (WakeBatch); threads that serve no task, and all who want to interrupt the call, have the application stopped
// instead (kick), which wakes the task's thread to see to it.
//
// A call that comes without a stop (quick_calls.h) is parked by who was asked for its answer: all the same, but that
// its application sleeps elsewhere, and that its thread, which waits for a stop already, knows nothing of it before it
// is stopped, or its time is over.
//
// The state says who may touch the call (and what belongs to "own thread only" of the task):
//
//   kNone     no parked call
//   kArmed    being made by its owner (the task's thread, or who claimed it): a wake-up is only noted
//   kWoken    the same, and to be made again
//   kParked   nobody's; the task's thread waits for a stop
//   kClaimed  whoever won it from kParked makes it again
//   kKicking, kKicked   the task's thread is to see to it
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/platform/platform.h"

namespace casemate::sentry {

class Task;

class ParkedCall {
  public:
    enum class State : uint32_t { kNone, kArmed, kWoken, kParked, kClaimed, kKicking, kKicked };

    void set_task(Task& task) { task_ = &task; }
    State state() const { return state_.load(std::memory_order_seq_cst); }
    void set_state(State state) { state_.store(state, std::memory_order_seq_cst); }
    bool change(State from, State to) { return state_.compare_exchange_strong(from, to, std::memory_order_seq_cst); }
    bool claim() { return state() == State::kParked && change(State::kParked, State::kClaimed); }

    bool armed() const {
        State now = state_.load(std::memory_order_relaxed);
        return now == State::kArmed || now == State::kWoken;
    }

    // Owner: from here on wake-ups are noted.
    void arm(Deadline deadline);
    // Owner: queues it, once or several times. `keep` holds the queue alive.
    void join(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events);
    // Owner: takes it out of its queues.
    void leave();

    // The condition came true, with the call's result: it is not made again. For one that sleeps without a queue
    // (futexes); from any thread, under the lock that leaving takes. True: it is woken by this.
    bool finish(int64_t result);
    // Who claimed it: the task's thread is to see to it.
    void kick();

    // Owner's.
    const Deadline& deadline() const { return deadline_; }
    std::optional<int64_t> result;
    const Stop* stop = nullptr;  // the call itself, in the loop of the task's thread or, without a stop, in its parts

  private:
    // Its place in a queue.
    class Entry final : public Waiter {
      public:
        Entry(ParkedCall& call, Ref<RefCounted> keep, WaitQueue& queue, uint32_t events)
            : Waiter(events), call_(call), keep_(std::move(keep)), queue_(queue) {
            queue_.add(*this);
        }
        ~Entry() override { queue_.remove(*this); }
        // Under the queue's lock, which remove() takes.
        bool notified(uint32_t) override { return call_.wake(); }

      private:
        ParkedCall& call_;
        const Ref<RefCounted> keep_;
        WaitQueue& queue_;
    };
    bool wake();

    Task* task_ = nullptr;
    std::atomic<State> state_{State::kNone};
    std::optional<Entry> entry_;                // the first place
    std::vector<std::unique_ptr<Entry>> more_;  // the others (poll)
    Deadline deadline_;
};

// Something that an event asks for but that cannot be done under the locks of its source.
class DeferredWork : public RefCounted {
  public:
    virtual void run() = 0;
};

// The parked calls that a task's thread has claimed while it worked for its own task. It sees to them before it waits
// for anything.
class WakeBatch {
  public:
    explicit WakeBatch(Task& task);
    // For a thread that serves no task of its own, but answers calls of all (quick_calls.cc).
    WakeBatch();
    ~WakeBatch();
    // Before the calling thread waits for anything.
    static void flush() {
        if (WakeBatch* batch = current()) batch->run(WakeOn::kThisCpu);
    }
    // The calling thread's; null if it serves no task.
    static WakeBatch* current();
    // Whether the calling thread, which serves tasks, serves another one than this as its own.
    static bool serves_other_than(const Task& task);

    void add(Task& task) { ready_.emplace_back(&task); }
    // To be done before the present call of the thread's task ends; one without a task of its own sees to it by
    // run_works().
    void add_work(Ref<DeferredWork> work);
    void run_works();
    bool empty() const { return ready_.empty() && works_.empty(); }
    // Makes the calls again and answers. Holds no lock. True: there were any.
    bool run(WakeOn where);

  private:
    Task* const task_;
    bool running_ = false;
    std::vector<Ref<Task>> ready_;
    std::vector<Ref<DeferredWork>> works_;
};

}  // namespace casemate::sentry
