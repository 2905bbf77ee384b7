#include "sentry/kernel/posix_timers.h"

#include <limits.h>
#include <time.h>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

bool cpu_clock(int clock) { return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID; }

}  // namespace

PosixTimer::PosixTimer(Process& process, int id, int clock, int signo, sigval value, int thread_tid)
    : process_(process), id_(id), clock_(clock), signo_(signo), value_(value), thread_tid_(thread_tid) {}

Nanoseconds PosixTimer::now() const {
    if (cpu_clock(clock_)) {
        CpuTimes times = process_cpu_times(process_);
        return static_cast<Nanoseconds>(times.user_ns + times.system_ns);
    }
    timespec at{};
    clock_gettime(clock_, &at);
    return at.tv_sec * kSecond + at.tv_nsec;
}

void PosixTimer::arm_locked() {
    Nanoseconds wait = due_ - now();
    if (wait < 0) wait = 0;
    if (cpu_clock(clock_)) {
        wait /= process_.kernel.options().cpus;
        if (wait < 500'000) wait = 500'000;
    }
    Nanoseconds at;
    if (__builtin_add_overflow(monotonic_now(), wait, &at)) at = INT64_MAX;
    process_.kernel.timers().arm(*this, at);
}

PosixTimer::Setting PosixTimer::get() {
    std::lock_guard lock(mutex_);
    if (due_ == 0) return {0, interval_};
    Nanoseconds rest = due_ - now();
    return {rest > 0 ? rest : (interval_ != 0 || !queued_ ? 1 : 0), interval_};
}

PosixTimer::Setting PosixTimer::set(Nanoseconds when, Nanoseconds interval, bool absolute) {
    Setting old = get();
    std::lock_guard lock(mutex_);
    interval_ = interval;
    missed_ = 0;
    overrun_ = 0;
    if (when == 0) {
        due_ = 0;
        process_.kernel.timers().disarm(*this);
        return old;
    }
    due_ = when;
    if (!absolute && __builtin_add_overflow(when, now(), &due_)) due_ = INT64_MAX;
    if (due_ <= 0) due_ = 1;
    arm_locked();
    return old;
}

int PosixTimer::overrun() {
    std::lock_guard lock(mutex_);
    return overrun_;
}

void PosixTimer::stop() {
    {
        std::lock_guard lock(mutex_);
        due_ = 0;
    }
    process_.kernel.timers().cancel(*this);
}

int PosixTimer::signal_taken() {
    std::lock_guard lock(mutex_);
    queued_ = false;
    overrun_ = missed_ > INT_MAX ? INT_MAX : static_cast<int>(missed_);
    missed_ = 0;
    return overrun_;
}

void PosixTimer::expired() {
    {
        std::lock_guard lock(mutex_);
        if (due_ == 0) return;
        Nanoseconds at = now();
        if (at < due_) {
            arm_locked();
            return;
        }
        uint64_t passed = 1;
        if (interval_ != 0) {
            passed = static_cast<uint64_t>((at - due_) / interval_) + 1;
            due_ += static_cast<Nanoseconds>(passed) * interval_;
            arm_locked();
        } else {
            due_ = 0;
        }
        if (queued_) {
            missed_ += passed;
            return;
        }
        if (signo_ == 0) return;
        queued_ = true;
        missed_ = passed - 1;
    }
    siginfo_t info{};
    info.si_signo = signo_;
    info.si_code = SI_TIMER;
    info.si_timerid = id_;
    info.si_value = value_;
    Ref<RefCounted> self(this);
    bool pending;
    if (thread_tid_ != 0) {
        Ref<Task> target;
        {
            std::lock_guard lock(process_.kernel.tasks().mutex);
            for (Task* task : process_.threads)
                if (task->tid() == thread_tid_) target = Ref<Task>(task);
        }
        if (!target) return;
        send_to_task(*target, info, SignalSource::kInside, self);
        std::lock_guard lock(process_.signal_mutex);
        pending = (target->pending_signals_locked() & signal_bit(signo_)) != 0;
    } else {
        send_to_process(process_, info, SignalSource::kInside, self);
        std::lock_guard lock(process_.signal_mutex);
        pending = (process_.pending.set() & signal_bit(signo_)) != 0;
    }
    // Ignored, or merged into one that another sender queued: nothing of ours waits.
    if (!pending) {
        std::lock_guard lock(mutex_);
        queued_ = false;
    }
}

PosixTimers::~PosixTimers() { remove_all(); }

SysResult<int> PosixTimers::create(int clock, int signo, const sigval* value, int thread_tid, uint64_t limit) {
    std::lock_guard lock(mutex_);
    if (timers_.size() >= limit) return Errno(EAGAIN);
    while (timers_.contains(next_)) next_ = next_ == INT_MAX ? 0 : next_ + 1;
    int id = next_;
    next_ = next_ == INT_MAX ? 0 : next_ + 1;
    sigval carried{};
    if (value != nullptr)
        carried = *value;
    else
        carried.sival_int = id;
    timers_.emplace(id, make_ref<PosixTimer>(process_, id, clock, signo, carried, thread_tid));
    return id;
}

SysResult<Ref<PosixTimer>> PosixTimers::find(int id) {
    std::lock_guard lock(mutex_);
    auto it = timers_.find(id);
    if (it == timers_.end()) return Errno(EINVAL);
    return it->second;
}

SysResult<void> PosixTimers::remove(int id) {
    Ref<PosixTimer> timer;
    {
        std::lock_guard lock(mutex_);
        auto it = timers_.find(id);
        if (it == timers_.end()) return Errno(EINVAL);
        timer = std::move(it->second);
        timers_.erase(it);
    }
    timer->stop();
    std::lock_guard lock(process_.signal_mutex);
    process_.pending.discard_timer(timer.get());
    return {};
}

void PosixTimers::remove_all() {
    std::map<int, Ref<PosixTimer>> timers;
    {
        std::lock_guard lock(mutex_);
        std::swap(timers, timers_);
    }
    for (auto& [id, timer] : timers) timer->stop();
}

void signal_of_timer_taken(QueuedSignal& signal) {
    auto* timer = static_cast<PosixTimer*>(signal.timer.get());
    signal.info.si_overrun = timer->signal_taken();
}

}  // namespace casemate::sentry
