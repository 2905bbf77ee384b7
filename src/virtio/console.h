// virtio-console (virtio 1.2, section 5.3) with one port: a byte stream each way between the guest and two descriptors
// of the host's.
//
// Nothing piles up: input is read only into buffers that the guest offers, output is written only as fast as the host's
// descriptor takes it; until then the guest's request waits. What the host cannot be given any more (it closed its end)
// is dropped, as a serial line without a listener would.
#pragma once

#include "virtio/device.h"
#include "virtio/fd_watch.h"

namespace casemate::virtio {

class ConsoleDevice final : public Device {
  public:
    // Borrowed descriptors; -1 for none. Best non-blocking; of a blocking one only what poll(2) promises is asked.
    ConsoleDevice(DeviceLoop& loop, int input, int output);
    ~ConsoleDevice() override;

    // The size of the terminal, in characters. Any thread.
    void resize(uint16_t columns, uint16_t rows);

    DeviceType type() const override { return DeviceType::kConsole; }
    const char* name() const override { return "console"; }
    uint64_t features() const override { return feature_bit(0); }  // VIRTIO_CONSOLE_F_SIZE
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
    static constexpr uint16_t kSizes[] = {64, 64};
    static constexpr uint16_t kReceive = 0, kTransmit = 1;
    static constexpr size_t kBytesPerWrite = 4096;  // PIPE_BUF: what POLLOUT promises
    static constexpr int kWritesPerTurn = 16;

    void receive();
    void transmit();
    void let_go();

    const int input_;
    const int output_;
    FdWatch input_watch_;
    FdWatch output_watch_;
    bool input_ended_ = false;
    uint16_t columns_ = 80, rows_ = 25;
    // The output request that the host has not taken in whole yet.
    Chain current_;
    bool has_current_ = false;
    uint32_t consumed_ = 0;  // of it; kept when it is put back for a snapshot
    uint32_t skip_ = 0;      // of the next one: it was partly written before
    Chain chain_;
    std::vector<iovec> parts_;
};

}  // namespace casemate::virtio
