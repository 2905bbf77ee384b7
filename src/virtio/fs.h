// virtio-fs (virtio 1.2, section 5.11): FUSE requests from a queue to a FuseHandler and back.
//
// The device knows the headers only. Their lengths are the guest's word and must agree with the buffers; a reply never
// exceeds the room that the guest gave. A request keeps its slot (by head) and its chain until it is answered.
#pragma once

#include <string>
#include <vector>

#include "virtio/device.h"
#include "virtio/fuse_handler.h"

namespace casemate::virtio {

class FsDevice final : public Device {
  public:
    static constexpr size_t kTagBytes = 36;

    // `tag`: what the guest mounts it by, 1 to 36 bytes. The handler is borrowed and outlives the device.
    static Result<std::unique_ptr<FsDevice>> create(DeviceLoop& loop, const std::string& tag, FuseHandler& handler);
    static Result<std::unique_ptr<FsDevice>> create(DeviceLoop& loop, const std::string& tag,
                                                    std::unique_ptr<FuseHandler> handler);
    ~FsDevice() override;

    DeviceType type() const override { return DeviceType::kFs; }
    const char* name() const override { return "fs"; }
    uint64_t features() const override { return 0; }
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }
    void read_config(uint32_t offset, std::span<uint8_t> into) override;
    void save(StateWriter& writer) const override;
    SysResult<void> restore(StateReader& reader) override;

  protected:
    void on_activate() override;
    void on_notify(uint16_t queue) override;
    void on_reset() override;
    void on_quiesce() override;

  private:
    static constexpr uint16_t kHighPriority = 0, kRequests = 1;
    static constexpr uint16_t kQueueSize = 1024;  // a request of 1 MiB takes 256 descriptors and a few
    static constexpr uint16_t kSizes[] = {128, kQueueSize};
    static constexpr int kRequestsPerTurn = 64;

    struct Slot {
        Chain chain;
        uint64_t unique = 0;
        bool busy = false;
        bool used = false;  // since the last reset
    };

    FsDevice(DeviceLoop& loop, const std::string& tag, FuseHandler& handler);
    // False if the handler takes no more: the chain is put back.
    void handle(uint16_t index);
    // A reply without a body, or nothing if there is no room for one.
    uint32_t write_reply(ChainBuffer& out, uint64_t unique, int error, uint32_t body);
    void done(uint16_t slot, int error, uint32_t bytes);

    const std::string tag_;
    std::unique_ptr<FuseHandler> owned_;
    FuseHandler& handler_;
    std::vector<Slot> slots_;  // of kRequests, by head
    Chain chain_;
    bool batching_ = false;  // within on_notify(), which publishes
};

}  // namespace casemate::virtio
