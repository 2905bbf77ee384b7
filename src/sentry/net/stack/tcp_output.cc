// Sending segments: what the windows allow, in pieces of up to 64 KiB that the host's kernel cuts.
#include <algorithm>
#include <cstring>

#include "sentry/net/stack/connection.h"

namespace casemate::sentry::stack {
namespace {

constexpr size_t kMostSegmented = 65535 - 40 - 60;  // an IP packet's payload, with TCP's longest header
constexpr Nanoseconds kRetryDevice = 1'000'000, kCorkPatience = 200'000'000;

}  // namespace

SysResult<const Egress*> Connection::egress_locked() {
    uint32_t generation = stack_->generation();
    if (!egress_.link || egress_generation_ != generation) {
        egress_ = TRY(stack_->route(tuple_.peer.address, tuple_.local.address, link_));
        egress_generation_ = generation;
        update_segment_size_locked();
    }
    return &egress_;
}

void Connection::update_segment_size_locked() {
    uint32_t mtu = stack_->path_mtu(tuple_.peer.address, egress_.mtu);
    uint32_t headers = kTcpHeader + (tuple_.peer.address.is_v4() ? kIpv4Header : kIpv6Header);
    uint32_t size = mtu > headers + 88 ? mtu - headers : 88;
    size = std::min(size, peer_mss_);
    if (uint32_t wish = tuning.most_segment.load(std::memory_order_relaxed); wish != 0) size = std::min(size, wish);
    if (timestamps_ && size > 12 + 36) size -= 12;
    segment_size_ = size;
    congestion_.set_segment(size);
}

// What the window field says. Never takes back what was announced (RFC 9293 3.8.6).
uint16_t Connection::window_locked(bool syn) {
    uint64_t edge = std::max(receive_edge_, receive_next_ + receive_free_locked());
    int scale = syn ? 0 : receive_scale_;
    uint64_t window = std::min<uint64_t>((edge - receive_next_) >> scale, 0xffff);
    uint64_t told = receive_next_ + (window << scale);
    if (told > receive_edge_ || syn) receive_edge_ = std::max(receive_edge_, told);
    return static_cast<uint16_t>(window);
}

size_t Connection::write_options_locked(uint8_t* at, uint8_t flags) {
    uint8_t* p = at;
    if (flags & kSyn) {
        bool answer = flags & kAck;
        uint32_t headers = kTcpHeader + (tuple_.peer.address.is_v4() ? kIpv4Header : kIpv6Header);
        uint32_t mss = egress_.mtu > headers ? egress_.mtu - headers : 536;
        if (uint32_t wish = tuning.most_segment.load(std::memory_order_relaxed); wish != 0) mss = std::min(mss, wish);
        *p++ = 2;
        *p++ = 4;
        store16(p, std::min<uint32_t>(mss, 65495));
        p += 2;
        if (!answer || sack_) {
            *p++ = 4;
            *p++ = 2;
        } else {
            *p++ = 1;
            *p++ = 1;
        }
        if (!answer || timestamps_) {
            *p++ = 8;
            *p++ = 10;
            store32(p, timestamp_now());
            store32(p + 4, recent_timestamp_);
            p += 8;
        }
        if (!answer || send_scale_ >= 0) {
            *p++ = 1;
            *p++ = 3;
            *p++ = 3;
            *p++ = kScale;
        }
        while ((p - at) % 4 != 0) *p++ = 1;
        return static_cast<size_t>(p - at);
    }
    if (timestamps_) {
        *p++ = 1;
        *p++ = 1;
        *p++ = 8;
        *p++ = 10;
        store32(p, timestamp_now());
        store32(p + 4, recent_timestamp_);
        p += 8;
    }
    if (sack_ && (!early_.empty() || duplicate_.end != 0) && !(flags & kRst)) {
        // Joined ranges; the one that changed last first (RFC 2018 4).
        Range ranges[4];
        size_t count = 0, most = timestamps_ ? 3 : 4;
        if (duplicate_.end != 0) ranges[count++] = std::exchange(duplicate_, {0, 0});  // RFC 2883
        auto joined = [&](std::map<uint64_t, Chunk>::const_iterator it) {
            Range range{it->first, it->first + it->second.size};
            for (auto back = it; back != early_.begin();) {
                --back;
                if (back->first + back->second.size != range.begin) break;
                range.begin = back->first;
            }
            for (auto next = std::next(it); next != early_.end() && next->first == range.end; ++next)
                range.end += next->second.size;
            return range;
        };
        auto add = [&](const Range& range) {
            for (size_t i = 0; i < count; i++)
                if (ranges[i].begin == range.begin && ranges[i].end == range.end) return;
            if (count < most) ranges[count++] = range;
        };
        if (auto it = early_.upper_bound(last_early_); it != early_.begin()) add(joined(std::prev(it)));
        for (auto it = early_.begin(); it != early_.end() && count < most;) {
            Range range = joined(it);
            add(range);
            it = early_.lower_bound(range.end);
        }
        if (count > 0) {
            *p++ = 1;
            *p++ = 1;
            *p++ = 5;
            *p++ = static_cast<uint8_t>(2 + 8 * count);
            for (size_t i = 0; i < count; i++) {
                store32(p, initial_receive_ + static_cast<uint32_t>(ranges[i].begin));
                store32(p + 4, initial_receive_ + static_cast<uint32_t>(ranges[i].end));
                p += 8;
            }
        }
    }
    return static_cast<size_t>(p - at);
}

// One segment with `data` bytes from `position` on. False: the device has no room, nothing was sent.
bool Connection::send_segment_locked(uint64_t position, size_t data, uint8_t flags) {
    auto egress = egress_locked();
    uint8_t traffic_class = tuning.traffic_class.load(std::memory_order_relaxed);
    if (ecn_ && !(flags & (kSyn | kRst))) {
        // Marks are for data that is new; what was lost once must not vanish again as a mark (RFC 3168 6.1.5).
        bool capable = data > 0 && position >= send_max_;
        traffic_class = static_cast<uint8_t>((traffic_class & ~kEcnMask) | (capable ? kCapable : kNotCapable));
        if (congestion_seen_) flags |= kEce;
        if (capable && std::exchange(slowed_down_, false)) flags |= kCwr;
    }
    if (!egress.ok()) {
        soft_error_ = egress.error().value;
        return true;  // as if it were lost on the way
    }
    bool v4 = tuple_.peer.address.is_v4();
    size_t ip = v4 ? kIpv4Header : kIpv6Header;
    OutFrame frame;
    uint8_t* tcp = frame.ip() + ip;
    size_t options = write_options_locked(tcp + kTcpHeader, flags);
    store16(tcp, tuple_.local.port);
    store16(tcp + 2, tuple_.peer.port);
    store32(tcp + 4, send_sequence(position));
    store32(tcp + 8, flags & kAck ? initial_receive_ + static_cast<uint32_t>(receive_next_) : 0);
    tcp[12] = static_cast<uint8_t>((kTcpHeader + options) / 4 << 4);
    uint64_t ahead = urgent_end_ > position ? urgent_end_ - position : 0;
    bool urgent = ahead != 0 && ahead <= 0xffff && !(flags & (kSyn | kRst));
    tcp[13] = urgent ? flags | kUrg : flags;
    store16(tcp + 14, window_locked(flags & kSyn));
    store16(tcp + 18, urgent ? static_cast<uint32_t>(ahead) : 0);
    frame.head_size = kEthernetHeader + ip + kTcpHeader + options;
    if (data > 0) {
        auto block = block_at_locked(position);
        for (size_t left = data; left > 0; ++block) {
            size_t skip = static_cast<size_t>(position + (data - left) - block->position);
            size_t part = std::min<size_t>(left, block->size - skip);
            CHECK(frame.add(block->buffer->data() + skip, part));  // gatherable_locked() has counted
            left -= part;
        }
    }
    size_t length = kTcpHeader + options + data;
    store16(tcp + 16, checksum_fold(pseudo_header(tuple_.local.address, tuple_.peer.address, kTcp, length)));
    frame.virtio.flags = VirtioHeader::kNeedsChecksum;
    frame.virtio.csum_start = static_cast<uint16_t>(kEthernetHeader + ip);
    frame.virtio.csum_offset = 16;
    if (data > segment_size_) {
        frame.virtio.gso_type = v4 ? VirtioHeader::kTcp4 : VirtioHeader::kTcp6;
        if (flags & kCwr) frame.virtio.gso_type |= VirtioHeader::kCwrOnce;
        frame.virtio.gso_size = static_cast<uint16_t>(segment_size_);
        frame.virtio.hdr_len = static_cast<uint16_t>(frame.head_size);
    }
    auto sent = stack_->send_ip(egress_, tuple_.local.address, tuple_.peer.address, kTcp,
                                tuning.hop_limit.load(std::memory_order_relaxed), traffic_class, frame);
    if (!sent.ok()) {
        if (sent.error().value == ENOBUFS) return false;
        soft_error_ = sent.error().value;
    }
    stack_->counters().tcp_out.fetch_add(1, std::memory_order_relaxed);
    segments_out_++;
    if (flags & kAck) {
        unacknowledged_ = 0;
        ack_now_ = false;
        ack_at_ = 0;
        if (quick_acks_ > 0) quick_acks_--;
    }
    return true;
}

const Connection::Block* Connection::block_at_locked(uint64_t position) const {
    return std::upper_bound(blocks_.begin(), blocks_.end(), position,
                            [](uint64_t at, const Block& one) { return at < one.position; }) -
           1;
}

// How much of `data` bytes one frame can carry in its pieces.
size_t Connection::gatherable_locked(uint64_t position, size_t data) const {
    if (data == 0) return 0;
    auto block = block_at_locked(position);
    size_t got = static_cast<size_t>(block->position + block->size - position);
    for (size_t pieces = 1; got < data && pieces < OutFrame::kMostPieces; pieces++) got += (++block)->size;
    return std::min(got, data);
}

// Data (and the FIN, if the range covers it) that may have been sent before. `size` is cut if it is too much for a
// frame.
bool Connection::transmit_locked(uint64_t position, uint64_t& size, uint8_t flags) {
    // The host would cut it and repeat the pointer as it is.
    if (urgent_end_ > position) size = std::min<uint64_t>(size, segment_size_);
    uint64_t end = position + size;
    auto wanted = static_cast<size_t>(std::min(end, write_end_) - std::min(position, write_end_));
    size_t data = gatherable_locked(position, wanted);
    if (data < wanted) {
        end = position + data;
        size = data;
    }
    if (end > write_end_) flags |= kFin;
    if (end >= write_end_) flags |= kPsh;
    if (!send_segment_locked(position, data, flags | kAck)) {
        retry_at_ = stack_->now() + kRetryDevice;
        return false;
    }
    bytes_out_ += data;
    if (position < send_max_) {
        uint64_t again = std::min(end, send_max_) - position;
        retransmitted_ += again;
        total_retransmissions_ += (again + segment_size_ - 1) / segment_size_;
        stack_->counters().tcp_retransmitted.fetch_add(1, std::memory_order_relaxed);
        timed_position_ = 0;  // Karn: which of the two an ACK means is not known
    } else if (timed_position_ == 0) {
        timed_position_ = end;
        timed_at_ = stack_->now();
    }
    if (end > send_next_) send_next_ = end;
    if (send_next_ > send_max_) send_max_ = send_next_;
    return true;
}

// New data, as the peer's and the congestion window allow. False: the device is full.
bool Connection::send_new_data_locked() {
    window_limited_ = false;
    while (send_next_ < sendable_end()) {
        uint64_t edge = send_una_ + window_;
        uint64_t pipe = pipe_locked();
        uint64_t unsent = sendable_end() - send_next_;
        uint64_t by_window = edge > send_next_ ? edge - send_next_ : 0;
        uint64_t by_congestion = congestion_.window() > pipe ? congestion_.window() - pipe : 0;
        uint64_t size = std::min({unsent, by_window, by_congestion, uint64_t{kMostSegmented}});
        if (by_congestion < unsent && by_congestion <= by_window) window_limited_ = true;
        bool only_fin = send_next_ == write_end_;
        if (only_fin) {
            size = 1;  // a FIN goes through a closed window
        } else if (size < unsent || size < segment_size_) {
            if (size >= segment_size_) {
                size -= size % segment_size_;
            } else if (size < unsent) {
                // A piece that is cut by a window: only if it is half of the largest window ever (RFC 9293 3.8.6.2.1).
                if (by_window <= by_congestion && size > 0 && size >= most_window_ / 2 && flight() == 0) {
                } else {
                    break;
                }
            } else if (!fin_queued_) {
                // The last, short piece: Nagle, cork.
                if (urgent_end_ > send_una_) {
                    // Goes at once.
                } else if ((tuning.cork || more_coming_) && write_end_ - send_next_ < segment_size_) {
                    if (retry_at_ == 0) retry_at_ = stack_->now() + kCorkPatience;
                    if (retry_at_ > stack_->now()) break;
                    retry_at_ = 0;
                } else if (!tuning.no_delay && flight() > 0) {
                    break;
                }
            }
        } else if (size > segment_size_ && !fin_queued_ && !tuning.no_delay) {
            // Full segments; what is left over waits like any short piece.
            uint64_t rest = size % segment_size_;
            if (rest != 0 && flight() > 0) size -= rest;
        }
        if (size == 0) break;
        if (!transmit_locked(send_next_, size, 0)) return false;
        // An answer soon after a question: ACKs ride on answers from now on.
        if (received_at_ != 0 && stack_->now() - received_at_ < 40'000'000) quick_acks_ = 0;
    }
    return true;
}

void Connection::output_locked() {
    TcpState now_state = state();
    if (now_state == TcpState::kClosed || now_state == TcpState::kSynSent || now_state == TcpState::kSynReceived)
        return;
    bool room = true;
    if (phase_ != Phase::kOpen) {
        uint64_t begin, end;
        while (room && next_lost_locked(begin, end)) {
            uint64_t pipe = pipe_locked();
            bool first = begin == send_una_ && high_retransmitted_ <= send_una_;
            if (!first && pipe + segment_size_ > congestion_.window()) break;
            uint64_t size = std::min<uint64_t>(end - begin, kMostSegmented);
            uint64_t allowed = congestion_.window() > pipe ? congestion_.window() - pipe : 0;
            size = std::min(size, std::max<uint64_t>(allowed, segment_size_));
            if (size > segment_size_) size -= size % segment_size_;
            room = transmit_locked(begin, size, 0);
            if (!room) break;
            high_retransmitted_ = begin + size;
            if (first) {
                head_marker_ = send_next_;
                arm_retransmission_locked(true);
            }
        }
    }
    if (room) room = send_new_data_locked();
    arm_retransmission_locked(false);
}

void Connection::send_ack_locked() {
    TcpState now_state = state();
    if (now_state == TcpState::kClosed || now_state == TcpState::kSynSent) return;
    if (!send_segment_locked(send_next_, 0, kAck)) {
        ack_at_ = stack_->now() + kRetryDevice;
    }
}

void Connection::send_syn_locked() {
    bool answer = state() == TcpState::kSynReceived;
    // Asked for once: what is on the way may throw such a SYN away.
    ecn_asked_ = !answer && retries_ == 0 && stack_->sockets().ecn() == 1;
    uint8_t flags = answer ? kSyn | kAck : ecn_asked_ ? kSyn | kEce | kCwr : kSyn;
    static_cast<void>(send_segment_locked(0, 0, flags));
    if (send_next_ == 0) send_next_ = send_max_ = 1;
}

void Connection::send_reset_locked() {
    stack_->counters().tcp_resets_out.fetch_add(1, std::memory_order_relaxed);
    static_cast<void>(send_segment_locked(send_next_, 0, kRst | kAck));
}

}  // namespace casemate::sentry::stack
