// Clears stubs whose address space has ended, on a thread of its own: unmapping a program takes as long as making one,
// and whoever waits for its end need not wait for that. It runs while another CPU is idle, or when there is time.
//
// A used stub does no harm meanwhile: no thread of it runs, none goes on before the stub is cleared, and what it has
// mapped of the memory file may be another's already.
//
// Thread-safe. Nothing waits for long in it: a stub that is needed at once is taken uncleared.
#pragma once

#include <pthread.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "sentry/platform/seccomp/stub_process.h"

namespace casemate::sentry::seccomp {

class StubCleaner {
  public:
    // Given each stub with whether it is clear and can be used again.
    using Cleared = std::function<void(std::unique_ptr<StubProcess>, bool)>;
    explicit StubCleaner(Cleared cleared) : cleared_(std::move(cleared)) {}
    ~StubCleaner();  // clears what is left

    // False, and `stub` stays: there is no CPU but the caller's, too much to do already, or no thread.
    bool add(std::unique_ptr<StubProcess>& stub);
    // One that is not cleared yet, or null.
    std::unique_ptr<StubProcess> take();

  private:
    static constexpr size_t kMost = 4;

    bool start_thread();
    void run();

    const Cleared cleared_;
    std::mutex mutex_;
    std::condition_variable called_;
    std::vector<std::unique_ptr<StubProcess>> used_;  // guarded by mutex_
    bool working_ = false;                            // guarded by mutex_: it looks at used_ again by itself
    bool stop_ = false;                               // guarded by mutex_
    bool started_ = false, alone_ = false;            // guarded by mutex_
    pthread_t thread_{};
};

}  // namespace casemate::sentry::seccomp
