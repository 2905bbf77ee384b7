// PacketRing: a packet socket's receive ring (PACKET_RX_RING) as TPACKET_V1 and V2 lay it out: frames that the kernel
// fills and the application empties, without a call for each. The memory is mapped by both.
//
// The application may write anything there at any time: all that is ever read back is a slot's status word, once.
#pragma once

#include <linux/if_packet.h>

#include <span>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/mm/shared_memory.h"

namespace casemate::sentry {

class PacketRing {
  public:
    static constexpr uint64_t kMost = 64 << 20;  // bytes

    // EINVAL for what Linux refuses, ENOMEM.
    static SysResult<std::unique_ptr<PacketRing>> create(MemoryFile& memory, const tpacket_req& wanted, int version,
                                                         unsigned reserve);
    static SysResult<unsigned> header_size(int version);  // PACKET_HDRLEN; EINVAL: no such version

    struct Frame {
        std::span<const uint8_t> bytes;  // as far as they are to be kept
        uint32_t length = 0;             // of the whole
        uint32_t network_at = 0;         // where the network header lies; 0 for SOCK_DGRAM
        uint32_t status = 0;
        int64_t when = 0;  // CLOCK_REALTIME, ns
        sockaddr_ll from{};
    };
    // False: the slot is still the application's.
    bool put(const Frame& frame, bool raw);
    bool readable();
    const Ref<SharedMemory>& memory() const { return memory_; }
    uint64_t size() const { return uint64_t{request_.tp_block_size} * request_.tp_block_nr; }

  private:
    PacketRing(Ref<SharedMemory> memory, const tpacket_req& request, int version, unsigned reserve)
        : memory_(std::move(memory)), request_(request), version_(version), reserve_(reserve) {}
    std::byte* slot(unsigned index);
    uint64_t status_of(unsigned index);

    const Ref<SharedMemory> memory_;
    const tpacket_req request_;
    const int version_;
    const unsigned reserve_;
    unsigned next_ = 0;
};

}  // namespace casemate::sentry
