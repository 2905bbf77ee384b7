#include "sentry/net/packet/packet_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/checked.h"
#include "sentry/kernel/clock.h"

namespace casemate::sentry {
namespace {

constexpr size_t align(size_t size) { return (size + TPACKET_ALIGNMENT - 1) & ~size_t{TPACKET_ALIGNMENT - 1}; }
constexpr size_t kPage = 4096;

size_t with_address(int version) {
    return align(version == TPACKET_V1 ? sizeof(tpacket_hdr) : sizeof(tpacket2_hdr)) + sizeof(sockaddr_ll);
}

}  // namespace

SysResult<unsigned> PacketRing::header_size(int version) {
    switch (version) {
        case TPACKET_V1:
            return static_cast<unsigned>(sizeof(tpacket_hdr));
        case TPACKET_V2:
            return static_cast<unsigned>(sizeof(tpacket2_hdr));
        default:
            return Errno(EINVAL);
    }
}

SysResult<std::unique_ptr<PacketRing>> PacketRing::create(MemoryFile& memory, const tpacket_req& wanted, int version,
                                                          unsigned reserve) {
    size_t least = with_address(version) + reserve;
    if (static_cast<int>(wanted.tp_block_size) <= 0 || wanted.tp_block_size % kPage != 0) return Errno(EINVAL);
    if (wanted.tp_frame_size < least || wanted.tp_frame_size % TPACKET_ALIGNMENT != 0) return Errno(EINVAL);
    unsigned per_block = wanted.tp_block_size / wanted.tp_frame_size;
    if (per_block == 0 || uint64_t{per_block} * wanted.tp_block_nr != wanted.tp_frame_nr) return Errno(EINVAL);
    uint64_t size = uint64_t{wanted.tp_block_size} * wanted.tp_block_nr;
    if (size > kMost) return Errno(ENOMEM);
    auto shared = TRY(SharedMemory::create(memory, size));
    return std::unique_ptr<PacketRing>(new PacketRing(std::move(shared), wanted, version, reserve));
}

std::byte* PacketRing::slot(unsigned index) {
    unsigned per_block = request_.tp_block_size / request_.tp_frame_size;
    uint64_t offset =
        uint64_t{index / per_block} * request_.tp_block_size + uint64_t{index % per_block} * request_.tp_frame_size;
    return memory_->bytes(offset, request_.tp_frame_size);
}

// The first word of both versions: a long, or 32 bits.
uint64_t PacketRing::status_of(unsigned index) {
    // SAFETY: slots are aligned to 16 bytes.
    std::byte* at = slot(index);
    if (version_ == TPACKET_V1) return std::atomic_ref(*reinterpret_cast<unsigned long*>(at)).load();
    return std::atomic_ref(*reinterpret_cast<uint32_t*>(at)).load();
}

bool PacketRing::readable() {
    unsigned last = next_ == 0 ? request_.tp_frame_nr - 1 : next_ - 1;
    return status_of(last) != TP_STATUS_KERNEL;
}

bool PacketRing::put(const Frame& frame, bool raw) {
    if (status_of(next_) != TP_STATUS_KERNEL) return false;
    size_t head = with_address(version_), network, link;
    if (raw) {
        network = align(head + std::max<size_t>(frame.network_at, 16)) + reserve_;
        link = network - frame.network_at;
    } else {
        link = network = align(head) + 16 + reserve_;
    }
    size_t room = request_.tp_frame_size > link ? request_.tp_frame_size - link : 0;
    size_t kept = std::min(frame.bytes.size(), room);
    std::byte* at = slot(next_);
    memcpy(at + link, frame.bytes.data(), kept);
    auto seconds = static_cast<uint32_t>(frame.when / kSecond), part = static_cast<uint32_t>(frame.when % kSecond);
    uint32_t status = TP_STATUS_USER | frame.status;
    memcpy(at + align(version_ == TPACKET_V1 ? sizeof(tpacket_hdr) : sizeof(tpacket2_hdr)), &frame.from,
           sizeof(frame.from));
    // The status comes last: with it the slot is the application's.
    // SAFETY: slots are aligned to 16 bytes.
    if (version_ == TPACKET_V1) {
        tpacket_hdr header{};
        header.tp_len = frame.length;
        header.tp_snaplen = static_cast<unsigned>(kept);
        header.tp_mac = static_cast<unsigned short>(link);
        header.tp_net = static_cast<unsigned short>(network);
        header.tp_sec = seconds;
        header.tp_usec = part / 1000;
        memcpy(at + sizeof(header.tp_status), reinterpret_cast<std::byte*>(&header) + sizeof(header.tp_status),
               sizeof(header) - sizeof(header.tp_status));
        std::atomic_ref(*reinterpret_cast<unsigned long*>(at)).store(status, std::memory_order_release);
    } else {
        tpacket2_hdr header{};
        header.tp_len = frame.length;
        header.tp_snaplen = static_cast<uint32_t>(kept);
        header.tp_mac = static_cast<uint16_t>(link);
        header.tp_net = static_cast<uint16_t>(network);
        header.tp_sec = seconds;
        header.tp_nsec = part;
        memcpy(at + sizeof(header.tp_status), reinterpret_cast<std::byte*>(&header) + sizeof(header.tp_status),
               sizeof(header) - sizeof(header.tp_status));
        std::atomic_ref(*reinterpret_cast<uint32_t*>(at)).store(status, std::memory_order_release);
    }
    next_ = (next_ + 1) % request_.tp_frame_nr;
    return true;
}

}  // namespace casemate::sentry
