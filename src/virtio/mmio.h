// virtio over registers in memory, version 2 (virtio 1.2, section 4.2): one device's register file.
//
// The guest writes and reads what it likes, at any offset and length and from several vCPUs at once. Rules enforced
// here: status bits are only added, or all cleared by 0; features are taken between DRIVER and FEATURES_OK; queues are
// set up between FEATURES_OK and DRIVER_OK and are frozen while ready; queue_sel beyond the device's queues selects a
// queue of size 0. Accesses that break a rule are ignored and read as 0. None aborts.
//
// vCPU threads call read() and write(). Frequent registers (interrupt status, notify) take no lock; the others take the
// device's. Notifications come through an eventfd per queue, which the monitor may register with KVM (KVM_IOEVENTFD at
// kQueueNotify with the queue's number as datamatch), so that most of them cause no exit to the monitor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "virtio/device.h"

namespace casemate::virtio {

// The interrupt wire of one device: an edge for each raise(). Thread-safe; with KVM a write to its irqfd.
class InterruptLine {
  public:
    virtual ~InterruptLine() = default;
    virtual void raise() = 0;
};

class MmioTransport final : public Interrupt {
  public:
    static constexpr uint64_t kRegisterBytes = 0x1000;  // address space of one device
    static constexpr uint32_t kQueueNotify = 0x50;
    // A write to this one may come as late as the next read of any register: who forwards it need not stop the vCPU for
    // it. What is acknowledged is what the last read showed, so that a late one takes no newer interrupt away.
    static constexpr uint32_t kInterruptAck = 0x64;

    // Borrows all three; the loop must not run callbacks any more when this is destroyed, or this is destroyed on it.
    static SysResult<std::unique_ptr<MmioTransport>> create(Device& device, DeviceLoop& loop, InterruptLine& line,
                                                            std::shared_ptr<const GuestMemory> memory);
    ~MmioTransport() override;

    // Any thread, any offset, any length.
    void read(uint64_t offset, std::span<uint8_t> into);
    void write(uint64_t offset, std::span<const uint8_t> from);

    size_t queue_count() const { return queues_.size(); }
    // The eventfd that stands for a write of `queue` to kQueueNotify. Owned by this.
    int doorbell(uint16_t queue) const { return doorbells_[queue].get(); }

    Device& device() { return device_; }
    uint32_t status() const { return status_.load(); }

    // Registers, positions in the rings and the device's own state. vCPUs stopped, loop paused, device quiesced.
    void save(StateWriter& writer) const;
    // Into a fresh transport: activates the device if it was active. EBADMSG, EINVAL, EFAULT for a state that cannot
    // be. Then, when all devices are there and before vCPUs run: resume().
    SysResult<void> restore(StateReader& reader);
    // After a restore or a pause: replays an interrupt that may have been lost and looks at all queues.
    void resume();

    // Interrupt:
    void signal_queue(uint16_t queue) override;
    void signal_queues(std::span<const uint16_t> queues) override;
    void signal_config() override;
    void needs_reset(const char* why) override;

  private:
    struct QueueRegisters {
        QueueConfig config;
        bool ready = false;
    };

    static constexpr uint32_t kInterrupts = 3;  // the bits of the interrupt status
    static constexpr unsigned kShown = 8;       // in interrupt_status_: those that the driver has read, shifted by that

    MmioTransport(Device& device, DeviceLoop& loop, InterruptLine& line, std::shared_ptr<const GuestMemory> memory);
    void interrupt(uint32_t bits);
    uint32_t show_interrupts();
    void acknowledge(uint32_t bits);
    uint32_t read_register_locked(uint32_t offset);
    void write_register_locked(uint32_t offset, uint32_t value);
    void write_status_locked(uint32_t value);
    void write_queue_register_locked(uint32_t offset, uint32_t value);
    // Null unless queue_sel names a queue.
    QueueRegisters* selected_locked();
    uint64_t offered_features() const { return device_.features() | kTransportFeatures; }
    SysResult<void> activate_locked(const std::vector<QueuePosition>* positions);
    void reset_locked();

    Device& device_;
    DeviceLoop& loop_;
    InterruptLine& line_;
    const std::shared_ptr<const GuestMemory> memory_;
    std::vector<UniqueFd> doorbells_;
    std::vector<DeviceLoop::Id> watches_;
    std::atomic<uint32_t> status_{0};            // changed under the lock, but for NEEDS_RESET
    std::atomic<uint32_t> interrupt_status_{0};  // no lock
    // Under the device's lock, guest-controlled:
    uint32_t device_features_select_ = 0;
    uint32_t driver_features_select_ = 0;
    uint64_t driver_features_ = 0;
    uint32_t queue_select_ = 0;
    std::vector<QueueRegisters> queues_;
};

}  // namespace casemate::virtio
