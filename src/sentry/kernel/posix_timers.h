// timer_create(2) and friends: the POSIX timers of a process.
#pragma once

#include <map>
#include <mutex>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/timers.h"

namespace casemate::sentry {

class Process;
class Task;

class PosixTimer final : public RefCounted, private Timer {
  public:
    // `thread` null: the signal goes to the process. signo 0: SIGEV_NONE.
    PosixTimer(Process& process, int id, int clock, int signo, sigval value, int thread_tid);

    struct Setting {
        Nanoseconds remaining = 0, interval = 0;
    };
    Setting get();
    // `when` on the timer's clock if absolute, else from now; 0 stops it. The old setting.
    Setting set(Nanoseconds when, Nanoseconds interval, bool absolute);
    int overrun();
    // No more signals; waits for one that is being sent.
    void stop();
    // Its queued signal was taken: the overruns it gathered are the signal's.
    int signal_taken();

  private:
    void expired() override;
    Nanoseconds now() const;
    void arm_locked();

    Process& process_;
    const int id_, clock_, signo_;
    const sigval value_;
    const int thread_tid_;
    std::mutex mutex_;
    Nanoseconds due_ = 0, interval_ = 0;  // on its clock; 0: off; guarded by mutex_, as those below
    bool queued_ = false;                 // its signal is pending
    uint64_t missed_ = 0;                 // expiries since it was queued
    int overrun_ = 0;                     // of the last delivered signal
};

class PosixTimers {
  public:
    explicit PosixTimers(Process& process) : process_(process) {}
    ~PosixTimers();
    // `value` null: the id itself.
    SysResult<int> create(int clock, int signo, const sigval* value, int thread_tid, uint64_t limit);
    SysResult<Ref<PosixTimer>> find(int id);
    SysResult<void> remove(int id);
    void remove_all();  // exec and exit

    struct Entry {
        int id;
        Ref<PosixTimer> timer;
    };

  private:
    Process& process_;
    std::mutex mutex_;
    std::map<int, Ref<PosixTimer>> timers_;  // guarded by mutex_
    int next_ = 0;
};

// Fills si_overrun of a signal that a timer sent.
void signal_of_timer_taken(QueuedSignal& signal);

}  // namespace casemate::sentry
