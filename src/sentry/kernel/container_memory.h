// What a container's processes hold of the pod's memory, and the watch over containers whose limit lies below the
// pod's. First touches of pages do not come to the sentry, so the watch counts: not at all while no container has such
// a limit, seldom and by one question while there is room for all, every 20 ms while a limit could be reached by then.
//
// Counted is what dies with the processes: private memory, and shared memory without a file. Files of a tmpfs are the
// pod's, and so are pages of the host's files.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/clock.h"

namespace casemate::sentry {

class Container;
class Kernel;
class Process;

uint64_t memory_held(Kernel& kernel, Container& container);  // bytes

class ContainerMemory {
  public:
    explicit ContainerMemory(Kernel& kernel) : kernel_(kernel) {}
    ~ContainerMemory();

    // Bytes that the container's processes may hold; 0: no limit of its own, which is to be said before it is deleted.
    // Beyond it the OOM killer takes one of them.
    void set_limit(Container& container, uint64_t bytes);
    // The pod's limit is another one.
    void pod_limit_changed();

  private:
    struct Watched {
        Ref<Container> container;
        Ref<Process> victim;  // of the last kill; it may not be gone yet
        Nanoseconds killed_at = 0;
    };
    void run();
    bool is_watched(const Container& container) const;
    // Looks at all, and returns the time until the next look.
    Nanoseconds look(std::vector<Watched>& all);
    uint64_t room_left(Watched& one);

    Kernel& kernel_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Watched> limited_;  // guarded by mutex_
    std::thread thread_;            // guarded by mutex_; made for the first one
    bool stop_ = false;             // guarded by mutex_
    // The watching thread's own.
    uint64_t last_used_ = 0;
    Nanoseconds last_pause_ = 0;
};

}  // namespace casemate::sentry
