// TaskThreads: the sentry's threads behind tasks. One per task, with a small stack, kept for the next task when its
// task ends: a fork then costs no thread creation.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <sched.h>
#include <sys/types.h>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/platform/platform.h"

namespace casemate::sentry {

class Task;

class TaskThreads {
  public:
    TaskThreads() = default;
    ~TaskThreads();  // waits for all; their tasks must have ended

    // Makes sure that start() cannot fail: EAGAIN if the host gives no thread.
    SysResult<void> reserve();
    // Runs `task` (TaskRunner::run) on a thread of its own, which begins on the CPU of the caller if that is about to
    // wait. Uses up one reservation.
    void start(Ref<Task> task, WakeOn where);
    void cancel_reservation();

  private:
    struct Worker {
        std::condition_variable called;
        Task* task = nullptr;  // owned reference
        bool has_task = false;
        pid_t thread_id = 0;            // 0: it has not come to serve() yet
        std::optional<cpu_set_t> home;  // its CPUs, while it is bound to the one where it shall begin
    };
    struct Start {
        TaskThreads* threads;
        std::shared_ptr<Worker> worker;
    };
    static void* thread_main(void* argument);
    void serve(const std::shared_ptr<Worker>& worker);

    static constexpr size_t kStackSize = 256 << 10;
    static constexpr size_t kKeptIdle = 16;

    std::mutex mutex_;
    std::vector<std::shared_ptr<Worker>> idle_;      // guarded by mutex_, as is what lies in a worker
    std::vector<std::shared_ptr<Worker>> reserved_;  // guarded by mutex_
    size_t threads_ = 0;                             // guarded by mutex_
    bool stop_ = false;                              // guarded by mutex_
    std::condition_variable gone_;
};

}  // namespace casemate::sentry
