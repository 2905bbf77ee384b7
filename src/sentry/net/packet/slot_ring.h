// SlotRing: TPACKET_V1 and V2: one frame in each slot.
#pragma once

#include "sentry/net/packet/packet_ring.h"

namespace casemate::sentry {

class SlotRing final : public PacketRing {
  public:
    SlotRing(Ref<SharedMemory> memory, const tpacket_req3& request, int version, unsigned reserve)
        : PacketRing(std::move(memory), request, version, reserve) {}
    Put put(const Frame& frame, bool raw) override;
    bool readable() override;

  private:
    std::byte* slot(unsigned index);
    uint64_t status_of(unsigned index);

    unsigned next_ = 0;
};

}  // namespace casemate::sentry
