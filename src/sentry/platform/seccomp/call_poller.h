// The poller: one thread for all application threads of a platform that looks for calls in shared memory, so that a
// call at a patched site (call_sites.h) needs no kernel: the application writes it into its slot and looks for the
// answer.
//
// It is asleep unless an application thread makes fast calls, and a CPU is idle or all running application threads do
// little but call (poll_policy.h). Then it has one CPU for itself: those that it looks at are kept off it meanwhile.
// Whom it wakes while applications run on all other CPUs is woken when one of them stops, or some time later: who
// has been given to do goes on until it has to wait, as a scheduler would have it. Or it takes turns with the
// applications on one CPU (yield_policy.h). Everything works without it: an application whose slot is not watched, or
// not looked at for some microseconds, makes the real call.
//
// What a slot says was written by the application, which may write all slots of its address space at any moment: a call
// is copied once, and made only for a thread that the sentry has nothing in hand of (HostThread::claim).
#pragma once

#include <pthread.h>
#include <sched.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "sentry/platform/seccomp/poll_policy.h"
#include "sentry/platform/seccomp/stub_abi.h"
#include "sentry/platform/seccomp/yield_policy.h"

namespace casemate::sentry::seccomp {

class HostThread;

class CallPoller {
  public:
    CallPoller() = default;
    ~CallPoller();

    // CPUs that the pod may use, if fewer than the affinity says: a quota.
    void set_cpus(int cpus) { cpus_.store(cpus, std::memory_order_relaxed); }

    // A call came the slow way that could have come in shared memory. True: such calls of all threads together come
    // fast.
    bool slow_call(int64_t now);
    // Looks at the slot of `thread`, whose application waits in a call, from now on for a while, if it pays. Its calls
    // have been fast for `steady`.
    void watch(HostThread& thread, int64_t now, int64_t steady);
    // It has taken a CPU from running applications: whoever calls at all should be watched.
    bool shares() const { return sharing_.load(std::memory_order_relaxed); }
    // Stops that; afterwards the poller has nothing of the thread in hand.
    void forget(HostThread& thread);

    // Application threads that run, as far as their drivers know.
    void application_goes() { running_.fetch_add(1, std::memory_order_relaxed); }
    void application_stopped() { running_.fetch_sub(1, std::memory_order_relaxed); }

    // An application that sleeps on this word is to go on. The calling thread wakes it, at once or soon.
    void wake(std::atomic<uint32_t>& word);
    // The poller's thread: those that it has not woken yet are, since another application stops.
    void wake_all();

    // Application threads for each CPU, the caller's included.
    int crowd() const {
        const int cpus = usable_cpus_.load(std::memory_order_relaxed);
        return (running_.load(std::memory_order_relaxed) + cpus) / cpus;
    }

    // There are applications to run for each of several CPUs.
    bool is_crowded() const {
        const int cpus = usable_cpus_.load(std::memory_order_relaxed);
        return cpus > 1 && running_.load(std::memory_order_relaxed) >= cpus;
    }

    bool polling() const { return awake_.load() == 1; }
    uint64_t answered() const { return answered_.load(std::memory_order_relaxed); }

  private:
    static constexpr size_t kSlots = 16;
    // What the poller looks at without a lock is the word alone: slots are mapped as long as the platform lives.
    struct Entry {
        std::atomic<std::atomic<uint32_t>*> word{nullptr};
        HostThread* thread = nullptr;  // guarded by mutex_
        uint32_t calls = 0;            // in this step of a trial; the poller's own
    };

    // How the poller looks: from an idle CPU, from one that it took from the applications, or from one that it gives to
    // them and they to it.
    enum class Mode { kAlone, kShared, kYielding };

    std::optional<Mode> mode_for_locked(int64_t now, int64_t steady);
    bool start_thread();

    void run();
    void poll();
    void poll_yielding();
    // Of the two: all entries are let go, and the poller may sleep.
    void end_session_locked();
    uint64_t calls() const { return slow_calls_.load(std::memory_order_relaxed) + answered(); }
    // Whether there are other applications for all CPUs but the poller's, when `more` of those that run are not
    // counted.
    bool has_no_cpu_for(int more) const;
    // To be called often: those that were not woken at once.
    void wake_in_time(int64_t now);
    // The poller's thread gets a CPU for itself, not the waker's. False: there is none.
    bool take_own_cpu();
    bool leave_cpu(int cpu);
    bool take_cpu(int cpu);
    // While it shares: whether that still pays.
    bool shares_well(int64_t now);
    // True: there was a call.
    bool serve(Entry& entry);
    void drop_locked(Entry& entry);

    std::mutex mutex_;
    std::array<Entry, kSlots> entries_;
    PollBudget budget_;               // guarded by mutex_
    SharedCpuTrial trial_;            // guarded by mutex_
    YieldBudget yield_budget_;        // guarded by mutex_
    int64_t cpus_counted_at_ = 0;     // guarded by mutex_
    Mode mode_ = Mode::kAlone;        // guarded by mutex_; the poller reads it while it is awake
    bool started_ = false;            // guarded by mutex_
    std::atomic<uint32_t> awake_{0};  // 0: the poller sleeps on it, 1: it polls, 2: it shall end
    std::atomic<int> running_{0};
    std::atomic<int> cpus_{0};
    std::atomic<int> usable_cpus_{1};
    std::atomic<int> waker_cpu_{-1};
    std::atomic<bool> sharing_{false};  // changed under mutex_, as
    int cpu_ = -1;                      // the poller's, from when it is chosen
    std::atomic<int64_t> woken_at_{0};
    std::atomic<uint64_t> answered_{0};
    std::atomic<uint64_t> slow_calls_{0};
    std::atomic<int64_t> last_slow_{0};
    std::atomic<int> streak_{0};
    // The poller's own.
    std::vector<std::atomic<uint32_t>*> to_wake_;
    int64_t wake_at_ = 0;
    cpu_set_t home_{};
    int left_cpu_ = -1;
    int taken_cpu_ = -1;
    pthread_t thread_{};
};

// Nanoseconds of CLOCK_MONOTONIC.
int64_t monotonic_time();

}  // namespace casemate::sentry::seccomp
