// Segments that arrive (RFC 9293 3.10.7, RFC 5961 for what strangers try).
#include <algorithm>
#include <cstring>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/delivery.h"
#include "sentry/net/stack/half_open.h"

namespace casemate::sentry::stack {
namespace {

constexpr size_t kMostBacklog = 1024, kMostBacklogBytes = 8 << 20, kMostEarly = 1024;
constexpr size_t kWorthKeeping = 32 << 10;  // payload from which on a received buffer is kept instead of copied
constexpr uint32_t kCopyBuffer = 16 << 10;
constexpr Nanoseconds kDelayedAck = 40'000'000, kChallengeInterval = 500'000'000, kFinWait2Time = 60 * kSecond;

}  // namespace

bool TcpSegment::parse(Bytes tcp) {
    if (tcp.size() < kTcpHeader) return false;
    const uint8_t* p = tcp.data();
    size_t header = size_t{p[12]} / 16 * 4;
    if (header < kTcpHeader || header > tcp.size()) return false;
    tuple.peer.port = load16(p);
    tuple.local.port = load16(p + 2);
    sequence = load32(p + 4);
    acknowledged = load32(p + 8);
    flags = p[13];
    window = load16(p + 14);
    urgent = load16(p + 18);
    payload = tcp.subspan(header);
    for (size_t at = kTcpHeader; at < header;) {
        uint8_t kind = p[at];
        if (kind == 0) break;
        if (kind == 1) {
            at++;
            continue;
        }
        if (at + 2 > header || p[at + 1] < 2 || at + p[at + 1] > header) break;  // as Linux: the rest is not read
        size_t size = p[at + 1];
        const uint8_t* value = p + at + 2;
        if (kind == 2 && size == 4 && (flags & kSyn)) mss = load16(value);
        if (kind == 3 && size == 3 && (flags & kSyn)) scale = std::min<int>(*value, 14);
        if (kind == 4 && size == 2 && (flags & kSyn)) sack_permitted = true;
        if (kind == 8 && size == 10) {
            has_timestamp = true;
            timestamp = load32(value);
            echo = load32(value + 4);
        }
        if (kind == 5 && size >= 10 && (size - 2) % 8 == 0) {
            sack_count = static_cast<unsigned>(std::min<size_t>((size - 2) / 8, 4));
            for (unsigned i = 0; i < sack_count; i++) sacks[i] = {load32(value + 8 * i), load32(value + 8 * i + 4)};
        }
        at += size;
    }
    return true;
}

void Stack::tcp_input(Delivery& packet, Batch& batch) {
    counters_.tcp_in.fetch_add(1, std::memory_order_relaxed);
    if (packet.for_group) return;
    TcpSegment segment;
    bool good = segment.parse(packet.payload);
    if (good && !packet.checked) {
        uint64_t pseudo = pseudo_header(packet.from, packet.to, kTcp, packet.payload.size());
        good = checksum_fold(checksum_add(pseudo, packet.payload.data(), packet.payload.size())) == 0xffff;
    }
    if (!good) {
        counters_.tcp_bad.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    segment.tuple.local.address = packet.to;
    segment.tuple.peer.address = packet.from;
    segment.link = packet.link.index;
    segment.mark = packet.traffic_class & kEcnMask;
    segment.buffer = packet.frame.buffer;
    if (packet.frame.virtio.gso_type != VirtioHeader::kNone) segment.part = packet.frame.virtio.gso_size;
    Ref<Connection> connection;
    if (!batch.touched.empty() && batch.touched.back()->tuple() == segment.tuple &&
        batch.touched.back()->state() != TcpState::kClosed)
        connection = batch.touched.back();
    else
        connection = find_connection(segment.tuple);
    if (connection) {
        bool listed = !batch.touched.empty() && batch.touched.back() == connection;
        if (connection->deliver(segment) && !listed) batch.touched.push_back(std::move(connection));
        return;
    }
    if (time_wait_input(segment)) return;
    connection = half_open_->input(segment);
    if (!connection) return;
    // The handshake's last segment may bring data.
    if (connection->deliver(segment)) batch.touched.push_back(std::move(connection));
}

void Stack::send_reset(const TcpSegment& segment) {
    if (segment.flags & kRst || !within_rate(kRateReset)) return;
    counters_.tcp_resets_out.fetch_add(1, std::memory_order_relaxed);
    if (segment.flags & kAck)
        send_tcp_bare(segment.tuple, segment.link, segment.acknowledged, 0, kRst, 0, {});
    else
        send_tcp_bare(segment.tuple, segment.link, 0, segment.sequence + segment.length(), kRst | kAck, 0, {});
}

void Stack::send_tcp_bare(const Tuple& tuple, uint32_t link, uint32_t sequence, uint32_t acknowledged, uint8_t flags,
                          uint16_t window, Bytes options) {
    std::array<uint8_t, 60> tcp{};
    store16(tcp.data(), tuple.local.port);
    store16(tcp.data() + 2, tuple.peer.port);
    store32(tcp.data() + 4, sequence);
    store32(tcp.data() + 8, acknowledged);
    size_t size = kTcpHeader + options.size();
    tcp[12] = static_cast<uint8_t>(size / 4 << 4);
    tcp[13] = flags;
    store16(tcp.data() + 14, window);
    if (!options.empty()) memcpy(tcp.data() + kTcpHeader, options.data(), options.size());
    OutPacket packet{{tuple.local.address, 0}, {tuple.peer.address, 0}, kTcp};
    auto way = route(tuple.peer.address, tuple.local.address, 0);
    if (!way.ok()) packet.link = link;
    packet.checksum_at = 16;
    packet.payload = {tcp.data(), size};
    counters_.tcp_out.fetch_add(1, std::memory_order_relaxed);
    static_cast<void>(send(packet));
}

// --------------------------------------------------------------------------------------------------- the way in

bool Connection::deliver(TcpSegment& segment) {
    if (mutex_.try_lock()) {
        if (attention_.exchange(false)) drain_locked();
        input_locked(segment);
        mutex_.unlock();
        return true;
    }
    {
        std::lock_guard lock(backlog_mutex_);
        if (backlog_.size() >= kMostBacklog || backlog_bytes_ >= kMostBacklogBytes) return false;
        TcpSegment kept = segment;
        if (kept.payload.empty()) {
            kept.buffer.reset();
        } else if (kept.payload.size() < kWorthKeeping) {
            auto copy = FrameBuffer::create(kept.payload.size());
            if (!copy) return false;
            memcpy(copy->data(), kept.payload.data(), kept.payload.size());
            kept.payload = {copy->data(), kept.payload.size()};
            kept.buffer = std::move(copy);
        }
        backlog_bytes_ += kept.payload.size();
        backlog_.push_back(std::move(kept));
    }
    attention_.store(true);
    if (mutex_.try_lock()) unlock();
    return false;
}

void Connection::batch_done() {
    attention_.store(true);
    if (mutex_.try_lock()) unlock();
}

// What the backlog holds, and the answers to everything that has come.
void Connection::drain_locked() {
    std::vector<TcpSegment> segments;
    {
        std::lock_guard lock(backlog_mutex_);
        segments.swap(backlog_);
        backlog_bytes_ = 0;
    }
    for (TcpSegment& segment : segments) input_locked(segment);
    if (state() == TcpState::kClosed) return;
    output_locked();
    if (ack_now_ || (unacknowledged_ > 0 && (quick_acks_ > 0 || unacknowledged_ >= size_t{2} * receive_segment_)))
        send_ack_locked();
    else if (unacknowledged_ > 0 && ack_at_ == 0)
        ack_at_ = stack_->now() + kDelayedAck;
}

bool Connection::in_flight(uint32_t sequence) {
    Locked locked(*this);
    uint32_t una = send_sequence(send_una_);
    return sequence - una <= static_cast<uint32_t>(send_max_ - send_una_) && flight() > 0;
}

void Connection::soft_error(int error) {
    Locked locked(*this);
    if (state() == TcpState::kSynSent)
        end_locked(error);
    else
        soft_error_ = error;
}

void Connection::path_changed() {
    Locked locked(*this);
    egress_.link.reset();
    if (!egress_locked().ok() || state() == TcpState::kSynSent || flight() == 0) return;
    // What was sent was too large: once more, in smaller pieces.
    if (phase_ == Phase::kOpen) {
        phase_ = Phase::kLoss;
        recover_ = loss_edge_ = send_next_;
        high_retransmitted_ = send_una_;
        timed_position_ = 0;
        output_locked();
    }
}

void Connection::abandon(int error) {
    Ref<Connection> self(this);
    Locked locked(*this);
    end_locked(error);
}

void Connection::challenge_locked() {
    Nanoseconds now = stack_->now();
    if (now - challenged_at_ < kChallengeInterval || !stack_->within_rate(Stack::kRateChallenge)) return;
    challenged_at_ = now;
    stack_->counters().happened(TcpEvent::kChallenge);
    send_ack_locked();
}

void Connection::reset_received_locked() {
    stack_->counters().tcp_resets_in.fetch_add(1, std::memory_order_relaxed);
    TcpState was = state();
    int error = was == TcpState::kCloseWait ? EPIPE : ECONNRESET;
    if (was == TcpState::kClosing || was == TcpState::kLastAck) error = 0;
    if (was == TcpState::kSynReceived) error = ECONNREFUSED;
    end_locked(error);  // what has come is still there to be read
}

void Connection::syn_sent_input_locked(TcpSegment& segment) {
    bool ack = segment.flags & kAck;
    if (ack && segment.acknowledged != send_sequence(1)) {
        stack_->send_reset(segment);
        return;
    }
    if (segment.flags & kRst) {
        if (ack) {
            stack_->counters().tcp_failed.fetch_add(1, std::memory_order_relaxed);
            end_locked(ECONNREFUSED);
        }
        return;
    }
    if (!(segment.flags & kSyn)) return;
    Agreement agreement;
    agreement.initial_send = initial_send_;
    agreement.initial_receive = segment.sequence;
    agreement.mss = segment.mss != 0 ? std::max<uint16_t>(segment.mss, 64) : 536;
    agreement.sack = segment.sack_permitted;
    agreement.timestamps = segment.has_timestamp;
    agreement.recent_timestamp = segment.timestamp;
    agreement.timestamp_offset = timestamp_offset_;
    if (segment.scale >= 0) {
        agreement.send_scale = segment.scale;
        agreement.receive_scale = kScale;
    }
    agreement.ecn = ecn_asked_ && ack && (segment.flags & (kEce | kCwr)) == kEce;
    agreement.window = segment.window;
    if (ack && retries_ == 0 && timed_at_ != 0) agreement.round_trip = stack_->now() - timed_at_;
    agree_locked(agreement);
    retries_ = 0;
    first_unanswered_ = 0;
    if (!ack) {
        // Both opened at once (RFC 9293 3.5): the answer to our SYN is still to come.
        set_state(TcpState::kSynReceived);
        send_syn_locked();
        arm_retransmission_locked(true);
        return;
    }
    send_una_ = 1;
    waits_ = Waits::kNothing;
    repeat_at_ = 0;
    set_state(fin_queued_ ? TcpState::kFinWait1 : TcpState::kEstablished);
    wake_ |= ~0u;
    ack_now_ = true;
    if (tuning.keep_alive) keep_at_ = stack_->now() + Nanoseconds{tuning.keep_idle} * kSecond;
}

void Connection::agree_locked(const Agreement& agreement) {
    initial_send_ = agreement.initial_send;
    initial_receive_ = agreement.initial_receive;
    peer_mss_ = agreement.mss;
    sack_ = agreement.sack;
    timestamps_ = agreement.timestamps;
    ecn_ = agreement.ecn;
    recent_timestamp_ = agreement.recent_timestamp;
    timestamp_offset_ = agreement.timestamp_offset;
    send_scale_ = agreement.send_scale;
    receive_scale_ = agreement.receive_scale;
    if (agreement.receive_buffer != 0) {
        tuning.receive_buffer = static_cast<uint32_t>(agreement.receive_buffer);
        receive_buffer_ = std::max<size_t>(agreement.receive_buffer, 2304);
    }
    receive_next_ = 1;
    receive_edge_ = std::max<uint64_t>(receive_edge_, 1 + std::min<uint64_t>(receive_free_locked(), 0xffff));
    window_ = most_window_ = agreement.window;
    window_sequence_ = 0;
    window_ack_ = 1;
    static_cast<void>(egress_locked());
    update_segment_size_locked();
    receive_segment_ = segment_size_;
    congestion_.start(segment_size_);
    if (agreement.round_trip > 0) round_trip_sample_locked(agreement.round_trip);
}

void Connection::input_locked(TcpSegment& segment) {
    TcpState was = state();
    segments_in_++;
    if (was == TcpState::kClosed) {
        // It has ended while this came. A SYN is sent again, and then finds the table as it is now.
        if (!segment.opens() && !stack_->time_wait_input(segment)) stack_->send_reset(segment);
        return;
    }
    if (was == TcpState::kSynSent) return syn_sent_input_locked(segment);
    uint64_t position = receive_position(segment.sequence);
    uint64_t end = position + segment.length();
    // Old timestamps: an old duplicate (RFC 7323 5.3).
    if (timestamps_ && segment.has_timestamp && !(segment.flags & kRst) &&
        before(segment.timestamp, recent_timestamp_)) {
        stack_->counters().happened(TcpEvent::kOldTimestamp);
        challenge_locked();
        return;
    }
    auto signed_less = [](uint64_t a, uint64_t b) { return static_cast<int64_t>(a - b) < 0; };
    bool acceptable = !signed_less(end, receive_next_) && !signed_less(receive_edge_, position);
    if (!acceptable) {
        if (segment.flags & kRst) return;
        if (segment.length() > 0 && !signed_less(receive_next_, end) && signed_less(position, receive_next_)) {
            // Data again: our ACK was lost, or they repeat needlessly (RFC 2883).
            if (position >= 1) duplicate_ = {position, end};
            ack_now_ = true;
            if (segment.flags & kAck && !(segment.flags & kSyn)) {
                uint64_t ack = send_una_ + static_cast<uint64_t>(int64_t{
                                               static_cast<int32_t>(segment.acknowledged - send_sequence(send_una_))});
                if (!signed_less(ack, send_una_) && !signed_less(send_max_, ack)) process_ack_locked(segment, ack);
            }
            return;
        }
        // A probe of an idle or blocked peer is answered each time, within reason.
        if (segment.length() == 0 && !(segment.flags & kSyn) && end + 1 == receive_next_)
            ack_now_ = true;
        else
            challenge_locked();
        return;
    }
    if (segment.flags & kRst) {
        if (position == receive_next_)
            reset_received_locked();
        else
            challenge_locked();
        return;
    }
    if (segment.flags & kSyn) {
        if (was == TcpState::kSynReceived && position + 1 == receive_next_ && !(segment.flags & kAck)) {
            send_syn_locked();
            return;
        }
        if (!(was == TcpState::kSynReceived && segment.flags & kAck)) {
            stack_->counters().happened(TcpEvent::kSynChallenge);
            challenge_locked();
            return;
        }
    }
    if (!(segment.flags & kAck)) return;
    uint64_t ack = send_una_ + static_cast<uint64_t>(
                                   int64_t{static_cast<int32_t>(segment.acknowledged - send_sequence(send_una_))});
    if (was == TcpState::kSynReceived) {
        if (ack != 1) {
            stack_->send_reset(segment);
            return;
        }
        set_state(fin_queued_ ? TcpState::kFinWait1 : TcpState::kEstablished);
        window_ = uint64_t{segment.window} << std::max(send_scale_, 0);
        most_window_ = std::max(most_window_, window_);
        waits_ = Waits::kNothing;
        wake_ |= ~0u;
    }
    if (signed_less(send_max_, ack) || signed_less(ack + most_window_, send_una_)) {
        challenge_locked();
        return;
    }
    // Only now: one that a stranger invents would make everything that the peer sends look old.
    if (timestamps_ && segment.has_timestamp && !signed_less(receive_next_, position))
        recent_timestamp_ = segment.timestamp;
    keep_probes_ = 0;
    if (ecn_) hear_marks_locked(segment);
    if (!signed_less(ack, send_una_)) process_ack_locked(segment, ack);
    if (ecn_ && (segment.flags & (kEce | kSyn)) == kEce && state() != TcpState::kClosed) hear_echo_locked(ack);
    if (state() == TcpState::kClosed) return;
    if ((segment.flags & (kUrg | kSyn)) == kUrg) urgent_received_locked(segment, position);
    if (!segment.payload.empty() && !(segment.flags & kSyn)) process_payload_locked(segment, position);
    if (state() == TcpState::kClosed) return;
    if ((segment.flags & kFin) && fin_at_ == 0 && end - 1 <= receive_edge_ && end - 1 >= receive_next_)
        fin_at_ = end - 1;
    if (fin_at_ != 0 && receive_next_ == fin_at_ && !fin_taken_) fin_received_locked();
}

// What routers have marked is told back with every ACK until the peer says that it has slowed down.
void Connection::hear_marks_locked(const TcpSegment& segment) {
    if (segment.flags & kCwr) congestion_seen_ = false;
    if (segment.payload.empty()) return;
    capable_seen_ |= segment.mark != kNotCapable;
    if (segment.mark != kCongested) return;
    if (!congestion_seen_) ack_now_ = true;
    congestion_seen_ = true;
}

// As a loss, but that nothing is lost: once for what is under way (RFC 3168 6.1.2).
void Connection::hear_echo_locked(uint64_t ack) {
    if (phase_ != Phase::kOpen || static_cast<int64_t>(ack - slowed_at_) <= 0) return;
    slowed_at_ = send_next_;
    slowed_down_ = true;
    congestion_.lost(congestion_.window(), stack_->now());
}

void Connection::process_ack_locked(const TcpSegment& segment, uint64_t ack) {
    Nanoseconds now = stack_->now();
    uint64_t position = receive_position(segment.sequence);
    uint64_t window = uint64_t{segment.window} << std::max(send_scale_, 0);
    bool window_told = window_sequence_ < position || (window_sequence_ == position && window_ack_ <= ack);
    uint64_t old_edge = send_una_ + window_;
    bool same_window = window == window_;
    if (window_told) {
        window_sequence_ = position;
        window_ack_ = ack;
    }
    uint64_t got = ack > send_una_ ? ack - send_una_ : 0;
    uint64_t newly_sacked = 0;
    bool duplicate_told = false;
    if (sack_) {
        for (unsigned i = 0; i < segment.sack_count; i++) {
            auto place = [&](uint32_t sequence) {
                return send_una_ +
                       static_cast<uint64_t>(int64_t{static_cast<int32_t>(sequence - send_sequence(send_una_))});
            };
            uint64_t begin = place(segment.sacks[i].begin), end = place(segment.sacks[i].end);
            if (i == 0 && static_cast<int64_t>(end - ack) <= 0 && static_cast<int64_t>(begin - end) < 0) {
                duplicate_told = true;  // it has got something twice
                continue;
            }
            if (static_cast<int64_t>(begin - ack) < 0 || static_cast<int64_t>(end - begin) <= 0 ||
                static_cast<int64_t>(end - send_max_) > 0)
                continue;
            newly_sacked += add_sacked_locked(begin, end);
        }
        // A needless repetition: the network reorders more than believed.
        if (duplicate_told && retransmitted_ > 0 && reordering_ < 64) reordering_ += 2;
    }
    if (got > 0) {
        uint64_t before_flight = flight();
        send_una_ = ack;
        if (send_next_ < send_una_) send_next_ = send_una_;
        while (!blocks_.empty() && blocks_.front().position + blocks_.front().size <= send_una_) {
            // The last block may have room for what comes.
            blocks_.pop_front();
        }
        trim_sacked_locked();
        if (timed_position_ != 0 && ack >= timed_position_) {
            round_trip_sample_locked(now - timed_at_);
            timed_position_ = 0;
        } else if (timestamps_ && segment.has_timestamp && segment.echo != 0 && retries_ > 0) {
            uint32_t took = timestamp_now() - segment.echo;
            if (took < 120'000) round_trip_sample_locked(Nanoseconds{took} * 1'000'000);
        }
        retries_ = 0;
        probes_out_ = 0;
        first_unanswered_ = 0;
        soft_error_ = 0;
        tail_probed_ = false;
        if (phase_ == Phase::kOpen || (phase_ == Phase::kLoss)) {
            if (window_limited_ || phase_ == Phase::kLoss || before_flight * 2 >= congestion_.window())
                congestion_.acknowledged(got, now, smoothed_);
        }
        if (phase_ != Phase::kOpen) {
            high_retransmitted_ = std::max(high_retransmitted_, send_una_);
            if (ack >= recover_) {
                phase_ = Phase::kOpen;
                duplicates_ = 0;
            } else if (!sack_) {
                // A partial ACK: the next hole begins here (RFC 6582).
                duplicates_ = duplicates_ > 0 ? duplicates_ - 1 : 0;
                if (phase_ == Phase::kRecovery) high_retransmitted_ = send_una_;
            }
        } else {
            duplicates_ = 0;
        }
        bool fin_done = fin_queued_ && send_una_ == write_end_ + 1;
        arm_retransmission_locked(true);
        if (fin_done) fin_acknowledged_locked();
        if (state() == TcpState::kClosed) return;
    } else if (flight() > 0 && segment.payload.empty() && !(segment.flags & (kSyn | kFin)) &&
               (same_window || newly_sacked > 0) && ack == send_una_) {
        duplicates_++;
    }
    if (window_told) {
        window_ = window;
        most_window_ = std::max(most_window_, window_);
        if (window_ > 0) probes_out_ = 0;
        if (send_una_ + window_ > old_edge && waits_ == Waits::kWindow) {
            waits_ = Waits::kNothing;
            repeat_at_ = 0;
            first_unanswered_ = 0;
        }
    } else if (got > 0) {
        window_ = old_edge > send_una_ ? old_edge - send_una_ : 0;
    }
    if (newly_sacked > 0 || (!sack_ && duplicates_ > 0)) detect_loss_locked();
}

void Connection::fin_acknowledged_locked() {
    switch (state()) {
        case TcpState::kFinWait1:
            set_state(TcpState::kFinWait2);
            wake_ |= ~0u;
            if (orphan_) life_at_ = stack_->now() + kFinWait2Time;
            break;
        case TcpState::kClosing:
            enter_time_wait_locked();
            break;
        case TcpState::kLastAck:
            end_locked(0);
            break;
        default:
            break;
    }
}

Connection::Chunk Connection::chunk_of(const TcpSegment& segment, Bytes payload) {
    Chunk chunk;
    chunk.size = static_cast<uint32_t>(payload.size());
    if (payload.size() >= kWorthKeeping) {
        chunk.buffer = segment.buffer;
        chunk.offset = static_cast<uint32_t>(payload.data() - segment.buffer->data());
        return chunk;
    }
    chunk.buffer = FrameBuffer::create(payload.size());
    if (chunk.buffer) memcpy(chunk.buffer->data(), payload.data(), payload.size());
    return chunk;
}

void Connection::append_locked(const TcpSegment& segment, Bytes payload) {
    receive_next_ += payload.size();
    unread_ += payload.size();
    if (payload.size() >= kWorthKeeping) {
        received_.push_back(chunk_of(segment, payload));
        return;
    }
    // Small ones are put together.
    if (!received_.empty()) {
        Chunk& last = received_.back();
        size_t used = size_t{last.offset} + last.size;
        if (last.buffer->capacity() <= kCopyBuffer && last.buffer->capacity() - used >= payload.size()) {
            memcpy(last.buffer->data() + used, payload.data(), payload.size());
            last.size += static_cast<uint32_t>(payload.size());
            return;
        }
    }
    Chunk chunk;
    // More of it is likely when something waits already.
    size_t capacity = received_.empty() ? payload.size() : std::max<size_t>(payload.size(), kCopyBuffer);
    chunk.buffer = FrameBuffer::create(capacity);
    if (!chunk.buffer) {  // no memory: as if it had been lost
        receive_next_ -= payload.size();
        unread_ -= payload.size();
        return;
    }
    memcpy(chunk.buffer->data(), payload.data(), payload.size());
    chunk.size = static_cast<uint32_t>(payload.size());
    received_.push_back(std::move(chunk));
}

void Connection::process_payload_locked(TcpSegment& segment, uint64_t position) {
    TcpState now_state = state();
    if (now_state != TcpState::kEstablished && now_state != TcpState::kFinWait1 && now_state != TcpState::kFinWait2)
        return;
    Nanoseconds now = stack_->now();
    Bytes payload = segment.payload;
    if (static_cast<int64_t>(position - receive_next_) < 0) {
        uint64_t old = receive_next_ - position;
        if (old >= payload.size()) {
            ack_now_ = true;
            return;
        }
        payload = payload.subspan(old);
        position = receive_next_;
    }
    if (orphan_) {
        // Nobody will read it (RFC 9293 3.6.1 calls it aborting; Linux does the same).
        send_reset_locked();
        end_locked(0);
        return;
    }
    if (position >= receive_edge_) {
        ack_now_ = true;
        return;
    }
    if (position + payload.size() > receive_edge_) {
        payload = payload.first(static_cast<size_t>(receive_edge_ - position));
        segment.flags &= static_cast<uint8_t>(~kFin);
        ack_now_ = true;
    }
    if (fin_at_ != 0 && position + payload.size() > fin_at_) {
        if (position >= fin_at_) return;
        payload = payload.first(static_cast<size_t>(fin_at_ - position));
    }
    received_at_ = now;
    uint32_t part = segment.part != 0 ? segment.part : static_cast<uint32_t>(std::min<size_t>(payload.size(), 65535));
    if (part >= 200) receive_segment_ = std::min<uint32_t>(part, 65535);
    bytes_in_ += payload.size();
    unacknowledged_ += payload.size();
    if (position == receive_next_) {
        append_locked(segment, payload);
        if (!early_.empty()) {
            ack_now_ = true;
            while (!early_.empty() && early_.begin()->first <= receive_next_) {
                auto first = early_.begin();
                uint64_t end = first->first + first->second.size;
                early_bytes_ -= first->second.size;
                if (end > receive_next_) {
                    Chunk chunk = std::move(first->second);
                    auto skip = static_cast<uint32_t>(receive_next_ - first->first);
                    chunk.offset += skip;
                    chunk.size -= skip;
                    receive_next_ += chunk.size;
                    unread_ += chunk.size;
                    received_.push_back(std::move(chunk));
                }
                early_.erase(first);
            }
        }
        wake_ |= EPOLLIN | EPOLLRDNORM;
        return;
    }
    // Out of order: what is not there yet of it.
    stack_->counters().happened(TcpEvent::kOutOfOrder);
    ack_now_ = true;
    last_early_ = position;
    uint64_t end = position + payload.size();
    auto next = early_.upper_bound(position);
    if (next != early_.begin()) {
        auto before_it = std::prev(next);
        uint64_t before_end = before_it->first + before_it->second.size;
        if (before_end >= end) {
            stack_->counters().happened(TcpEvent::kOutOfOrderMerged);
            duplicate_ = {position, end};
            return;
        }
        if (before_end > position) {
            payload = payload.subspan(static_cast<size_t>(before_end - position));
            position = before_end;
        }
    }
    while (!payload.empty()) {
        size_t part_size = payload.size();
        if (next != early_.end())
            part_size = static_cast<size_t>(std::min<uint64_t>(part_size, next->first - position));
        if (part_size > 0) {
            if (early_.size() >= kMostEarly) {
                stack_->counters().happened(TcpEvent::kOutOfOrderDropped);
                return;
            }
            Chunk chunk = chunk_of(segment, payload.first(part_size));
            if (!chunk.buffer) return;
            early_bytes_ += part_size;
            early_.emplace_hint(next, position, std::move(chunk));
        }
        position += part_size;
        payload = payload.subspan(part_size);
        if (next == early_.end() || payload.empty()) break;
        size_t known = std::min<size_t>(next->second.size, payload.size());
        position += known;
        payload = payload.subspan(known);
        ++next;
    }
}

// As Linux takes the pointer: one past the byte. Only the newest counts; one that was not read is data like any other.
void Connection::urgent_received_locked(const TcpSegment& segment, uint64_t position) {
    TcpState now_state = state();
    if (now_state != TcpState::kEstablished && now_state != TcpState::kFinWait1 && now_state != TcpState::kFinWait2)
        return;
    uint64_t at = position + (segment.urgent > 0 ? segment.urgent - 1u : 0);
    if (static_cast<int64_t>(at - receive_next_) < 0 || orphan_) return;
    if (urgent_ != Urgent::kNone && at <= urgent_at_) return;
    if (at_mark_locked() && unread_ > 0 && !tuning.urgent_inline) take_front_locked(1);
    urgent_ = Urgent::kUnread;
    urgent_at_ = at;
    wake_ |= EPOLLPRI;
}

void Connection::fin_received_locked() {
    fin_taken_ = true;
    receive_next_++;
    receive_edge_ = std::max(receive_edge_, receive_next_);
    ack_now_ = true;
    wake_ |= ~0u;
    switch (state()) {
        case TcpState::kEstablished:
            set_state(TcpState::kCloseWait);
            break;
        case TcpState::kFinWait1:
            set_state(TcpState::kClosing);
            break;
        case TcpState::kFinWait2:
            enter_time_wait_locked();
            break;
        default:
            break;
    }
}

}  // namespace casemate::sentry::stack
