// TaskThreads: the sentry's threads behind tasks. One per task, with a small stack, kept for the next task when its
// task ends: a fork then costs no thread creation.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "base/result.h"

namespace casemate::sentry {

class Task;

class TaskThreads {
  public:
    TaskThreads() = default;
    ~TaskThreads();  // waits for all; their tasks must have ended

    // Makes sure that start() cannot fail: EAGAIN if the host gives no thread.
    SysResult<void> reserve();
    // Runs `task` (TaskRunner::run) on a thread of its own. Uses up one reservation.
    void start(Ref<Task> task);
    void cancel_reservation();

  private:
    struct Worker {
        std::condition_variable called;
        Task* task = nullptr;  // owned reference
        bool has_task = false;
        bool reserved = false;
    };
    static void* thread_main(void* argument);
    void serve(Worker& worker);

    static constexpr size_t kStackSize = 256 << 10;
    static constexpr size_t kKeptIdle = 16;

    std::mutex mutex_;
    std::vector<Worker*> idle_;      // guarded by mutex_
    std::vector<Worker*> reserved_;  // guarded by mutex_
    size_t threads_ = 0;             // guarded by mutex_
    bool stop_ = false;              // guarded by mutex_
    std::condition_variable gone_;
};

}  // namespace casemate::sentry
