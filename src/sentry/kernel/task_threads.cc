#include "sentry/kernel/task_threads.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "sentry/kernel/cpu_binding.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
TaskThreads::~TaskThreads() {
    std::unique_lock lock(mutex_);
    stop_ = true;
    for (const auto& worker : idle_) worker->called.notify_one();
    gone_.wait(lock, [&] { return threads_ == 0; });
}

SysResult<void> TaskThreads::reserve() {
    {
        std::lock_guard lock(mutex_);
        if (!idle_.empty()) {
            reserved_.push_back(std::move(idle_.back()));
            idle_.pop_back();
            return {};
        }
    }
    auto worker = std::make_shared<Worker>();
    auto start = std::make_unique<Start>(Start{this, worker});
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackSize);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    {
        std::lock_guard lock(mutex_);
        ++threads_;
        reserved_.push_back(worker);
    }
    pthread_t thread;
    int failure = pthread_create(&thread, &attributes, thread_main, start.get());
    pthread_attr_destroy(&attributes);
    if (failure != 0) {
        std::lock_guard lock(mutex_);
        --threads_;
        std::erase(reserved_, worker);
        return Errno(EAGAIN);
    }
    static_cast<void>(start.release());  // the thread's own now
    return {};
}

void TaskThreads::cancel_reservation() {
    std::lock_guard lock(mutex_);
    idle_.push_back(std::move(reserved_.back()));
    reserved_.pop_back();
}

void TaskThreads::start(Ref<Task> task, WakeOn where) {
    std::shared_ptr<Worker> worker;
    {
        std::lock_guard lock(mutex_);
        CHECK(!reserved_.empty());
        worker = std::move(reserved_.back());
        reserved_.pop_back();
        if (where == WakeOn::kThisCpu && worker->thread_id != 0) worker->home = bind_to_this_cpu(worker->thread_id);
        worker->task = task.release();
        worker->has_task = true;
    }
    // Behind the lock, which the worker takes when it wakes.
    worker->called.notify_one();
}

void* TaskThreads::thread_main(void* argument) {
    std::unique_ptr<Start> start(static_cast<Start*>(argument));
    start->threads->serve(start->worker);
    return nullptr;
}

void TaskThreads::serve(const std::shared_ptr<Worker>& worker) {
    std::unique_lock lock(mutex_);
    worker->thread_id = gettid();
    while (true) {
        worker->called.wait(lock, [&] { return worker->has_task || stop_; });
        if (!worker->has_task) break;
        Ref<Task> task = Ref<Task>::adopt(worker->task);
        worker->task = nullptr;
        worker->has_task = false;
        std::optional<cpu_set_t> home = std::exchange(worker->home, std::nullopt);
        lock.unlock();
        if (home) bind_to(0, *home);
        TaskRunner::run(*task);
        task.reset();
        lock.lock();
        if (stop_ || idle_.size() >= kKeptIdle) break;
        idle_.push_back(worker);
    }
    std::erase(idle_, worker);
    std::erase(reserved_, worker);
    --threads_;
    // The last touch of this object: the destructor goes on once the lock is released.
    gone_.notify_all();
}

}  // namespace casemate::sentry
