#include "sentry/kernel/signals.h"

#include <bit>

namespace casemate::sentry {

bool PendingSignals::add(const siginfo_t& info, uint64_t limit, Ref<RefCounted> timer) {
    SignalSet bit = signal_bit(info.si_signo);
    bool real_time = info.si_signo >= 32;
    if (!real_time && (set_ & bit) != 0) return true;
    if (real_time && queue_.size() >= limit) {
        // A signal of the kernel's own or of kill(2) is still delivered, without its details.
        if (info.si_code < 0 && info.si_code != SI_USER) return false;
        if ((set_ & bit) != 0) return true;
    }
    set_ |= bit;
    queue_.push_back({info, std::move(timer)});
    return true;
}

std::optional<QueuedSignal> PendingSignals::take(SignalSet wanted) {
    SignalSet ready = set_ & wanted;
    if (ready == 0) return std::nullopt;
    if ((ready & kSynchronous) != 0) ready &= kSynchronous;
    int signo = std::countr_zero(ready) + 1;
    std::optional<QueuedSignal> taken;
    bool more = false;
    for (auto it = queue_.begin(); it != queue_.end();) {
        if (it->info.si_signo != signo) {
            ++it;
        } else if (!taken) {
            taken = std::move(*it);
            it = queue_.erase(it);
        } else {
            more = true;
            break;
        }
    }
    if (!more) set_ &= ~signal_bit(signo);
    return taken;
}

void PendingSignals::discard(SignalSet which) {
    if ((set_ & which) == 0) return;
    set_ &= ~which;
    queue_.remove_if([&](const QueuedSignal& one) { return (signal_bit(one.info.si_signo) & which) != 0; });
}

void PendingSignals::discard_timer(const RefCounted* timer) {
    for (auto it = queue_.begin(); it != queue_.end();) {
        if (it->timer.get() != timer) {
            ++it;
            continue;
        }
        int signo = it->info.si_signo;
        it = queue_.erase(it);
        bool more = false;
        for (const QueuedSignal& one : queue_) more = more || one.info.si_signo == signo;
        if (!more) set_ &= ~signal_bit(signo);
    }
}

}  // namespace casemate::sentry
