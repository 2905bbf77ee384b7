#include "sentry/kernel/interval_timers.h"

#include <utility>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"

namespace casemate::sentry {
namespace {
constexpr int kSignals[] = {SIGALRM, SIGVTALRM, SIGPROF};
}

IntervalTimers::IntervalTimers(Process& process) : process_(process) {
    cpu_limit_.owner = this;
    for (int which = 0; which < 3; ++which) {
        timers_[static_cast<size_t>(which)].owner = this;
        timers_[static_cast<size_t>(which)].which = which;
    }
}

IntervalTimers::~IntervalTimers() { stop_all(); }

void IntervalTimers::stop_all() {
    for (One& timer : timers_) {
        bool was_set;
        {
            std::lock_guard lock(mutex_);
            was_set = timer.due != 0;
            timer.due = 0;
        }
        if (was_set) process_.kernel.timers().cancel(timer);
    }
    bool watched;
    {
        std::lock_guard lock(mutex_);
        watched = std::exchange(cpu_limit_.armed, false);
    }
    if (watched) process_.kernel.timers().cancel(cpu_limit_);
}

Nanoseconds IntervalTimers::now(int which) const {
    if (which == ITIMER_REAL) return monotonic_now();
    CpuTimes times = process_cpu_times(process_);
    return static_cast<Nanoseconds>(which == ITIMER_VIRTUAL ? times.user_ns : times.user_ns + times.system_ns) + 1;
}

void IntervalTimers::arm_locked(One& timer) {
    Nanoseconds wait = timer.due - now(timer.which);
    if (wait < 0) wait = 0;
    if (timer.which != ITIMER_REAL) {
        // With n processors CPU time runs up to n times as fast; a floor keeps a nearly due timer from spinning.
        wait = wait / process_.kernel.options().cpus;
        if (wait < 500'000) wait = 500'000;
    }
    process_.kernel.timers().arm(timer, monotonic_now() + wait);
}

void IntervalTimers::watch_cpu_limit() {
    if (process_.limit(RLIMIT_CPU).soft == RLIM_INFINITY) return;
    std::lock_guard lock(mutex_);
    cpu_limit_.armed = true;
    process_.kernel.timers().arm(cpu_limit_, monotonic_now());
}

// SIGXCPU each second past the soft limit, SIGKILL at the hard one.
void IntervalTimers::CpuLimit::expired() {
    Process& process = owner->process_;
    ResourceLimit limit = process.limit(RLIMIT_CPU);
    int signo = 0;
    {
        std::lock_guard lock(owner->mutex_);
        if (!armed || limit.soft == RLIM_INFINITY) return;
        Nanoseconds used = owner->now(ITIMER_PROF);
        uint64_t seconds = static_cast<uint64_t>(used / kSecond);
        if (limit.hard != RLIM_INFINITY && seconds >= limit.hard) {
            signo = SIGKILL;
        } else if (seconds >= limit.soft && seconds != warned_second) {
            signo = SIGXCPU;
            warned_second = seconds;
        }
        // CPU time runs at most as fast as all processors together.
        Nanoseconds rest = kSecond - used % kSecond;
        if (seconds + 1 < limit.soft && limit.soft < 1u << 30)
            rest += static_cast<Nanoseconds>(limit.soft - seconds - 1) * kSecond;
        rest /= process.kernel.options().cpus;
        process.kernel.timers().arm(*this, monotonic_now() + (rest < 10'000'000 ? 10'000'000 : rest));
    }
    if (signo != 0) process.send_signal(signo);
}

IntervalTimers::Setting IntervalTimers::get(int which) {
    std::lock_guard lock(mutex_);
    One& timer = timers_[static_cast<size_t>(which)];
    if (timer.due == 0) return {0, timer.interval};
    Nanoseconds rest = timer.due - now(which);
    return {rest > 0 ? rest : 1000, timer.interval};
}

IntervalTimers::Setting IntervalTimers::set(int which, Setting wanted) {
    Setting old = get(which);
    One& timer = timers_[static_cast<size_t>(which)];
    std::lock_guard lock(mutex_);
    timer.interval = wanted.interval;
    if (wanted.remaining == 0) {
        timer.due = 0;
        process_.kernel.timers().disarm(timer);
    } else {
        timer.due = now(which) + wanted.remaining;
        arm_locked(timer);
    }
    return old;
}

void IntervalTimers::One::expired() {
    {
        std::lock_guard lock(owner->mutex_);
        if (due == 0) return;
        Nanoseconds at = owner->now(which);
        if (at < due) {  // set anew meanwhile, or CPU time did not run
            owner->arm_locked(*this);
            return;
        }
        if (interval != 0) {
            due += ((at - due) / interval + 1) * interval;
            owner->arm_locked(*this);
        } else {
            due = 0;
        }
    }
    owner->process_.send_signal(kSignals[which]);
}

}  // namespace casemate::sentry
