#include "sentry/platform/seccomp/call_poller.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "sentry/platform/seccomp/await_word.h"
#include "sentry/platform/seccomp/host_thread.h"

namespace casemate::sentry::seccomp {
namespace {

// Of an application thread in one step of a trial: fewer, and it does something else.
constexpr uint32_t kCallsOfACaller = 4;
// Nobody waits longer for applications that run to stop.
constexpr int64_t kWakeSoon = 50'000;
// More applications than CPUs for so long: it is not just one that is about to wait.
constexpr int64_t kCrowded = 50'000;

thread_local CallPoller* current_poller = nullptr;
constexpr int64_t kRecount = 100'000'000;  // between two looks at how many CPUs there are

// The CPUs that the calling thread may use.
cpu_set_t allowed_cpus() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) CPU_ZERO(&set);
    return set;
}

}  // namespace

int64_t monotonic_time() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

CallPoller::~CallPoller() {
    if (!started_) return;
    awake_.store(2);
    awake_.notify_all();
    pthread_join(thread_, nullptr);
}

bool CallPoller::slow_call(int64_t now) {
    slow_calls_.fetch_add(1, std::memory_order_relaxed);
    // Roughly: threads may count at once.
    const bool fast = now - last_slow_.exchange(now, std::memory_order_relaxed) < CallRhythm::kFast;
    if (!fast) streak_.store(0, std::memory_order_relaxed);
    return fast && streak_.fetch_add(1, std::memory_order_relaxed) >= CallRhythm::kEnough;
}

bool CallPoller::has_no_cpu_for(int more) const {
    // One is the poller's; where there is only one, it is not for long.
    const int others = std::max(usable_cpus_.load(std::memory_order_relaxed) - 1, 1);
    return running_.load(std::memory_order_relaxed) - more >= others;
}

void CallPoller::wake(std::atomic<uint32_t>& word) {
    if (current_poller != this || !has_no_cpu_for(static_cast<int>(to_wake_.size()) + 1)) return wake_word(&word);
    if (to_wake_.empty()) wake_at_ = monotonic_time() + kWakeSoon;
    to_wake_.push_back(&word);
}

void CallPoller::wake_in_time(int64_t now) {
    if (!to_wake_.empty() && (now > wake_at_ || !has_no_cpu_for(static_cast<int>(to_wake_.size())))) wake_all();
}

void CallPoller::wake_all() {
    for (std::atomic<uint32_t>* word : to_wake_) wake_word(word);
    to_wake_.clear();
}

// How it could help now, or helps already; nothing: not at all.
std::optional<CallPoller::Mode> CallPoller::mode_for_locked(int64_t now, int64_t steady) {
    const bool polls = awake_.load() != 0;
    if (polls && mode_ != Mode::kAlone) return mode_;
    if (cpus_counted_at_ == 0 || now - cpus_counted_at_ > kRecount) {
        const cpu_set_t set = allowed_cpus();
        const int quota = cpus_.load(std::memory_order_relaxed);
        const int allowed = std::max(CPU_COUNT(&set), 1);
        usable_cpus_.store(quota != 0 ? std::min(quota, allowed) : allowed, std::memory_order_relaxed);
        cpus_counted_at_ = now;
    }
    const int running = running_.load(std::memory_order_relaxed), cpus = usable_cpus_.load(std::memory_order_relaxed);
    if (budget_.may_wake(now, running, cpus)) return Mode::kAlone;
    if (polls) return std::nullopt;
    if (cpus >= 2 && trial_.may_start(now, calls())) {
        // Any CPU but this one, where the thread that called goes on.
        const cpu_set_t set = allowed_cpus();
        const int here = sched_getcpu();
        int cpu = here;
        do cpu = (cpu + 1) % CPU_SETSIZE;
        while (cpu != here && !CPU_ISSET(static_cast<size_t>(cpu), &set));
        if (cpu != here) {
            cpu_ = cpu;
            sharing_.store(true, std::memory_order_relaxed);
            return Mode::kShared;
        }
    }
    // While a CPU is idle that is tried again soon, even if others wanted it a moment ago.
    if (running + 2 > cpus && yield_budget_.may_begin(now, steady)) return Mode::kYielding;
    return std::nullopt;
}

