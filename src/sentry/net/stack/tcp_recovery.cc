// Loss: SACK (RFC 2018, 6675) and NewReno (RFC 6582), time-outs (RFC 6298), tail probes (RFC 8985 7), window probes.
#include <algorithm>

#include "sentry/net/stack/connection.h"

namespace casemate::sentry::stack {
namespace {

constexpr size_t kMostRanges = 256;
constexpr Nanoseconds kLeastTimeout = 200'000'000, kMostTimeout = 120 * kSecond, kLeastProbe = 10'000'000;
constexpr Nanoseconds kPeerDelay = 50'000'000;  // how long a peer may hold back the ACK of a single segment
constexpr unsigned kMostRetries = 15, kMostOrphanRetries = 8;

}  // namespace

// The number of bytes that were not known before.
uint64_t Connection::add_sacked_locked(uint64_t begin, uint64_t end) {
    auto first = std::lower_bound(sacked_.begin(), sacked_.end(), begin,
                                  [](const Range& one, uint64_t at) { return one.end < at; });
    uint64_t known = 0;
    auto last = first;
    Range joined{begin, end};
    while (last != sacked_.end() && last->begin <= end) {
        known += std::min(end, last->end) - std::min(std::max(begin, last->begin), std::min(end, last->end));
        joined.begin = std::min(joined.begin, last->begin);
        joined.end = std::max(joined.end, last->end);
        ++last;
    }
    if (first == last) {
        if (sacked_.size() >= kMostRanges) return 0;
        sacked_.insert(first, joined);
    } else {
        *first = joined;
        sacked_.erase(first + 1, last);
    }
    return end - begin - known;
}

void Connection::trim_sacked_locked() {
    // The peer would have acknowledged what it keeps: it has dropped what it said it had.
    if (!sacked_.empty() && sacked_.front().begin == send_una_) {
        sacked_.clear();
        return;
    }
    size_t gone = 0;
    while (gone < sacked_.size() && sacked_[gone].end <= send_una_) gone++;
    sacked_.erase(sacked_.begin(), sacked_.begin() + static_cast<ptrdiff_t>(gone));
    if (!sacked_.empty() && sacked_.front().begin < send_una_) sacked_.front().begin = send_una_;
}

// Below it, everything that was not acknowledged counts as lost.
uint64_t Connection::lost_edge_locked() const {
    uint64_t edge = phase_ == Phase::kLoss ? loss_edge_ : send_una_;
    if (phase_ == Phase::kOpen) return edge;
    if (!sack_) return std::max(edge, std::min(send_una_ + segment_size_, send_next_));
    uint64_t above = 0, needed = uint64_t{reordering_} * segment_size_;
    size_t ranges = 0;
    for (size_t i = sacked_.size(); i > 0; i--) {
        above += sacked_[i - 1].end - sacked_[i - 1].begin;
        ranges++;
        if (above >= needed || ranges >= reordering_) {
            edge = std::max(edge, sacked_[i - 1].begin);
            break;
        }
    }
    if (phase_ == Phase::kRecovery) edge = std::max(edge, std::min(send_una_ + segment_size_, send_next_));
    return edge;
}

// An estimate of what is on the way.
uint64_t Connection::pipe_locked() const {
    if (phase_ == Phase::kOpen && sacked_.empty()) {
        uint64_t gone = sack_ ? 0 : uint64_t{duplicates_} * segment_size_;
        return flight() > gone ? flight() - gone : 0;
    }
    uint64_t edge = lost_edge_locked(), pipe = 0, at = send_una_;
    auto add = [&](uint64_t begin, uint64_t end) {
        if (end > edge) pipe += end - std::max(begin, edge);
        uint64_t low = std::min({end, edge, high_retransmitted_});
        if (low > begin) pipe += low - begin;
    };
    for (const Range& range : sacked_) {
        if (range.begin > at) add(at, range.begin);
        at = std::max(at, range.end);
    }
    if (send_next_ > at) add(at, send_next_);
    if (!sack_) {
        uint64_t gone = uint64_t{duplicates_} * segment_size_;
        pipe = pipe > gone ? pipe - gone : 0;
    }
    return pipe;
}

bool Connection::next_lost_locked(uint64_t& begin, uint64_t& end) const {
    uint64_t edge = std::min(lost_edge_locked(), send_max_);
    begin = std::max(high_retransmitted_, send_una_);
    for (const Range& range : sacked_) {
        if (begin < range.begin) {
            end = std::min(range.begin, edge);
            return begin < end;
        }
        begin = std::max(begin, range.end);
    }
    end = edge;
    return begin < end;
}

void Connection::enter_recovery_locked() {
    stack_->counters().happened(TcpEvent::kFastRetransmission);
    stack_->counters().happened(sack_ ? TcpEvent::kSackRecovery : TcpEvent::kRenoRecovery);
    phase_ = Phase::kRecovery;
    recover_ = send_next_;
    high_retransmitted_ = send_una_;
    head_marker_ = send_next_;
    congestion_.lost(flight(), stack_->now());
    if (ecn_) slowed_down_ = true;
}

// After an ACK that told of something beyond a hole.
void Connection::detect_loss_locked() {
    if (phase_ == Phase::kOpen) {
        bool lost = duplicates_ >= reordering_ && !sack_;
        if (sack_ && !sacked_.empty()) {
            uint64_t above = 0;
            for (const Range& range : sacked_) above += range.end - range.begin;
            lost = above >= uint64_t{reordering_} * segment_size_ || sacked_.size() >= reordering_;
            // Too little is under way for that many (RFC 5827).
            if (!lost && send_next_ == sendable_end() && flight() <= uint64_t{4} * segment_size_)
                lost = above + segment_size_ >= flight();
            if (tail_probed_) lost = true;  // the probe has arrived, what was before it has not
        }
        if (lost && flight() > 0) enter_recovery_locked();
        return;
    }
    // The repaired head was lost again if what was sent after it has arrived.
    if (sack_ && high_retransmitted_ > send_una_ && !sacked_.empty()) {
        uint64_t above = 0;
        for (const Range& range : sacked_)
            if (range.end > head_marker_) above += range.end - std::max(range.begin, head_marker_);
        if (above >= uint64_t{reordering_} * segment_size_) {
            high_retransmitted_ = send_una_;
            head_marker_ = send_next_;
            congestion_.lost(flight(), stack_->now());
        }
    }
}

void Connection::round_trip_sample_locked(Nanoseconds sample) {
    sample = std::max<Nanoseconds>(sample, 1000);
    if (smoothed_ == 0) {
        smoothed_ = sample;
        variation_ = sample / 2;
    } else {
        Nanoseconds difference = sample > smoothed_ ? sample - smoothed_ : smoothed_ - sample;
        variation_ += (difference - variation_) / 4;
        smoothed_ += (sample - smoothed_) / 8;
    }
    timeout_ = std::clamp(smoothed_ + std::max<Nanoseconds>(4 * variation_, 1'000'000), kLeastTimeout, kMostTimeout);
}

void Connection::arm_retransmission_locked(bool restart) {
    Nanoseconds now = stack_->now();
    bool connected = state() != TcpState::kSynSent && state() != TcpState::kSynReceived;
    if (flight() > 0) {
        if (!restart && (waits_ == Waits::kRetransmission || waits_ == Waits::kTailProbe)) return;
        Nanoseconds wait = timeout_ << std::min(retries_, 16u);
        wait = std::min(wait, kMostTimeout);
        waits_ = Waits::kRetransmission;
        if (connected && sack_ && phase_ == Phase::kOpen && !tail_probed_ && smoothed_ > 0 && retries_ == 0) {
            Nanoseconds probe = std::max(2 * smoothed_, kLeastProbe);
            if (flight() <= segment_size_) probe += kPeerDelay;
            if (probe < wait) {
                waits_ = Waits::kTailProbe;
                wait = probe;
            }
        }
        repeat_at_ = now + wait;
        return;
    }
    bool blocked = connected && send_next_ < sendable_end() && window_ == 0;
    if (!blocked && connected && send_next_ < write_end_ && window_ < segment_size_ && window_ < most_window_ / 2)
        blocked = write_end_ - send_next_ > window_;
    if (blocked) {
        if (!restart && waits_ == Waits::kWindow) return;
        waits_ = Waits::kWindow;
        repeat_at_ = now + std::min(timeout_ << std::min(probes_out_, 16u), kMostTimeout);
        return;
    }
    waits_ = Waits::kNothing;
    repeat_at_ = 0;
}

void Connection::retransmission_timeout_locked(Nanoseconds now) {
    TcpState was = state();
    bool opening = was == TcpState::kSynSent || was == TcpState::kSynReceived;
    if (first_unanswered_ == 0) first_unanswered_ = now;
    unsigned most = opening ? tuning.syn_retries.load() : orphan_ ? kMostOrphanRetries : kMostRetries;
    uint32_t patience = tuning.user_timeout_ms.load(std::memory_order_relaxed);
    bool over = retries_ >= most;
    if (!opening && patience != 0) over = now - first_unanswered_ >= Nanoseconds{patience} * 1'000'000;
    if (over) {
        end_locked(soft_error_ != 0 ? soft_error_ : ETIMEDOUT);
        return;
    }
    bool first = retries_ == 0;
    retries_++;
    stack_->counters().happened(TcpEvent::kTimeout);
    timed_position_ = 0;
    if (opening) {
        total_retransmissions_++;
        send_syn_locked();
        arm_retransmission_locked(true);
        return;
    }
    stack_->counters().happened(TcpEvent::kSlowRetransmission);
    congestion_.timed_out(flight(), now, first && phase_ != Phase::kLoss);
    phase_ = Phase::kLoss;
    recover_ = loss_edge_ = send_next_;
    high_retransmitted_ = send_una_;
    head_marker_ = send_next_;
    duplicates_ = 0;
    if (retries_ >= 3) {
        sacked_.clear();       // it may have been forgotten there
        egress_.link.reset();  // and the route may be another one
    }
    output_locked();
    arm_retransmission_locked(true);
}

void Connection::tail_probe_locked() {
    tail_probed_ = true;
    stack_->counters().happened(TcpEvent::kTailProbe);
    if (send_next_ < write_end_ && window_ > flight()) {
        uint64_t size = std::min<uint64_t>({write_end_ - send_next_, segment_size_, window_ - flight()});
        static_cast<void>(transmit_locked(send_next_, size, 0));
    } else if (flight() > 0) {
        uint64_t size = std::min<uint64_t>(segment_size_, flight());
        static_cast<void>(transmit_locked(send_next_ - size, size, 0));
    }
    arm_retransmission_locked(true);
}

// An old byte makes the peer say what its window is now.
void Connection::window_probe_locked(Nanoseconds now) {
    if (first_unanswered_ == 0) first_unanswered_ = now;
    uint32_t patience = tuning.user_timeout_ms.load(std::memory_order_relaxed);
    if ((patience != 0 && now - first_unanswered_ >= Nanoseconds{patience} * 1'000'000) ||
        (orphan_ && probes_out_ >= kMostOrphanRetries)) {
        end_locked(ETIMEDOUT);
        return;
    }
    probes_out_++;
    if (window_ > 0 && send_next_ < write_end_) {
        uint64_t size = std::min<uint64_t>({write_end_ - send_next_, segment_size_, window_});
        static_cast<void>(transmit_locked(send_next_, size, 0));
    } else {
        static_cast<void>(send_segment_locked(send_next_ - 1, 0, kAck));
    }
    arm_retransmission_locked(true);
}

}  // namespace casemate::sentry::stack
