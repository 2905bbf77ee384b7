#include "sentry/net/packet/slot_ring.h"

#include <algorithm>
#include <cstring>

namespace casemate::sentry {

std::byte* SlotRing::slot(unsigned index) {
    unsigned per_block = request_.tp_block_size / request_.tp_frame_size;
    uint64_t offset =
        uint64_t{index / per_block} * request_.tp_block_size + uint64_t{index % per_block} * request_.tp_frame_size;
    return memory_->bytes(offset, request_.tp_frame_size);
}

// The first word of both versions: a long, or 32 bits.
uint64_t SlotRing::status_of(unsigned index) {
    std::byte* at = slot(index);
    return version_ == TPACKET_V1 ? status_word<unsigned long>(at).load() : status_word<uint32_t>(at).load();
}

bool SlotRing::readable() {
    unsigned last = next_ == 0 ? request_.tp_frame_nr - 1 : next_ - 1;
    return status_of(last) != TP_STATUS_KERNEL;
}

PacketRing::Put SlotRing::put(const Frame& frame, bool raw) {
    if (status_of(next_) != TP_STATUS_KERNEL) return Put::kFull;
    auto [link, network] = offsets(frame, raw);
    size_t room = request_.tp_frame_size > link ? request_.tp_frame_size - link : 0;
    size_t kept = std::min(frame.bytes.size(), room);
    std::byte* at = slot(next_);
    memcpy(at + link, frame.bytes.data(), kept);
    auto seconds = static_cast<uint32_t>(frame.when / kSecond), part = static_cast<uint32_t>(frame.when % kSecond);
    uint32_t status = TP_STATUS_USER | frame.status;
    memcpy(at + align(MUST(header_size(version_))), &frame.from, sizeof(frame.from));
    // The status comes last: with it the slot is the application's.
    if (version_ == TPACKET_V1) {
        tpacket_hdr header{};
        header.tp_len = frame.length;
        header.tp_snaplen = static_cast<unsigned>(kept);
        header.tp_mac = static_cast<unsigned short>(link);
        header.tp_net = static_cast<unsigned short>(network);
        header.tp_sec = seconds;
        header.tp_usec = part / 1000;
        // SAFETY: bytes of the header behind its status.
        memcpy(at + sizeof(header.tp_status), reinterpret_cast<std::byte*>(&header) + sizeof(header.tp_status),
               sizeof(header) - sizeof(header.tp_status));
        status_word<unsigned long>(at).store(status, std::memory_order_release);
    } else {
        tpacket2_hdr header{};
        header.tp_len = frame.length;
        header.tp_snaplen = static_cast<uint32_t>(kept);
        header.tp_mac = static_cast<uint16_t>(link);
        header.tp_net = static_cast<uint16_t>(network);
        header.tp_sec = seconds;
        header.tp_nsec = part;
        // SAFETY: as above.
        memcpy(at + sizeof(header.tp_status), reinterpret_cast<std::byte*>(&header) + sizeof(header.tp_status),
               sizeof(header) - sizeof(header.tp_status));
        status_word<uint32_t>(at).store(status, std::memory_order_release);
    }
    next_ = (next_ + 1) % request_.tp_frame_nr;
    return Put::kShown;
}

}  // namespace casemate::sentry
