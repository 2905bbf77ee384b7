// The inside of FutexTable: one thread that waits for one word.
#pragma once

#include <vector>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/task_parts.h"

namespace casemate::sentry {

struct FutexTable::Sleeper {
    // `through`: null for a parked call.
    Sleeper(Task& of, Task::ThreadWaiter* through) : task(of), waiter(through) {}

    Task& task;
    Task::ThreadWaiter* const waiter;
    // Guarded by the bucket's lock; `bucket` is read without it to find the lock (a requeue changes it).
    std::atomic<Bucket*> bucket{nullptr};
    Key key;
    GuestAddr address = 0;  // of the word in the sleeper's memory
    uint32_t bitset = ~0u;
    bool linked = false;
    bool woken = false;
    bool wants_lock = false;     // a PI lock is what it waits for
    bool wants_requeue = false;  // waits on a condition to be requeued to a PI lock
    bool granted = false;        // owns the lock now
    Sleeper* next = nullptr;
    Sleeper* previous = nullptr;
};

// That of a parked call, which outlives its handler.
struct FutexSleeper {
    explicit FutexSleeper(Task& task) : sleeper(task, nullptr) {}
    FutexTable::Sleeper sleeper;
};

// Threads to be woken once the bucket's lock is released.
class WakeList {
  public:
    void add(Task& task) { tasks_.emplace_back(&task); }
    ~WakeList() {
        for (const Ref<Task>& task : tasks_) task->unpark();
    }

  private:
    std::vector<Ref<Task>> tasks_;
};

}  // namespace casemate::sentry
