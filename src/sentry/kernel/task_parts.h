// What belongs to a task but is of interest to few files only.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>

#include "sentry/kernel/clone_rhythm.h"
#include "sentry/kernel/parked_call.h"
#include "sentry/kernel/quick_calls.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/standing_answers.h"
#include "sentry/kernel/syscall_filter.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_hold.h"
#include "sentry/kernel/task_look.h"
#include "sentry/kernel/tracing.h"

namespace casemate::sentry {

struct FutexSleeper;  // kernel/futex_sleeper.h

constexpr uint32_t kStackAutodisarm = 1u << 31;  // SS_AUTODISARM

struct AlternateStack {
    GuestAddr address = 0;
    uint64_t size = 0;
    uint32_t flags = SS_DISABLE;
    bool enabled() const { return size != 0; }
    bool holds(GuestAddr sp) const { return sp > address && sp - address <= size; }
};

struct Task::Parts {
    // --- Guarded by Process::signal_mutex; the mask is changed by its task only, which reads it without the lock ---
    PendingSignals pending;
    SignalSet blocked = 0;
    SignalSet wanted = 0;             // sigtimedwait sleeps for these although they are blocked
    bool stop_counted = false;        // in Process::stopped_threads
    std::atomic<bool> parked{false};  // stopped or frozen: for state()

    // seccomp(2): changed by its own thread, or by another one's SECCOMP_FILTER_FLAG_TSYNC. Its own thread reads
    // `filter` without the lock: what it was is an ancestor of what it becomes, and so stays alive.
    Ref<SyscallFilter> filter_owner;
    std::atomic<const SyscallFilter*> filter{nullptr};
    std::atomic<bool> no_new_privileges_by_sync{false};  // beside the one in Credentials

    Tracing tracing;               // has its own rules
    WantedPicture wanted_picture;  // likewise

    // --- Guarded by TaskSet::mutex ---
    bool exiting = false;  // has begun to exit: no signals, not a target
    bool released = false;

    // --- Own thread only ---
    std::optional<SignalSet> saved_mask;  // to be restored after this syscall
    AlternateStack alternate_stack;
    std::function<SysResult<int64_t>(Task&)> restart;
    GuestAddr clear_child_tid = 0;
    GuestAddr robust_list = 0;
    bool exit_requested = false;
    int exit_status = 0;  // wait status
    bool has_registers = false;
    uint64_t personality = 0;
    bool keep_capabilities_once = false;
    Ref<Hold> hold;               // of the parent that waits for this task
    uint64_t syscall_number = 0;  // for a restart
    bool may_park = false;        // the present call
    bool making_again = false;    // the present call was parked before
    // After others were woken: does this task wait itself? Then those go on on its CPU. Counts up to 3, down to 0.
    uint8_t waits_after_waking = 2;
    CloneRhythm clone_rhythm;
    // Of the last fault, for the signal frame.
    uint64_t fault_trap = 0, fault_error = 0, fault_address = 0;

    StandingAnswers standing_answers;
    TaskQuickCalls quick_calls;  // of the application's present thread

    // --- Who owns the parked call (parked_call.h) ---
    ParkedCall parked_call;
    Stop quick_stop;                       // the call, if it was parked without a stop (quick_calls.cc)
    std::optional<int64_t> parked_answer;  // the call's result, when its own thread has to take it from here
    std::unique_ptr<FutexSleeper> futex_sleeper;

    // --- Atomic ---
    // The system call that it is in, or was in last, for those who look at the task (`casemate debug`).
    struct Call {
        std::atomic<uint64_t> number{0}, arguments[6], ip{0};
        std::atomic<bool> inside{false};
    } call;
    std::atomic<bool> sleeping{false};
    std::atomic<int> dead{0};
    std::atomic<bool> futexes_released{false};  // its locks were looked through at its end
    std::atomic<uint64_t> cpu_mask{~uint64_t{0}};
    std::atomic<int> scheduler_policy{0}, scheduler_priority{0};
    std::atomic<uint64_t> timer_slack_ns{50'000};
    std::atomic<uint64_t> io_priority{0};

    // The sentry's thread behind this task, for its CPU clock.
    std::mutex host_thread_mutex;
    pthread_t host_thread{};
    int64_t host_thread_baseline_ns = 0;
    bool host_thread_valid = false;
};

}  // namespace casemate::sentry
