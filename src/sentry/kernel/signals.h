// Signals: sets, pending queues, dispositions. Sending and choosing is in task_signals.cc, frames in signal_frame.cc.
#pragma once

#include <signal.h>

#include <array>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>

#include "base/ref.h"

namespace casemate::sentry {

class PosixTimer;

constexpr int kSignalCount = 64;
using SignalSet = uint64_t;  // bit n-1 = signal n
constexpr SignalSet signal_bit(int signo) { return uint64_t{1} << (signo - 1); }
constexpr bool valid_signal(int64_t signo) { return signo >= 1 && signo <= kSignalCount; }
constexpr SignalSet kUnblockable = signal_bit(SIGKILL) | signal_bit(SIGSTOP);
constexpr SignalSet kStopSignals =
    signal_bit(SIGSTOP) | signal_bit(SIGTSTP) | signal_bit(SIGTTIN) | signal_bit(SIGTTOU);
constexpr SignalSet kIgnoredByDefault =
    signal_bit(SIGCONT) | signal_bit(SIGCHLD) | signal_bit(SIGWINCH) | signal_bit(SIGURG);
constexpr SignalSet kCoreDumpSignals =
    signal_bit(SIGQUIT) | signal_bit(SIGILL) | signal_bit(SIGTRAP) | signal_bit(SIGABRT) | signal_bit(SIGFPE) |
    signal_bit(SIGSEGV) | signal_bit(SIGBUS) | signal_bit(SIGSYS) | signal_bit(SIGXCPU) | signal_bit(SIGXFSZ);
// Raised by the instruction itself: taken before others, never lost.
constexpr SignalSet kSynchronous = signal_bit(SIGSEGV) | signal_bit(SIGBUS) | signal_bit(SIGILL) | signal_bit(SIGTRAP) |
                                   signal_bit(SIGFPE) | signal_bit(SIGSYS);

// The kernel's struct sigaction of x86-64.
struct SignalAction {
    uint64_t handler = 0;  // SIG_DFL, SIG_IGN or an address
    uint64_t flags = 0;
    uint64_t restorer = 0;
    SignalSet mask = 0;

    bool is_default() const { return handler == 0; }
    bool is_ignore() const { return handler == 1; }
};
constexpr uint64_t kSaRestorer = 0x04000000;

// One queued signal. `timer`: the POSIX timer that sent it; it counts overruns while the signal waits.
struct QueuedSignal {
    siginfo_t info{};
    Ref<RefCounted> timer;
};

// Pending signals of a task or a process. Guarded by the process's signal_mutex.
class PendingSignals {
  public:
    SignalSet set() const { return set_; }
    size_t size() const { return queue_.size(); }
    // Standard signals coalesce (true: it is pending already). False if a real-time signal found `limit` others queued
    // (EAGAIN).
    bool add(const siginfo_t& info, uint64_t limit, Ref<RefCounted> timer = nullptr);
    // The next signal of `wanted` in Linux's order (synchronous ones first, then by number), taken out.
    std::optional<QueuedSignal> take(SignalSet wanted);
    void discard(SignalSet which);
    void discard_timer(const RefCounted* timer);

  private:
    SignalSet set_ = 0;
    std::list<QueuedSignal> queue_;
};

// What CLONE_SIGHAND shares.
struct SignalHandlers final : RefCounted {
    std::mutex mutex;
    std::array<SignalAction, kSignalCount + 1> actions;  // guarded by mutex; index = signo
    SignalAction get(int signo) {
        std::lock_guard lock(mutex);
        return actions[static_cast<size_t>(signo)];
    }
    Ref<SignalHandlers> clone() {
        auto copy = make_ref<SignalHandlers>();
        std::lock_guard lock(mutex);
        copy->actions = actions;
        return copy;
    }
};

// A siginfo as kill(2) and the kernel itself make them.
inline siginfo_t kernel_signal(int signo) {
    siginfo_t info{};
    info.si_signo = signo;
    info.si_code = SI_KERNEL;
    return info;
}

}  // namespace casemate::sentry
