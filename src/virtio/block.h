// virtio-blk (virtio 1.2, section 5.2) over a raw regular file or a block device.
//
// The content is the guest's: its format is never looked at, let alone guessed. Every request is checked against the
// capacity before the file is touched; one operation per head is in flight, in a slot of its own that keeps the chain
// (and with it guest memory) until the host is done. Errors of the host, a full disk among them, are the request's
// status IOERR.
#pragma once

#include <string>

#include "base/unique_fd.h"
#include "virtio/block_io.h"
#include "virtio/device.h"
#include "virtio/fd_watch.h"
#include "virtio/rate_limit.h"

namespace casemate::virtio {

class BlockDevice final : public Device {
  public:
    struct Options {
        bool read_only = false;
        std::string serial;  // what GET_ID answers, up to 20 bytes
        bool use_uring = true;
        Rate operations;  // requests a second, both directions together
        Rate bytes;
    };
    // Of an open file: a regular file or a block device, of at least one sector. Fails with a sentence that names
    // `path`, which is for messages only.
    static Result<std::unique_ptr<BlockDevice>> create(DeviceLoop& loop, UniqueFd file, const std::string& path,
                                                       Options options);
    ~BlockDevice() override;

    uint64_t capacity_bytes() const { return capacity_; }
    const char* io_name() const { return io_->name(); }

    DeviceType type() const override { return DeviceType::kBlock; }
    const char* name() const override { return "block"; }
    uint64_t features() const override;
    std::span<const uint16_t> queue_sizes() const override { return kSizes; }
    void read_config(uint32_t offset, std::span<uint8_t> into) override;

  protected:
    void on_notify(uint16_t queue) override;
    void on_reset() override;
    void on_quiesce() override;

  private:
    static constexpr uint16_t kQueueSize = 256;
    static constexpr uint16_t kSizes[] = {kQueueSize};
    static constexpr int kRequestsPerTurn = 128;

    struct Slot {
        Chain chain;
        ChainBuffer status;
        BlockOperation operation;
        uint64_t left = 0;     // bytes still to come
        uint32_t written = 0;  // into guest memory, without the status
        bool busy = false;
        bool used = false;  // since the last reset
    };

    BlockDevice(DeviceLoop& loop, UniqueFd file, uint64_t capacity, Options options);
    void begin(Slot& slot);
    void begin_range(Slot& slot, uint64_t type);
    // Whether [sector, sector + length) lies on the disk; its offset.
    SysResult<uint64_t> check_range(uint64_t sector, uint64_t length) const;
    void done(uint16_t number, int64_t result);
    void finish(Slot& slot, uint8_t status);
    void get_id(Slot& slot);

    UniqueFd file_;
    const uint64_t capacity_;
    const Options options_;
    RateLimiter limiter_;
    std::vector<Slot> slots_;  // by head
    Chain chain_;
    std::unique_ptr<BlockIo> io_;
    FdWatch io_watch_;
};

}  // namespace casemate::virtio
