#include "sentry/net/packet/packet_ring.h"

#include <algorithm>

#include "base/checked.h"
#include "sentry/net/packet/block_ring.h"
#include "sentry/net/packet/slot_ring.h"

namespace casemate::sentry {

SysResult<unsigned> PacketRing::header_size(int version) {
    switch (version) {
        case TPACKET_V1:
            return static_cast<unsigned>(sizeof(tpacket_hdr));
        case TPACKET_V2:
            return static_cast<unsigned>(sizeof(tpacket2_hdr));
        case TPACKET_V3:
            return static_cast<unsigned>(sizeof(tpacket3_hdr));
        default:
            return Errno(EINVAL);
    }
}

size_t PacketRing::header_with_address(int version) { return align(MUST(header_size(version))) + sizeof(sockaddr_ll); }

PacketRing::Offsets PacketRing::offsets(const Frame& frame, bool raw) const {
    size_t head = header_with_address(version_);
    if (!raw) {
        size_t both = align(head) + 16 + reserve_;
        return {both, both};
    }
    size_t network = align(head + std::max<size_t>(frame.network_at, 16)) + reserve_;
    return {network - frame.network_at, network};
}

SysResult<std::unique_ptr<PacketRing>> PacketRing::create(MemoryFile& memory, const tpacket_req3& wanted, int version,
                                                          unsigned reserve) {
    uint64_t least = header_with_address(version) + uint64_t{reserve};
    if (static_cast<int>(wanted.tp_block_size) <= 0 || !page_aligned(wanted.tp_block_size)) return Errno(EINVAL);
    if (version == TPACKET_V3 && wanted.tp_block_size < BlockRing::block_header(wanted.tp_sizeof_priv) + least)
        return Errno(EINVAL);
    if (wanted.tp_frame_size < least || wanted.tp_frame_size % TPACKET_ALIGNMENT != 0) return Errno(EINVAL);
    unsigned per_block = wanted.tp_block_size / wanted.tp_frame_size;
    if (per_block == 0 || uint64_t{per_block} * wanted.tp_block_nr != wanted.tp_frame_nr) return Errno(EINVAL);
    uint64_t size = uint64_t{wanted.tp_block_size} * wanted.tp_block_nr;
    if (size > kMost) return Errno(ENOMEM);
    auto shared = TRY(SharedMemory::create(memory, size));
    if (version == TPACKET_V3)
        return std::unique_ptr<PacketRing>(std::make_unique<BlockRing>(std::move(shared), wanted, reserve));
    return std::unique_ptr<PacketRing>(std::make_unique<SlotRing>(std::move(shared), wanted, version, reserve));
}

}  // namespace casemate::sentry
