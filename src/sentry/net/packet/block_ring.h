// BlockRing: TPACKET_V3, which libpcap asks for first: blocks with as many frames as fit. A block is shown when the
// next frame does not fit, or some time after its first one came. Where it is, and what it holds, is kept here; the
// block's own header is only written.
#pragma once

#include "sentry/net/packet/packet_ring.h"

namespace casemate::sentry {

class BlockRing final : public PacketRing {
  public:
    BlockRing(Ref<SharedMemory> memory, const tpacket_req3& request, unsigned reserve);
    Put put(const Frame& frame, bool raw) override;
    bool readable() override;
    Nanoseconds patience() const override;
    bool show_kept(bool lost_some) override;
    uint32_t take_freezes() override { return std::exchange(freezes_, 0); }

    static constexpr uint64_t kAlignment = 8;
    static constexpr uint64_t rounded(uint64_t size) { return (size + kAlignment - 1) & ~(kAlignment - 1); }
    static constexpr uint64_t block_header(uint64_t of_application) {
        return rounded(sizeof(tpacket_block_desc)) + rounded(of_application);
    }

  private:
    std::byte* block(unsigned index);
    bool is_ours(unsigned index);
    void begin();
    void show(uint32_t status);

    unsigned active_ = 0;
    bool open_ = false;    // frames go into the active block
    bool frozen_ = false;  // it was the application's when it was needed
    uint64_t next_ = 0;    // in it, where the next frame begins
    uint64_t last_ = 0;    // where the last one does
    uint32_t frames_ = 0;
    Nanoseconds first_at_ = 0, last_at_ = 0;
    uint64_t sequence_ = 1;
    uint32_t freezes_ = 0;
};

}  // namespace casemate::sentry
