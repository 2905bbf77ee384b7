// virtio-net (virtio 1.2, section 5.1) over a tap, with its header for checksums and segments (IFF_VNET_HDR).
//
// Bounds: one frame from the tap is held until the guest has room for it, and nothing more is read meanwhile; a frame
// of the guest's waits in its queue while the tap is full. Both directions have rate limits and turns. The guest's
// header is copied, checked against what was negotiated, and handed on from the copy.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/device.h"
#include "virtio/fd_watch.h"
#include "virtio/rate_limit.h"

namespace casemate::virtio {

// Opens the tap of that name (made by others, or new if the caller may make one): non-blocking, with headers of 12
// bytes. Fails with a sentence that names it.
Result<UniqueFd> open_tap(const std::string& name);

class NetDevice final : public Device {
  public:
    struct Options {
        UniqueFd tap;  // of open_tap(), or what behaves like one: a frame with its header per read and write
        std::array<uint8_t, 6> mac{};
        uint16_t mtu = 0;  // 0: not told
        Rate receive_frames, receive_bytes, transmit_frames, transmit_bytes;
    };
    NetDevice(DeviceLoop& loop, Options options);
    ~NetDevice() override;

    DeviceType type() const override { return DeviceType::kNet; }
    const char* name() const override { return "net"; }
    uint64_t features() const override;
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }
    void read_config(uint32_t offset, std::span<uint8_t> into) override;

  protected:
    void on_activate() override;
    void on_notify(uint16_t queue) override;
    void on_reset() override;
    void on_quiesce() override;

  private:
    static constexpr uint16_t kSizes[] = {256, 256};
    static constexpr uint16_t kReceive = 0, kTransmit = 1;
    static constexpr int kFramesPerTurn = 128;
    static constexpr size_t kHeaderBytes = 12;
    static constexpr size_t kMaxFrame = 65535 + 18;  // Ethernet header and a VLAN tag

    void set_offloads();
    // These two work on a queue; then show_work(): one interrupt for both.
    void receive();
    enum class Delivered { kYes, kNoRoom, kDropped };
    Delivered deliver();
    void transmit();
    void show_work();
    bool allowed(const void* header) const;
    void watch();

    const Options options_;
    FdWatch watch_;
    RateLimiter receive_limit_, transmit_limit_;
    std::vector<char> frame_;  // from the tap, header first
    size_t frame_bytes_ = 0;   // of the one that waits for room; 0: none
    bool offloads_wanted_ = false;
    bool wait_for_input_ = false, wait_for_room_ = false;
    Chain chain_;
    std::vector<Chain> chains_;
    std::vector<iovec> parts_;
};

}  // namespace casemate::virtio
