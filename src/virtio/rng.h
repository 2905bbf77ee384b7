// virtio-rng (virtio 1.2, section 5.4): the host's random bytes. A request gets at most kMaxRequestBytes, whatever it
// asks for; a flood of requests is worked off in turns with the other devices.
#pragma once

#include "virtio/device.h"

namespace casemate::virtio {

class RngDevice final : public Device {
  public:
    static constexpr size_t kMaxRequestBytes = 64 << 10;

    explicit RngDevice(DeviceLoop& loop) : Device(loop) {}

    DeviceType type() const override { return DeviceType::kRng; }
    const char* name() const override { return "rng"; }
    uint64_t features() const override { return 0; }
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }

  protected:
    void on_notify(uint16_t queue) override;

  private:
    static constexpr uint16_t kSizes[] = {64};
    static constexpr int kRequestsPerTurn = 32;
    Chain chain_;
};

}  // namespace casemate::virtio