bool CallPoller::start_thread() {
    if (started_) return true;
    // All signals are for other threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    auto body = [](void* self) -> void* {
        static_cast<CallPoller*>(self)->run();
        return nullptr;
    };
    started_ = pthread_create(&thread_, nullptr, body, this) == 0;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started_;
}

void CallPoller::watch(HostThread& thread, int64_t now, int64_t steady) {
    std::lock_guard lock(mutex_);
    Entry* free = nullptr;
    for (Entry& entry : entries_) {
        if (entry.thread == &thread) return;
        if (entry.thread == nullptr && free == nullptr) free = &entry;
    }
    if (free == nullptr) return;
    const auto mode = mode_for_locked(now, steady);
    if (!mode) return;
    const int cpu = sched_getcpu();
    const bool asleep = awake_.load() == 0;
    if (asleep) {
        if (!start_thread()) {
            cpu_ = -1;
            sharing_.store(false, std::memory_order_relaxed);
            return budget_.ended(now, 0, true);
        }
        mode_ = *mode;
        waker_cpu_.store(cpu, std::memory_order_relaxed);
        woken_at_.store(now, std::memory_order_relaxed);
    } else if (mode_ == Mode::kYielding && cpu != waker_cpu_.load(std::memory_order_relaxed)) {
        return;
    }
    thread.set_yield_cpu(mode_ == Mode::kYielding ? cpu : -1);
    free->thread = &thread;
    if (cpu_ >= 0) thread.keep_off(cpu_);
    free->word.store(&thread.slot_word(), std::memory_order_release);
    if (asleep) {
        awake_.store(1);
        awake_.notify_one();
    }
}

void CallPoller::drop_locked(Entry& entry) {
    entry.word.store(nullptr, std::memory_order_release);
    entry.thread->slot_word().fetch_and(~uint32_t{STUB_SLOT_WATCHED}, std::memory_order_acq_rel);
    entry.thread->roam();
    entry.thread = nullptr;
}

void CallPoller::forget(HostThread& thread) {
    {
        std::lock_guard lock(mutex_);
        for (Entry& entry : entries_)
            if (entry.thread == &thread) drop_locked(entry);
    }
    thread.claim();
}

bool CallPoller::serve(Entry& entry) {
    std::atomic<uint32_t>* word = entry.word.load(std::memory_order_acquire);
    if (word == nullptr) return false;
    const uint32_t state = word->load(std::memory_order_acquire);
    // Only here, so that no application looks for an answer before there is somebody to give it; and again when it
    // looked in vain once, which ends its belief.
    if ((state & STUB_SLOT_WATCHED) == 0) word->fetch_or(STUB_SLOT_WATCHED, std::memory_order_acq_rel);
    if ((state & STUB_SLOT_ASKED) == 0) return false;
    HostThread* thread;
    {
        std::lock_guard lock(mutex_);
        thread = entry.thread;
        if (thread == nullptr) return false;
        if (!thread->claim_for_poller()) {
            // Its application waits in a call: what the slot says is forged, or just out of date.
            drop_locked(entry);
            return false;
        }
    }
    ++entry.calls;
    const HostThread::Served served = thread->serve_slot();
    if (!served.keep) {
        std::lock_guard lock(mutex_);
        if (entry.thread == thread) drop_locked(entry);
    }
    thread->release_from_poller();
    if (served.answered) answered_.fetch_add(1, std::memory_order_relaxed);
    return true;
}

bool CallPoller::leave_cpu(int cpu) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
    if (cpu == left_cpu_) return true;
    cpu_set_t rest = home_;
    CPU_CLR(static_cast<size_t>(cpu), &rest);
    if (sched_setaffinity(0, sizeof(rest), &rest) != 0) return false;
    left_cpu_ = cpu;
    taken_cpu_ = -1;
    return true;
}

