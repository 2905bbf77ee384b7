// What happens when the pod's memory is used up: the memory file has no page left for a touch, and a process is chosen
// and killed as Linux's OOM killer does, so that the host's, which knows nothing of processes, is never needed.
#pragma once

#include <mutex>

#include "base/ref.h"
#include "sentry/kernel/clock.h"

namespace casemate::sentry {

class Kernel;
class Process;
class Task;

// Told of each kill, on the thread that found the memory used up, without locks.
class OomObserver {
  public:
    virtual void oom_killed(Process& victim) = 0;

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

  private:
    Ref<Process> choose();
    void kill(Process& victim);
    bool is_gone(Process& victim);

    Kernel& kernel_;
    OomObserver* observer_ = nullptr;
    std::mutex mutex_;
    Ref<Process> victim_;        // guarded by mutex_: killed last
    Nanoseconds killed_at_ = 0;  // guarded by mutex_
};

}  // namespace casemate::sentry
