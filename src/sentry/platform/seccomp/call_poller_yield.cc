// The poller on a CPU that it shares with the applications it serves.
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/platform/seccomp/call_poller.h"

namespace casemate::sentry::seccomp {

void CallPoller::poll_yielding() {
    const uint64_t before = answered_.load(std::memory_order_relaxed);
    YieldSession session;
    auto next = YieldSession::Next::kGoOn;
    bool leave = !take_cpu(waker_cpu_.load(std::memory_order_relaxed));
    int64_t now = monotonic_time(), away = 0;
    for (uint32_t pass = 1; !leave; ++pass) {
        int found = 0;
        for (Entry& entry : entries_) found += serve(entry);
        next = session.looked(found, away);
        leave = next != YieldSession::Next::kGoOn || awake_.load(std::memory_order_relaxed) == 2;
        if (leave) break;
        const int cpus = usable_cpus_.load(std::memory_order_relaxed);
        if (pass % 64 == 0 && cpus > 1) {
            // A CPU of its own is better, if there is one now or one can be taken.
            std::lock_guard lock(mutex_);
            const bool idle = budget_.may_wake(now, running_.load(std::memory_order_relaxed) - 1, cpus);
            if (idle) leave_cpu(taken_cpu_);
            if (idle || trial_.may_start(now, calls())) break;
        }
        const int64_t gave = monotonic_time();
        sched_yield();
        now = monotonic_time();
        away = now - gave;
        wake_in_time(now);
    }
    wake_all();
    std::lock_guard lock(mutex_);
    yield_budget_.ended(monotonic_time(), answered_.load(std::memory_order_relaxed) - before,
                        next == YieldSession::Next::kDisturbed);
    end_session_locked();
}

}  // namespace casemate::sentry::seccomp
