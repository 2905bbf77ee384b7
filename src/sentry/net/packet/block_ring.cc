#include "sentry/net/packet/block_ring.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace casemate::sentry {
namespace {

constexpr Nanoseconds kMillisecond = kSecond / 1000;
constexpr Nanoseconds kUsualPatience = 8 * kMillisecond;
constexpr size_t kStatusAt = offsetof(tpacket_block_desc, hdr.bh1.block_status);

tpacket_bd_ts time_of(Nanoseconds when) {
    tpacket_bd_ts time{};
    time.ts_sec = static_cast<unsigned>(when / kSecond);
    time.ts_nsec = static_cast<unsigned>(when % kSecond);
    return time;
}

}  // namespace

BlockRing::BlockRing(Ref<SharedMemory> memory, const tpacket_req3& request, unsigned reserve)
    : PacketRing(std::move(memory), request, TPACKET_V3, reserve) {
    begin();
}

std::byte* BlockRing::block(unsigned index) {
    return memory_->bytes(uint64_t{index} * request_.tp_block_size, request_.tp_block_size);
}

bool BlockRing::is_ours(unsigned index) {
    return status_word<uint32_t>(block(index) + kStatusAt).load(std::memory_order_acquire) == TP_STATUS_KERNEL;
}

bool BlockRing::readable() { return !is_ours(active_ == 0 ? request_.tp_block_nr - 1 : active_ - 1); }

Nanoseconds BlockRing::patience() const {
    return request_.tp_retire_blk_tov == 0 ? kUsualPatience : request_.tp_retire_blk_tov * kMillisecond;
}

void BlockRing::begin() {
    open_ = true;
    frozen_ = false;
    last_ = next_ = block_header(request_.tp_sizeof_priv);
    frames_ = 0;
    first_at_ = last_at_ = realtime_now();
}

// The active block becomes the application's, and the next one active.
void BlockRing::show(uint32_t status) {
    std::byte* at = block(active_);
    constexpr uint32_t kNone = 0;
    memcpy(at + last_ + offsetof(tpacket3_hdr, tp_next_offset), &kNone, sizeof(kNone));
    tpacket_block_desc header{};
    header.version = TPACKET_V3;
    header.offset_to_priv = static_cast<uint32_t>(rounded(sizeof(header)));
    header.hdr.bh1.num_pkts = frames_;
    header.hdr.bh1.offset_to_first_pkt = static_cast<uint32_t>(block_header(request_.tp_sizeof_priv));
    header.hdr.bh1.blk_len = static_cast<uint32_t>(next_);
    header.hdr.bh1.seq_num = sequence_++;
    header.hdr.bh1.ts_first_pkt = time_of(first_at_);
    header.hdr.bh1.ts_last_pkt = time_of(last_at_);
    // The status, still "kernel" in this copy, is stored after all else.
    memcpy(at, &header, sizeof(header));
    status_word<uint32_t>(at + kStatusAt).store(TP_STATUS_USER | status, std::memory_order_release);
    active_ = (active_ + 1) % request_.tp_block_nr;
    open_ = false;
    if (is_ours(active_)) begin();
}

bool BlockRing::show_kept(bool lost_some) {
    if (!open_ || frames_ == 0) return false;
    show(TP_STATUS_BLK_TMO | (lost_some ? uint32_t{TP_STATUS_LOSING} : 0));
    return true;
}

PacketRing::Put BlockRing::put(const Frame& frame, bool raw) {
    auto [link, network] = offsets(frame, raw);
    uint64_t most = request_.tp_block_size - block_header(request_.tp_sizeof_priv);
    // A frame that no block has room for is cut.
    size_t kept = link < most ? std::min<size_t>(frame.bytes.size(), most - link) : 0;
    if (link > most) return Put::kFull;
    uint64_t size = rounded(link + kept);
    bool shown = false;
    // As Linux, which shows an empty block before a frame that takes a whole one.
    if (open_ && next_ + size >= request_.tp_block_size) {
        show(frame.status & TP_STATUS_LOSING);
        shown = true;
    }
    if (!open_) {
        if (!is_ours(active_)) {
            if (!std::exchange(frozen_, true)) freezes_++;
            return Put::kFull;
        }
        begin();
    }
    std::byte* at = block(active_) + next_;
    tpacket3_hdr header{};
    header.tp_next_offset = static_cast<uint32_t>(size);
    header.tp_sec = static_cast<uint32_t>(frame.when / kSecond);
    header.tp_nsec = static_cast<uint32_t>(frame.when % kSecond);
    header.tp_snaplen = static_cast<uint32_t>(kept);
    header.tp_len = frame.length;
    header.tp_status = TP_STATUS_USER | frame.status;
    header.tp_mac = static_cast<uint16_t>(link);
    header.tp_net = static_cast<uint16_t>(network);
    memcpy(at, &header, sizeof(header));
    memcpy(at + align(sizeof(header)), &frame.from, sizeof(frame.from));
    memcpy(at + link, frame.bytes.data(), kept);
    frames_++;
    last_at_ = frame.when;
    last_ = next_;
    next_ += size;
    return shown ? Put::kShown : Put::kKept;
}

}  // namespace casemate::sentry
