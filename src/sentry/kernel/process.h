// Process: a thread group: what its threads share and what its parent waits for.
#pragma once

#include <sys/resource.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/container.h"
#include "sentry/kernel/pid.h"
#include "sentry/kernel/session.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class Kernel;
class Process;
class Task;
class IntervalTimers;
class PosixTimers;

// CPU time and counters of a process, as getrusage and wait4 tell them.
struct ResourceUse {
    uint64_t user_ns = 0, system_ns = 0;
    uint64_t peak_resident = 0;  // bytes
    uint64_t faults = 0;
    uint64_t voluntary_switches = 0;
    void add(const ResourceUse& other) {
        user_ns += other.user_ns;
        system_ns += other.system_ns;
        peak_resident = other.peak_resident > peak_resident ? other.peak_resident : peak_resident;
        faults += other.faults;
        voluntary_switches += other.voluntary_switches;
    }
};

struct ResourceLimit {
    uint64_t soft = RLIM_INFINITY, hard = RLIM_INFINITY;
};
using ResourceLimits = std::array<ResourceLimit, RLIM_NLIMITS>;
ResourceLimits default_limits();

// Told when a process that the sentry itself started (a container's init, an exec session) has ended. Called once,
// without locks, on the process's last thread.
class ProcessObserver {
  public:
    virtual void process_ended(Process& process, int wait_status) = 0;

  protected:
    ~ProcessObserver() = default;
};

class Process final : public RefCounted {
  public:
    Process(Kernel& kernel, Ref<Container> container);
    ~Process() override;

    Kernel& kernel;
    const Ref<Container> container;
    Nanoseconds started = 0;              // CLOCK_MONOTONIC; immutable
    ProcessObserver* observer = nullptr;  // set before the first thread runs

    // --- Guarded by TaskSet::mutex ---
    Ref<Pid> pid;  // of the leader; kept until the process is reaped
    Task* leader = nullptr;
    std::vector<Task*> threads;  // those not released yet; the leader stays until the process is reaped
    size_t live_threads = 0;     // that have not begun to exit
    Process* parent = nullptr;   // null: the sentry
    std::vector<Process*> children;
    Ref<Pid> creator;  // the thread of the parent that made it (PR_SET_PDEATHSIG)
    Ref<Pid> group;
    Ref<Session> session;
    int exit_signal = SIGCHLD;  // to the parent; 0 none
    int parent_death_signal = 0;
    bool has_executed = false;  // execve since the fork: setpgid by the parent is EACCES
    bool child_subreaper = false;
    bool zombie = false;  // all threads have ended
    bool reaped = false;
    int exit_status = 0;                   // as wait4 tells it; valid when zombie
    ResourceUse children_use;              // of waited-for children
    ResourceUse final_use;                 // valid when zombie
    std::condition_variable thread_gone;   // exec waits for the others
    std::vector<Task*> tracees;            // of its threads: those that they trace
    std::vector<TracedExit> traced_exits;  // of such as ended, to be told by wait4

    // Notified when a child changed state, for wait4 and friends.
    WaitQueue child_waiters;

    // --- Guarded by signal_mutex ---
    std::mutex signal_mutex;
    Ref<SignalHandlers> handlers;
    PendingSignals pending;
    std::vector<Task*> signal_targets;       // live threads, as `threads`, for code that holds only this lock
    std::atomic<bool> group_exiting{false};  // exit_group or a fatal signal: all threads end; written under the lock
    int group_exit_status = 0;               // wait status
    std::atomic<Task*> exec_task{nullptr};   // execve ends all others; written under the lock
    // Job control. A stop begins when a thread takes a stop signal; it is complete when each thread has parked.
    int stop_signal = 0;  // != 0: threads are to park
    size_t stopped_threads = 0;
    bool stopped = false;            // complete
    bool stop_unwaited = false;      // a parent may still wait for it (WUNTRACED)
    bool continue_unwaited = false;  // (WCONTINUED)
    bool continue_untold = false;    // the parent has not had its SIGCHLD for it
    int stop_code = 0;               // the signal of the present or last stop
    std::condition_variable stop_changed;
    // Immune to signals it has no handler for (init of a pid namespace), unless from outside of the namespace.
    bool unkillable = false;
    // Notified (EPOLLIN) when a signal was queued: signalfd, sigtimedwait.
    WaitQueue signal_waiters;

    // --- Locked by themselves ---
    ResourceLimit limit(int resource);
    // The old one; `now` null: only reads. EPERM without CAP_SYS_RESOURCE is the caller's check.
    ResourceLimit set_limit(int resource, const ResourceLimit* now);
    ResourceLimits limits();
    void set_limits(const ResourceLimits& limits);

    std::unique_ptr<IntervalTimers> interval_timers;
    std::unique_ptr<PosixTimers> posix_timers;

    // CPU time of threads and address spaces that are gone; the rest is read from the host (cpu_times.cc).
    std::atomic<uint64_t> past_user_ns{0}, past_system_ns{0};
    std::atomic<int64_t> user_baseline_ns{0};  // of the present host process when this process began to use it
    std::atomic<uint64_t> faults{0}, switches{0}, peak_resident{0};
    std::atomic<int> oom_score_adj{0};
    std::atomic<int> nice{0};
    std::atomic<int> dumpable{1};
    std::atomic<bool> oom_killed{false};

    // Sends to the process as a whole: any thread that does not block it takes it. Locks by itself.
    void send_signal(const siginfo_t& info);
    void send_signal(int signo) { send_signal(kernel_signal(signo)); }
    // 0 or EAGAIN (real-time queue full). `force_from_outside`: from an ancestor pid namespace or the sentry.
    int send_signal_locked(const siginfo_t& info, bool from_outside, Ref<RefCounted> timer = nullptr);

    // Ends all threads with this wait status, unless they are ending already.
    void begin_group_exit_locked(int wait_status);

  private:
    std::mutex limits_mutex_;
    ResourceLimits limits_;
};

}  // namespace casemate::sentry
