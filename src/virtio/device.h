// What every virtio device is, whatever the transport in front of it (registers in memory, vhost-user).
//
// One lock per device, mutex(). The transport holds it around every call below; the loop holds it around the device's
// callbacks. So a device is written as if there were one thread. vCPU threads come in through activate(), reset() and
// the configuration space only; queues are worked off on the loop's thread.
//
// The life of a device:  activate -> notify* -> reset -> activate ...
// For a snapshot:        (vCPUs stopped, loop paused) quiesce -> save;   elsewhere: activate -> restore -> resume
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/device_loop.h"
#include "virtio/guest_memory.h"
#include "virtio/queue.h"
#include "virtio/state.h"

namespace casemate::virtio {

// virtio 1.2, section 5.
enum class DeviceType : uint32_t { kNet = 1, kBlock = 2, kConsole = 3, kRng = 4, kVsock = 19, kFs = 26 };

constexpr uint64_t feature_bit(unsigned bit) { return uint64_t{1} << bit; }
constexpr uint64_t kFeatureIndirect = feature_bit(28);
constexpr uint64_t kFeatureEventIndex = feature_bit(29);
constexpr uint64_t kFeatureVersion1 = feature_bit(32);
constexpr uint64_t kTransportFeatures = kFeatureIndirect | kFeatureEventIndex | kFeatureVersion1;

// How a device reaches the driver. Thread-safe.
class Interrupt {
  public:
    virtual ~Interrupt() = default;
    virtual void signal_queue(uint16_t queue) = 0;
    // At once, where one interrupt says it for all of them.
    virtual void signal_queues(std::span<const uint16_t> queues) {
        for (uint16_t queue : queues) signal_queue(queue);
    }
    // The configuration space changed.
    virtual void signal_config() = 0;
    // The driver broke the rules: DEVICE_NEEDS_RESET. `why` is for the log.
    virtual void needs_reset(const char* why) = 0;
};

struct Activation {
    std::shared_ptr<const GuestMemory> memory;
    std::vector<Queue> queues;       // as many as queue_sizes(); those the driver left out are not ready()
    uint64_t features = 0;           // negotiated
    Interrupt* interrupt = nullptr;  // lives until the device is reset or destroyed
};

class Device {
  public:
    explicit Device(DeviceLoop& loop) : loop_(loop) {}
    virtual ~Device();
    Device(const Device&) = delete;

    // These four never change, and need no lock.
    virtual DeviceType type() const = 0;
    virtual const char* name() const = 0;
    // Without kTransportFeatures, which every device has.
    virtual uint64_t features() const = 0;
    // The largest size of each queue, powers of two.
    virtual std::span<const uint16_t> queue_sizes() const = 0;

    std::mutex& mutex() { return mutex_; }

    // Any offset and length: what lies outside reads as 0 and is not written.
    virtual void read_config(uint32_t offset, std::span<uint8_t> into);
    virtual void write_config(uint32_t offset, std::span<const uint8_t> from);
    // Rises whenever the configuration space changes.
    uint32_t config_generation() const { return config_generation_; }

    void activate(Activation activation);
    bool active() const { return active_; }
    // The driver rang. Never for a queue that the device does not have; nothing happens while not active.
    void notify(uint16_t queue);
    // Ends everything in flight; no queue is touched after it returns.
    void reset();
    // Ends or finishes everything in flight, so that no chain is held and the state can be saved.
    void quiesce();
    // Works on all queues: after a pause or a restore notifications may have been lost.
    void resume();

    QueuePosition queue_position(uint16_t queue) const { return queues_[queue].position(); }
    // What the device knows beyond its queues.
    virtual void save(StateWriter&) const {}
    virtual SysResult<void> restore(StateReader&) { return {}; }

  protected:
    // For the devices. All under the lock.
    virtual void on_activate() {}
    virtual void on_notify(uint16_t queue) = 0;
    virtual void on_reset() {}
    virtual void on_quiesce() {}
    virtual void on_resume();

    // Takes the next chain; false if there is none or the queue is broken, which asks for a reset.
    bool pop(uint16_t queue, Chain& chain);
    // Publishes what was pushed, with an interrupt if the driver wants one.
    void publish(uint16_t queue);
    void publish(std::initializer_list<uint16_t> queues);
    void fail(const char* why);
    // on_notify() once more on the loop's next turn, or after a while: so that a flood of requests is worked off in
    // turns with other devices.
    void notify_again(uint16_t queue, std::chrono::nanoseconds delay = std::chrono::nanoseconds(0));
    void config_changed();
    // Copies a configuration structure's part into a register read.
    static void copy_config(const void* config, size_t size, uint32_t offset, std::span<uint8_t> into);

    Queue& queue(uint16_t index) { return queues_[index]; }
    bool negotiated(uint64_t feature) const { return (features_ & feature) != 0; }
    // Active and not waiting for a reset.
    bool working() const { return active_ && !failed_; }
    const std::shared_ptr<const GuestMemory>& memory() const { return memory_; }

    DeviceLoop& loop_;

  private:
    std::mutex mutex_;
    std::vector<Queue> queues_;
    std::vector<DeviceLoop::Id> again_;  // by queue
    std::shared_ptr<const GuestMemory> memory_;
    uint64_t features_ = 0;
    Interrupt* interrupt_ = nullptr;
    uint32_t config_generation_ = 0;
    bool active_ = false;
    bool failed_ = false;
};

}  // namespace casemate::virtio
