#include "sentry/platform/seccomp/stub_cleaner.h"

#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>

namespace casemate::sentry::seccomp {

StubCleaner::~StubCleaner() {
    {
        std::lock_guard lock(mutex_);
        stop_ = true;
    }
    called_.notify_one();
    if (started_) pthread_join(thread_, nullptr);
}

bool StubCleaner::start_thread() {
    if (started_) return true;
    cpu_set_t cpus;
    if (alone_ || sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) < 2) {
        alone_ = true;
        return false;
    }
    // All signals are for other threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto body = [](void* self) -> void* {
        static_cast<StubCleaner*>(self)->run();
        return nullptr;
    };
    started_ = pthread_create(&thread_, nullptr, body, this) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started_;
}

bool StubCleaner::add(std::unique_ptr<StubProcess>& stub) {
    {
        std::lock_guard lock(mutex_);
        if (used_.size() >= kMost || !start_thread()) return false;
        used_.push_back(std::move(stub));
        if (working_) return true;
        working_ = true;
    }
    called_.notify_one();
    return true;
}

std::unique_ptr<StubProcess> StubCleaner::take() {
    std::lock_guard lock(mutex_);
    if (used_.empty()) return nullptr;
    auto stub = std::move(used_.back());
    used_.pop_back();
    return stub;
}

void StubCleaner::run() {
    prctl(PR_SET_NAME, "cleaner");
    std::unique_lock lock(mutex_);
    while (true) {
        if (used_.empty()) {
            if (stop_) return;
            working_ = false;
            called_.wait(lock, [&] { return working_ || stop_; });
            continue;
        }
        auto stub = std::move(used_.front());
        used_.erase(used_.begin());
        lock.unlock();
        const bool clear = stub->clear();
        cleared_(std::move(stub), clear);
        lock.lock();
    }
}

}  // namespace casemate::sentry::seccomp
