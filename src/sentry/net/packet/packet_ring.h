// PacketRing: a packet socket's receive ring (PACKET_RX_RING): frames that the kernel fills and the application
// empties, without a call for each. The memory is mapped by both. TPACKET_V1 and V2 have slots of one size
// (slot_ring.h), V3 has blocks with as many frames as fit (block_ring.h).
//
// The application may write anything there at any time: all that is ever read back is a status word, once.
#pragma once

#include <linux/if_packet.h>

#include <atomic>
#include <span>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/clock.h"
#include "sentry/mm/shared_memory.h"

namespace casemate::sentry {

class PacketRing {
  public:
    static constexpr uint64_t kMost = 64 << 20;  // bytes

    // What versions below V3 do not have of `wanted` is 0. EINVAL for what Linux refuses, ENOMEM.
    static SysResult<std::unique_ptr<PacketRing>> create(MemoryFile& memory, const tpacket_req3& wanted, int version,
                                                         unsigned reserve);
    static SysResult<unsigned> header_size(int version);  // PACKET_HDRLEN; EINVAL: no such version
    virtual ~PacketRing() = default;

    struct Frame {
        std::span<const uint8_t> bytes;  // as far as they are to be kept
        uint32_t length = 0;             // of the whole
        uint32_t network_at = 0;         // where the network header lies; 0 for SOCK_DGRAM
        uint32_t status = 0;
        Nanoseconds when = 0;  // CLOCK_REALTIME
        sockaddr_ll from{};
    };
    // kKept: the application cannot see it yet. kFull: the place for it is still the application's.
    enum class Put { kShown, kKept, kFull };
    virtual Put put(const Frame& frame, bool raw) = 0;
    virtual bool readable() = 0;
    // How long a frame may be kept; 0: none ever is.
    virtual Nanoseconds patience() const { return 0; }
    // That long has gone by since the first was kept: shows what is there. False: nothing.
    virtual bool show_kept(bool lost_some) {
        static_cast<void>(lost_some);
        return false;
    }
    // How often there was no place (PACKET_STATISTICS of V3), since this was last asked for.
    virtual uint32_t take_freezes() { return 0; }

    const Ref<SharedMemory>& memory() const { return memory_; }
    uint64_t size() const { return uint64_t{request_.tp_block_size} * request_.tp_block_nr; }

  protected:
    PacketRing(Ref<SharedMemory> memory, const tpacket_req3& request, int version, unsigned reserve)
        : memory_(std::move(memory)), request_(request), version_(version), reserve_(reserve) {}

    static constexpr size_t align(size_t size) {
        return (size + TPACKET_ALIGNMENT - 1) & ~size_t{TPACKET_ALIGNMENT - 1};
    }
    static size_t header_with_address(int version);
    // Where in its place a frame's link and network headers come to lie.
    struct Offsets {
        size_t link, network;
    };
    Offsets offsets(const Frame& frame, bool raw) const;
    // SAFETY: status words lie at multiples of 8 from the beginning of a page.
    template <typename Word>
    static std::atomic_ref<Word> status_word(std::byte* at) {
        return std::atomic_ref(*reinterpret_cast<Word*>(at));
    }

    const Ref<SharedMemory> memory_;
    const tpacket_req3 request_;
    const int version_;
    const unsigned reserve_;
};

}  // namespace casemate::sentry
