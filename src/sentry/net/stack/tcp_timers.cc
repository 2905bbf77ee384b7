// What a connection waits for, and its end.
#include <algorithm>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/time_wait.h"

namespace casemate::sentry::stack {

Nanoseconds Connection::next_deadline_locked() const {
    Nanoseconds next = 0;
    for (Nanoseconds one : {repeat_at_, ack_at_, retry_at_, life_at_, keep_at_})
        if (one != 0 && (next == 0 || one < next)) next = one;
    return next;
}

void Connection::timer_fired(Nanoseconds) {
    Ref<Connection> self(this);
    Locked locked(*this);
    Nanoseconds now = stack_->now();
    auto due = [&](Nanoseconds& deadline) {
        if (deadline == 0 || now < deadline) return false;
        deadline = 0;
        return true;
    };
    if (due(life_at_)) {
        end_locked(orphan_ ? 0 : ETIMEDOUT);
        return;
    }
    if (state() == TcpState::kClosed) return;
    if (due(repeat_at_)) {
        switch (std::exchange(waits_, Waits::kNothing)) {
            case Waits::kRetransmission:
                retransmission_timeout_locked(now);
                break;
            case Waits::kTailProbe:
                tail_probe_locked();
                break;
            case Waits::kWindow:
                window_probe_locked(now);
                break;
            case Waits::kNothing:
                break;
        }
    }
    if (state() == TcpState::kClosed) return;
    if (due(ack_at_)) {
        stack_->counters().happened(TcpEvent::kDelayedAck);
        send_ack_locked();
    }
    if (retry_at_ != 0 && now >= retry_at_) {
        output_locked();
        if (retry_at_ != 0 && now >= retry_at_) retry_at_ = 0;
    }
    if (due(keep_at_)) keep_alive_locked(now);
}

void Connection::keep_alive_locked(Nanoseconds now) {
    if (!tuning.keep_alive || (state() != TcpState::kEstablished && state() != TcpState::kCloseWait)) return;
    Nanoseconds idle = Nanoseconds{tuning.keep_idle} * kSecond, interval = Nanoseconds{tuning.keep_interval} * kSecond;
    Nanoseconds heard = std::max(received_at_, interval_began_);
    if (flight() > 0) {
        keep_at_ = now + idle;
        return;
    }
    if (keep_probes_ == 0 && now - heard < idle) {
        keep_at_ = heard + idle;
        return;
    }
    uint32_t patience = tuning.user_timeout_ms;
    bool over = patience != 0 ? now - heard >= Nanoseconds{patience} * 1'000'000 && keep_probes_ > 0
                              : keep_probes_ >= tuning.keep_count;
    if (over) {
        send_reset_locked();
        end_locked(soft_error_ != 0 ? soft_error_ : ETIMEDOUT);
        return;
    }
    stack_->counters().happened(TcpEvent::kKeepAlive);
    keep_probes_++;
    static_cast<void>(send_segment_locked(send_next_ - 1, 0, kAck));
    keep_at_ = now + interval;
}

// All is said. What the application may still want is what it has not read; for the peer there is a TimeWait.
void Connection::enter_time_wait_locked() {
    stack_->counters().happened(TcpEvent::kTimeWait);
    if (ack_now_) send_ack_locked();  // of the peer's FIN; if it is lost, the FIN comes again
    TimeWait::Rest rest{.tuple = tuple_, .link = link_};
    rest.send_next = send_sequence(send_max_);
    rest.receive_next = initial_receive_ + static_cast<uint32_t>(receive_next_);
    rest.recent_timestamp = recent_timestamp_;
    rest.timestamp_offset = timestamp_offset_;
    rest.window = window_locked(false);
    rest.timestamps = timestamps_;
    bool replaced = stack_->replace_connection(*this, make_ref<TimeWait>(stack_, rest));
    end_locked(0);
    if (!replaced) return;
    listed_ = false;
    stack_->timers().disarm(*this);
}

void Connection::end_locked(int error) {
    if (state() == TcpState::kClosed && !listed_) return;
    set_state(TcpState::kClosed);
    waits_ = Waits::kNothing;
    repeat_at_ = ack_at_ = retry_at_ = life_at_ = keep_at_ = 0;
    blocks_.clear();
    sacked_.clear();
    early_.clear();
    early_bytes_ = 0;
    if (error != 0) error_.store(error, std::memory_order_release);
    wake_ |= ~0u;
}

// Called with the lock, before it is let go. Everybody who takes it holds a reference: the table's may go at its end.
void Connection::settle_locked() {
    bool closed = state() == TcpState::kClosed;
    bool opening = connecting();
    uint32_t now_ready = 0;
    bool receive_over = fin_taken_ || receive_shut_ || closed, send_over = fin_queued_ || closed;
    if (!opening) {
        if (urgent_is_here_locked()) now_ready |= EPOLLPRI;
        // An urgent byte alone is nothing to be read.
        bool beside = at_mark_locked() && !tuning.urgent_inline;
        if (unread_ > (beside ? 1u : 0u) || receive_over) now_ready |= EPOLLIN | EPOLLRDNORM;
        if (receive_over) now_ready |= EPOLLRDHUP;
        size_t limit = send_limit_locked(), used = static_cast<size_t>(write_end_ - std::max<uint64_t>(send_una_, 1));
        if (send_over || used <= limit - limit / 3) now_ready |= EPOLLOUT | EPOLLWRNORM;
        if (receive_over && send_over) now_ready |= EPOLLHUP;
    }
    if (error_.load(std::memory_order_relaxed) != 0) now_ready |= EPOLLERR;
    uint32_t before_ready = ready_.exchange(now_ready, std::memory_order_acq_rel);
    wake_ |= now_ready & ~before_ready;
    if (closed) return;
    if (Nanoseconds next = next_deadline_locked(); next != 0) stack_->timers().arm(*this, next);
}

void Connection::lock() {
    for (int i = 0; i < 200; i++) {
        if (mutex_.try_lock()) return;
        __builtin_ia32_pause();
    }
    mutex_.lock();
}

void Connection::unlock() {
    while (true) {
        if (attention_.exchange(false)) drain_locked();
        settle_locked();
        uint32_t events = std::exchange(wake_, 0);
        Ref<SocketWaiters> waiters;
        if (events != 0) waiters = waiters_;
        bool gone = state() == TcpState::kClosed && std::exchange(listed_, false);
        mutex_.unlock();
        if (waiters) waiters->queue.notify(events, ~0u);
        if (gone) {
            stack_->timers().disarm(*this);
            stack_->remove_connection(*this);
        }
        if (!attention_.load() || !mutex_.try_lock()) return;
    }
}

}  // namespace casemate::sentry::stack
