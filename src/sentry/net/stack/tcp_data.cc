// The application's side of a connection.
#include <linux/tcp.h>

#include <algorithm>
#include <cstring>

#include "sentry/net/stack/connection.h"

namespace casemate::sentry::stack {
namespace {

constexpr uint32_t kLeastBlock = 4096, kMostBlock = 64 << 10;
constexpr Nanoseconds kFinWait2 = 60 * kSecond;
constexpr Nanoseconds kLeastInterval = 1'000'000;

}  // namespace

void Tuning::copy_from(const Tuning& other) {
    no_delay = other.no_delay.load();
    urgent_inline = other.urgent_inline.load();
    cork = other.cork.load();
    keep_alive = other.keep_alive.load();
    keep_idle = other.keep_idle.load();
    keep_interval = other.keep_interval.load();
    keep_count = other.keep_count.load();
    syn_retries = other.syn_retries.load();
    user_timeout_ms = other.user_timeout_ms.load();
    most_segment = other.most_segment.load();
    send_buffer = other.send_buffer.load();
    receive_buffer = other.receive_buffer.load();
    hop_limit = other.hop_limit.load();
    traffic_class = other.traffic_class.load();
}

size_t Connection::send_limit_locked() const {
    if (uint32_t chosen = tuning.send_buffer.load(std::memory_order_relaxed); chosen != 0) return chosen;
    return std::clamp<size_t>(congestion_.window() * 2, kFirstSendBuffer, kMostSendBuffer);
}

size_t Connection::receive_free_locked() const { return receive_buffer_ > unread_ ? receive_buffer_ - unread_ : 0; }

Connection::Progress Connection::send(IoBuffer& from, bool more, bool urgent) {
    size_t room;
    {
        Locked locked(*this);
        if (int error = take_error(); error != 0) return {.error = error};
        if (state() == TcpState::kClosed || fin_queued_) return {.ended = true};
        if (connecting()) return {.would_block = true};
        size_t limit = send_limit_locked(), used = static_cast<size_t>(write_end_ - send_una_);
        if (used >= limit) {
            ready_.fetch_and(~static_cast<uint32_t>(EPOLLOUT | EPOLLWRNORM), std::memory_order_acq_rel);
            return {.would_block = true};
        }
        room = limit - used;
        size_t small = std::min(room, from.remaining());
        // A little goes behind what is there already.
        if (small <= kLeastBlock && !blocks_.empty() && blocks_.back().capacity - blocks_.back().size >= small) {
            Block& last = blocks_.back();
            auto copied = from.copy_from(last.buffer->data() + last.size, small);
            if (!copied.ok()) return {.error = copied.error().value};
            last.size += static_cast<uint32_t>(*copied);
            write_end_ += *copied;
            more_coming_ = more;
            if (urgent && from.remaining() == 0) urgent_end_ = write_end_;
            output_locked();
            return {.bytes = *copied};
        }
    }
    // The application's memory is read without the lock: it may have to be fetched.
    size_t want = std::min({from.remaining(), room, size_t{kMostBlock}});
    Block block;
    block.buffer = FrameBuffer::create(std::max<size_t>(want, kLeastBlock));
    if (!block.buffer) return {.error = ENOBUFS};
    block.capacity = static_cast<uint32_t>(block.buffer->capacity());
    auto copied = from.copy_from(block.buffer->data(), want);
    if (!copied.ok()) return {.error = copied.error().value};
    block.size = static_cast<uint32_t>(*copied);
    Locked locked(*this);
    if (state() == TcpState::kClosed || fin_queued_) {
        int error = take_error();
        return {.ended = error == 0, .error = error};
    }
    block.position = write_end_;
    write_end_ += block.size;
    blocks_.push_back(std::move(block));
    more_coming_ = more || from.remaining() > 0;
    if (urgent && from.remaining() == 0) urgent_end_ = write_end_;
    output_locked();
    return {.bytes = *copied};
}

Connection::Progress Connection::receive(IoBuffer& into, Reading& reading) {
    std::lock_guard one_reader(read_mutex_);
    constexpr size_t kAtOnce = 16;
    Chunk taken[kAtOnce];
    size_t count = 0, total = 0;
    bool up_to_mark = false;
    size_t want = reading.discard ? reading.want : into.remaining();
    {
        Locked locked(*this);
        size_t skip = reading.peek ? reading.peeked : 0;
        if (urgent_ != Urgent::kNone && unread_ > 0) {
            size_t ahead = static_cast<size_t>(urgent_at_ - read_position_);
            if (ahead > skip) {
                want = std::min(want, ahead - skip);
                up_to_mark = true;
            } else if (!tuning.urgent_inline) {
                // At the mark: what is beside the stream is stepped over.
                if (reading.peek)
                    skip++;
                else
                    take_front_locked(1);
            }
        }
        if (unread_ <= skip) {
            bool over = fin_taken_ || receive_shut_ || state() == TcpState::kClosed;
            if (unread_ == 0 && !(fin_taken_ && !receive_shut_))
                if (int error = take_error(); error != 0) return {.error = error};
            return {.would_block = !over, .ended = over};
        }
        for (auto it = received_.begin(); it != received_.end() && count < kAtOnce && total < want; ++it) {
            if (skip >= it->size) {
                skip -= it->size;
                continue;
            }
            Chunk& chunk = taken[count++];
            chunk = *it;
            chunk.offset += static_cast<uint32_t>(skip);
            chunk.size -= static_cast<uint32_t>(skip);
            skip = 0;
            chunk.size = static_cast<uint32_t>(std::min<size_t>(chunk.size, want - total));
            total += chunk.size;
        }
    }
    size_t moved = 0;
    int error = 0;
    for (size_t i = 0; i < count; i++) {
        size_t part = taken[i].size;
        if (!reading.discard) {
            auto copied = into.copy_to(taken[i].buffer->data() + taken[i].offset, part);
            if (!copied.ok()) {
                error = copied.error().value;
                break;
            }
            part = *copied;
        }
        moved += part;
        if (part < taken[i].size) break;
    }
    if (moved == 0) return {.error = error != 0 ? error : EFAULT};
    if (reading.peek) {
        reading.peeked += moved;
        return {.bytes = moved, .at_mark = up_to_mark && moved == want};
    }
    for (size_t i = 0; i < count; i++) taken[i].buffer.reset();
    Locked locked(*this);
    take_front_locked(std::min(moved, unread_));
    maybe_update_window_locked();
    return {.bytes = moved, .at_mark = up_to_mark && at_mark_locked()};
}

void Connection::take_front_locked(size_t size) {
    unread_ -= size;
    read_since_ += size;
    read_position_ += size;
    if (urgent_ != Urgent::kNone && read_position_ > urgent_at_) urgent_ = Urgent::kNone;
    while (size > 0) {
        Chunk& first = received_.front();
        size_t part = std::min<size_t>(size, first.size);
        first.offset += static_cast<uint32_t>(part);
        first.size -= static_cast<uint32_t>(part);
        size -= part;
        if (first.size == 0) received_.pop_front();
    }
}

SysResult<std::byte> Connection::receive_urgent(bool peek) {
    Locked locked(*this);
    if (urgent_ != Urgent::kUnread || tuning.urgent_inline) return Errno(EINVAL);
    if (!urgent_is_here_locked()) return Errno(EAGAIN);
    size_t ahead = static_cast<size_t>(urgent_at_ - read_position_);
    for (const Chunk& chunk : received_) {
        if (ahead >= chunk.size) {
            ahead -= chunk.size;
            continue;
        }
        if (!peek) urgent_ = Urgent::kRead;
        return static_cast<std::byte>(chunk.buffer->data()[chunk.offset + ahead]);
    }
    return Errno(EAGAIN);
}

bool Connection::at_mark() {
    Locked locked(*this);
    return at_mark_locked();
}

// After the application has taken something: a larger buffer for whoever keeps up, and word to a sender that waits.
void Connection::maybe_update_window_locked() {
    TcpState now_state = state();
    if (now_state != TcpState::kEstablished && now_state != TcpState::kFinWait1 && now_state != TcpState::kFinWait2)
        return;
    Nanoseconds now = stack_->now();
    if (uint32_t chosen = tuning.receive_buffer.load(std::memory_order_relaxed); chosen != 0) {
        receive_buffer_ = std::max<size_t>(chosen, 2304);
    } else if (now - interval_began_ >= std::max(smoothed_, kLeastInterval)) {
        if (interval_began_ != 0 && read_since_ * 2 > receive_buffer_ && receive_buffer_ < kMostReceiveBuffer &&
            stack_->extra_memory.load(std::memory_order_relaxed) + receive_buffer_ <= Stack::kMostExtraMemory) {
            stack_->extra_memory.fetch_add(receive_buffer_, std::memory_order_relaxed);
            receive_buffer_ *= 2;
        }
        read_since_ = 0;
        interval_began_ = now;
    }
    uint64_t edge = receive_next_ + receive_free_locked();
    uint64_t gain = edge > receive_edge_ ? edge - receive_edge_ : 0;
    uint64_t worth = std::max<uint64_t>(uint64_t{2} * receive_segment_, receive_buffer_ / 4);
    worth = std::min<uint64_t>(worth, receive_buffer_ / 2);
    if (gain >= worth) send_ack_locked();
}

void Connection::shutdown_send() {
    Locked locked(*this);
    if (fin_queued_) return;
    switch (state()) {
        case TcpState::kEstablished:
            set_state(TcpState::kFinWait1);
            break;
        case TcpState::kCloseWait:
            set_state(TcpState::kLastAck);
            break;
        case TcpState::kSynSent:
        case TcpState::kSynReceived:
            break;  // goes when the connection stands
        default:
            return;
    }
    fin_queued_ = true;
    more_coming_ = false;
    wake_ |= ~0u;
    output_locked();
}

void Connection::shutdown_receive() {
    Locked locked(*this);
    receive_shut_ = true;
    wake_ |= ~0u;
}

void Connection::close(bool abort) {
    Ref<Connection> self(this);
    Locked locked(*this);
    if (orphan_) return;
    orphan_ = true;
    waiters_.reset();
    TcpState was = state();
    if (was == TcpState::kClosed) return;
    bool unread = unread_ > 0;
    received_.clear();
    unread_ = 0;
    if (was == TcpState::kSynSent) {
        end_locked(0);
        return;
    }
    // A peer that answers a SYN with a SYN alone: before it has confirmed ours no FIN can go.
    if (abort || unread || was == TcpState::kSynReceived) {
        send_reset_locked();
        end_locked(0);
        return;
    }
    if (!fin_queued_) {
        set_state(was == TcpState::kCloseWait ? TcpState::kLastAck : TcpState::kFinWait1);
        fin_queued_ = true;
        more_coming_ = false;
        output_locked();
    } else if (was == TcpState::kFinWait2) {
        life_at_ = stack_->now() + kFinWait2;
    }
}

void Connection::set_waiters(Ref<SocketWaiters> waiters) {
    Locked locked(*this);
    waiters_ = std::move(waiters);
}

int Connection::take_error() {
    int error = error_.exchange(0, std::memory_order_acq_rel);
    if (error != 0) ready_.fetch_and(~static_cast<uint32_t>(EPOLLERR), std::memory_order_acq_rel);
    return error;
}

size_t Connection::unread() {
    Locked locked(*this);
    return unread_;
}
size_t Connection::unsent() {
    Locked locked(*this);
    return static_cast<size_t>(write_end_ - std::min(std::max<uint64_t>(send_una_, 1), write_end_));
}
size_t Connection::not_sent() {
    Locked locked(*this);
    return static_cast<size_t>(write_end_ - std::min(std::max<uint64_t>(send_next_, 1), write_end_));
}
uint32_t Connection::segment_size() {
    Locked locked(*this);
    return segment_size_;
}

void Connection::options_changed() {
    Locked locked(*this);
    if (uint32_t chosen = tuning.receive_buffer.load(std::memory_order_relaxed); chosen != 0)
        receive_buffer_ = std::max<size_t>(chosen, 2304);
    if (!tuning.cork) retry_at_ = 0;
    TcpState now_state = state();
    if (tuning.keep_alive && keep_at_ == 0 &&
        (now_state == TcpState::kEstablished || now_state == TcpState::kCloseWait))
        keep_at_ = stack_->now() + Nanoseconds{tuning.keep_idle} * kSecond;
    if (!tuning.keep_alive) keep_at_ = 0;
    egress_.link.reset();
    output_locked();
}

void Connection::info(tcp_info& into) {
    Locked locked(*this);
    into.tcpi_state = static_cast<uint8_t>(state());
    into.tcpi_ca_state = phase_ == Phase::kOpen ? 0 : phase_ == Phase::kRecovery ? 3 : 4;
    into.tcpi_retransmits = static_cast<uint8_t>(std::min(retries_, 255u));
    into.tcpi_probes = static_cast<uint8_t>(std::min(probes_out_, 255u));
    into.tcpi_backoff = static_cast<uint8_t>(std::min(retries_, 255u));
    into.tcpi_options = static_cast<uint8_t>((timestamps_ ? 1 : 0) | (sack_ ? 2 : 0) | (send_scale_ >= 0 ? 4 : 0) |
                                             (ecn_ ? 8 : 0) | (ecn_ && capable_seen_ ? 16 : 0));
    into.tcpi_snd_wscale = static_cast<uint8_t>(std::max(send_scale_, 0)) & 0xf;
    into.tcpi_rcv_wscale = static_cast<uint8_t>(receive_scale_) & 0xf;
    auto micro = [](Nanoseconds time) { return static_cast<uint32_t>(std::min<Nanoseconds>(time / 1000, UINT32_MAX)); };
    into.tcpi_rto = micro(timeout_);
    into.tcpi_ato = 40'000;
    into.tcpi_snd_mss = segment_size_;
    into.tcpi_rcv_mss = receive_segment_;
    auto segments = [&](uint64_t bytes) {
        return static_cast<uint32_t>((bytes + segment_size_ - 1) / std::max(segment_size_, 1u));
    };
    into.tcpi_unacked = segments(flight());
    uint64_t sacked = 0;
    for (const Range& range : sacked_) sacked += range.end - range.begin;
    into.tcpi_sacked = segments(sacked);
    into.tcpi_lost = phase_ == Phase::kOpen ? 0 : segments(lost_edge_locked() - send_una_);
    Nanoseconds now = stack_->now();
    into.tcpi_last_data_recv = static_cast<uint32_t>((now - received_at_) / 1'000'000);
    into.tcpi_pmtu = egress_.mtu;
    into.tcpi_rtt = micro(smoothed_);
    into.tcpi_rttvar = micro(variation_);
    into.tcpi_snd_ssthresh = congestion_.threshold() == UINT64_MAX ? 0x7fffffff : segments(congestion_.threshold());
    into.tcpi_snd_cwnd = static_cast<uint32_t>(congestion_.window() / std::max(segment_size_, 1u));
    into.tcpi_advmss = egress_.mtu > 40 ? egress_.mtu - 40 : 536;
    into.tcpi_reordering = reordering_;
    into.tcpi_rcv_space = static_cast<uint32_t>(receive_buffer_);
    into.tcpi_total_retrans = static_cast<uint32_t>(total_retransmissions_);
    into.tcpi_bytes_acked = send_una_ > 0 ? send_una_ - 1 : 0;
    into.tcpi_bytes_received = bytes_in_;
    into.tcpi_segs_out = static_cast<uint32_t>(segments_out_);
    into.tcpi_segs_in = static_cast<uint32_t>(segments_in_);
    into.tcpi_notsent_bytes =
        static_cast<uint32_t>(write_end_ - std::min(std::max<uint64_t>(send_next_, 1), write_end_));
    into.tcpi_min_rtt = micro(smoothed_);
    into.tcpi_bytes_sent = bytes_out_;
    into.tcpi_bytes_retrans = retransmitted_;
    into.tcpi_snd_wnd = static_cast<uint32_t>(window_);
}

}  // namespace casemate::sentry::stack
