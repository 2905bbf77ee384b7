#include "sentry/kernel/task_threads.h"

#include <pthread.h>

#include <memory>

#include "sentry/kernel/task.h"
#include "sentry/kernel/task_run.h"

namespace casemate::sentry {
namespace {
struct Start {
    TaskThreads* threads;
    void* worker;
};
}  // namespace

TaskThreads::~TaskThreads() {
    std::unique_lock lock(mutex_);
    stop_ = true;
    for (Worker* worker : idle_) worker->called.notify_one();
    gone_.wait(lock, [&] { return threads_ == 0; });
}

SysResult<void> TaskThreads::reserve() {
    {
        std::lock_guard lock(mutex_);
        if (!idle_.empty()) {
            reserved_.push_back(idle_.back());
            idle_.pop_back();
            return {};
        }
    }
    auto worker = std::make_unique<Worker>();
    auto start = std::make_unique<Start>(Start{this, worker.get()});
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackSize);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    {
        std::lock_guard lock(mutex_);
        ++threads_;
        reserved_.push_back(worker.get());
    }
    pthread_t thread;
    int failure = pthread_create(&thread, &attributes, thread_main, start.get());
    pthread_attr_destroy(&attributes);
    if (failure != 0) {
        std::lock_guard lock(mutex_);
        --threads_;
        std::erase(reserved_, worker.get());
        return Errno(EAGAIN);
    }
    static_cast<void>(worker.release());  // the thread's own now
    static_cast<void>(start.release());
    return {};
}

void TaskThreads::cancel_reservation() {
    std::lock_guard lock(mutex_);
    idle_.push_back(reserved_.back());
    reserved_.pop_back();
}

void TaskThreads::start(Ref<Task> task) {
    std::lock_guard lock(mutex_);
    CHECK(!reserved_.empty());
    Worker* worker = reserved_.back();
    reserved_.pop_back();
    worker->task = task.release();
    worker->has_task = true;
    worker->called.notify_one();
}

void* TaskThreads::thread_main(void* argument) {
    std::unique_ptr<Start> start(static_cast<Start*>(argument));
    std::unique_ptr<Worker> worker(static_cast<Worker*>(start->worker));
    start->threads->serve(*worker);
    return nullptr;
}

void TaskThreads::serve(Worker& worker) {
    std::unique_lock lock(mutex_);
    while (true) {
        worker.called.wait(lock, [&] { return worker.has_task || stop_; });
        if (!worker.has_task) break;
        Ref<Task> task = Ref<Task>::adopt(worker.task);
        worker.task = nullptr;
        worker.has_task = false;
        lock.unlock();
        TaskRunner::run(*task);
        task.reset();
        lock.lock();
        if (stop_ || idle_.size() >= kKeptIdle) break;
        idle_.push_back(&worker);
    }
    std::erase(idle_, &worker);
    std::erase(reserved_, &worker);
    --threads_;
    // The last touch of this object: the destructor goes on once the lock is released.
    gone_.notify_all();
}

}  // namespace casemate::sentry
