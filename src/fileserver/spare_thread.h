// SpareThread: a thread made before the jail forbids making any. It sleeps until it is given its work, and is not
// waited for: the process ends by _exit.
#pragma once

#include <functional>
#include <memory>
#include <semaphore>
#include <thread>

namespace casemate::fileserver {

class SpareThread {
  public:
    SpareThread() : shared_(std::make_shared<Shared>()) {
        std::thread([shared = shared_] {
            shared->given.acquire();
            if (shared->work) shared->work();
        }).detach();
    }
    ~SpareThread() {
        if (!used_) shared_->given.release();
    }
    SpareThread(const SpareThread&) = delete;
    SpareThread& operator=(const SpareThread&) = delete;

    // Once.
    void run(std::function<void()> work) {
        shared_->work = std::move(work);
        used_ = true;
        shared_->given.release();
    }

  private:
    struct Shared {
        std::binary_semaphore given{0};
        std::function<void()> work;
    };
    const std::shared_ptr<Shared> shared_;
    bool used_ = false;
};

}  // namespace casemate::fileserver
