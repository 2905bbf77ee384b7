// What happens when the pod's memory is used up: the memory file has no page left for a touch, and a process is chosen
// and killed as Linux's OOM killer does, so that the host's, which knows nothing of processes, is never needed. And
// when a container's share of it is (container_memory.h): then one of the container's.
#pragma once

#include <mutex>

#include "base/ref.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/container_memory.h"

namespace casemate::sentry {

class AddressSpace;
class Kernel;
class Process;
class Task;

// Null: it has none (any more).
Ref<AddressSpace> memory_of(Kernel& kernel, Process& process);

enum class OomScope { kPod, kContainer };

// Told of each kill, on the thread that found the memory used up, without locks.
class OomObserver {
  public:
    virtual void oom_killed(Process& victim, OomScope scope) = 0;

  protected:
    ~OomObserver() = default;
};

class OomKiller {
  public:
    explicit OomKiller(Kernel& kernel);
    ~OomKiller();
    void set_observer(OomObserver* observer) { observer_ = observer; }  // before the first process runs

    // `task` needs memory that is not there: kills, unless one that was killed is still going, and waits for what
    // becomes free. The caller tries again, or ends if it was itself the victim.
    void make_room(Task& task);
    // A container holds `held` bytes, more than its limit: kills one of its processes. Null: all are exempt.
    Ref<Process> kill_in(Container& container, uint64_t held, uint64_t limit);
    bool is_gone(Process& victim);
    ContainerMemory& containers() { return containers_; }

  private:
    struct Shortage {
        OomScope scope;
        uint64_t used, limit;
    };
    Ref<Process> choose(Container* container, uint64_t total);
    void kill(Process& victim, const Shortage& shortage);

    Kernel& kernel_;
    OomObserver* observer_ = nullptr;
    std::mutex mutex_;
    Ref<Process> victim_;        // guarded by mutex_: killed last
    Nanoseconds killed_at_ = 0;  // guarded by mutex_
    ContainerMemory containers_{kernel_};
};

}  // namespace casemate::sentry