bool CallPoller::take_cpu(int cpu) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
    if (cpu == taken_cpu_) return true;
    cpu_set_t mine;
    CPU_ZERO(&mine);
    CPU_SET(static_cast<size_t>(cpu), &mine);
    if (sched_setaffinity(0, sizeof(mine), &mine) != 0) return false;
    taken_cpu_ = cpu;
    left_cpu_ = -1;
    return true;
}

bool CallPoller::take_own_cpu() {
    // The host may have woken it on the CPU of the application, which it would only keep waiting from there.
    if (!shares() && !leave_cpu(waker_cpu_.load(std::memory_order_relaxed))) return false;
    std::lock_guard lock(mutex_);
    if (!shares()) cpu_ = sched_getcpu();
    for (Entry& entry : entries_)
        if (entry.thread != nullptr) entry.thread->keep_off(cpu_);
    return take_cpu(cpu_);
}

bool CallPoller::shares_well(int64_t now) {
    std::lock_guard lock(mutex_);
    if (!trial_.step_is_over(now)) return true;
    int callers = 0;
    for (Entry& entry : entries_) {
        if (entry.calls >= kCallsOfACaller) ++callers;
        entry.calls = 0;
    }
    return trial_.goes_well(now, calls(), callers, running_.load(std::memory_order_relaxed));
}

// Until no call came for a while, or the CPU is wanted by somebody else.
void CallPoller::poll() {
    const uint64_t before = answered_.load(std::memory_order_relaxed);
    const bool sharing = shares();
    const bool away = take_own_cpu();
    const int64_t begun = monotonic_time();
    int64_t last_call = begun, last_look = begun;
    const int64_t late = begun - woken_at_.load(std::memory_order_relaxed);
    bool contended = !away || late > (sharing ? PollBudget::kSlowSharedWake : PollBudget::kSlowWake);
    bool pays = true;
    int64_t crowded_since = 0;
    if (sharing) {
        std::lock_guard lock(mutex_);
        trial_.started(begun, calls());
    }
    for (uint32_t pass = 1; !contended && pays; ++pass) {
        bool any = false;
        for (Entry& entry : entries_) any |= serve(entry);
        __builtin_ia32_pause();
        if (any ? pass % 64 != 0 : pass % 16 != 0) {
            if (any) last_call = last_look = monotonic_time();
            continue;
        }
        const int64_t now = monotonic_time();
        if (any) last_call = last_look = now;
        wake_in_time(now);
        // Somebody else had this CPU, or one of the pod's own threads may want it.
        if (sharing || running_.load(std::memory_order_relaxed) < usable_cpus_)
            crowded_since = 0;
        else if (crowded_since == 0)
            crowded_since = now;
        contended = now - last_look > (sharing ? PollBudget::kSharedContended : PollBudget::kContended) ||
                    (crowded_since != 0 && now - crowded_since > kCrowded);
        if (sharing && !contended) pays = shares_well(now);
        if (contended || now - last_call > (sharing ? PollBudget::kSharedIdle : PollBudget::kIdle) ||
            awake_.load(std::memory_order_relaxed) == 2)
            break;
        last_look = now;
    }
    wake_all();
    std::lock_guard lock(mutex_);
    const int64_t now = monotonic_time();
    cpu_ = -1;
    if (sharing) {
        trial_.ended(now, calls(), contended);
        sharing_.store(false, std::memory_order_relaxed);
    } else {
        budget_.ended(now, answered_.load(std::memory_order_relaxed) - before, contended);
    }
    end_session_locked();
}

void CallPoller::end_session_locked() {
    for (Entry& entry : entries_) {
        if (entry.thread != nullptr) drop_locked(entry);
        entry.calls = 0;
    }
    uint32_t polling = 1;
    awake_.compare_exchange_strong(polling, 0);
}

void CallPoller::run() {
    prctl(PR_SET_NAME, "poller");
    current_poller = this;
    if (sched_getaffinity(0, sizeof(home_), &home_) != 0) return;
    while (true) {
        awake_.wait(0);
        if (awake_.load() == 2) return;
        if (mode_ == Mode::kYielding)
            poll_yielding();
        else
            poll();
    }
}

}  // namespace casemate::sentry::seccomp
