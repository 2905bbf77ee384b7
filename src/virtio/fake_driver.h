// The guest's side of a virtio device, for tests and fuzz targets: memory, a driver that negotiates through the
// registers, and queues whose rings the test may also spoil.
//
//   FakeMachine machine;
//   RngDevice device(machine.loop());
//   FakeDriver driver(machine, device);
//   ASSERT_TRUE(driver.start());
//   uint64_t buffer = machine.allocate(64);
//   driver.queue(0).add({{buffer, 64, true}});
//   driver.kick(0);
//   auto used = driver.queue(0).take_used();
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>

#include <unistd.h>
#include <cstring>

#include <optional>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/unique_map.h"
#include "linux/event_fds.h"
#include "virtio/mmio.h"

namespace casemate::virtio {

// RAM at two places with a hole between; the second region adjoins a third, so that buffers can cross.
class FakeMachine {
  public:
    static constexpr uint64_t kHigh = 0x1'0000'0000;
    static constexpr uint64_t kLowBytes = 8 << 20, kHighBytes = 1 << 20;

    FakeMachine() {
        file_ = MUST(linux::create_memfd("guest-memory"));
        constexpr size_t kSize = kLowBytes + 2 * kHighBytes + 4096;
        CHECK(::ftruncate(file_.get(), kSize) == 0);
        map_ = MUST(UniqueMap::create(kSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_.get()));
        loop_ = MUST(DeviceLoop::create());
        // The two high regions adjoin in the guest and do not on the host.
        memory_ =
            MUST(GuestMemory::create({{0, kLowBytes, map_.data()},
                                      {kHigh, kHighBytes, map_.data() + kLowBytes},
                                      {kHigh + kHighBytes, kHighBytes, map_.data() + kLowBytes + kHighBytes + 4096}}));
    }

    DeviceLoop& loop() { return *loop_; }
    // The file behind the memory, which begins with its low part.
    int file() const { return file_.get(); }
    const std::shared_ptr<const GuestMemory>& memory() { return memory_; }
    // Host address of low RAM.
    char* at(uint64_t gpa) { return map_.data() + gpa; }
    uint64_t allocate(uint64_t size, uint64_t alignment = 16) {
        next_ = (next_ + alignment - 1) & ~(alignment - 1);
        uint64_t gpa = next_;
        next_ += size;
        CHECK(next_ <= kLowBytes);
        return gpa;
    }
    uint64_t put(const void* bytes, size_t size) {
        uint64_t gpa = allocate(size);
        std::memcpy(at(gpa), bytes, size);
        return gpa;
    }
    template <typename T>
    uint64_t put(const T& value) {
        return put(&value, sizeof(value));
    }
    std::string text(uint64_t gpa, size_t size) { return std::string(at(gpa), size); }
    // Everything allocated is free again.
    void forget_allocations() { next_ = 0x1000; }
    // Runs the loop until nothing is ready any more.
    void turn(int times = 4) {
        for (int i = 0; i < times; ++i) loop_->turn(std::chrono::milliseconds(0));
    }
    // Runs the loop until `done`, at most ten seconds.
    template <typename F>
    bool turn_until(F&& done) {
        auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (!done()) {
            if (std::chrono::steady_clock::now() > end) return false;
            loop_->turn(std::chrono::milliseconds(10));
        }
        return true;
    }

  private:
    UniqueFd file_;
    UniqueMap map_;
    std::unique_ptr<DeviceLoop> loop_;
    std::shared_ptr<const GuestMemory> memory_;
    uint64_t next_ = 0x1000;
};

class FakeQueue {
  public:
    struct Part {
        uint64_t gpa;
        uint32_t length;
        bool device_writes = false;
    };
    struct Used {
        uint16_t head;
        uint32_t written;
    };

    FakeQueue() = default;
    FakeQueue(FakeMachine& machine, uint16_t size) : machine_(&machine), size_(size) {
        config.size = size;
        config.descriptors.value = machine.allocate(size_t{16} * size, 16);
        config.available.value = machine.allocate(6 + size_t{2} * size, 2);
        config.used.value = machine.allocate(6 + size_t{8} * size, 4);
    }

    uint16_t size() const { return size_; }
    vring_desc& descriptor(uint16_t i) {
        return reinterpret_cast<vring_desc*>(machine_->at(config.descriptors.value))[i];
    }
    uint16_t& available_index() { return *available(1); }
    uint16_t& available_flags() { return *available(0); }
    uint16_t& available_ring(uint16_t i) { return *available(2u + i % size_); }
    uint16_t& used_event() { return *available(2u + size_); }
    uint16_t used_flags() { return *reinterpret_cast<uint16_t*>(machine_->at(config.used.value)); }
    uint16_t used_index() { return *reinterpret_cast<uint16_t*>(machine_->at(config.used.value + 2)); }
    uint16_t available_event() {
        return *reinterpret_cast<uint16_t*>(machine_->at(config.used.value + 4 + size_t{8} * size_));
    }

    // Offers a chain; its head. Descriptors are taken round and round: at most `size` parts in flight.
    uint16_t add(const std::vector<Part>& parts) {
        uint16_t head = next_descriptor_;
        for (size_t i = 0; i < parts.size(); ++i) {
            vring_desc& d = descriptor(next_descriptor_);
            next_descriptor_ = static_cast<uint16_t>((next_descriptor_ + 1) % size_);
            d.addr = parts[i].gpa;
            d.len = parts[i].length;
            d.flags = static_cast<uint16_t>((parts[i].device_writes ? VRING_DESC_F_WRITE : 0) |
                                            (i + 1 < parts.size() ? VRING_DESC_F_NEXT : 0));
            d.next = next_descriptor_;
        }
        offer(head);
        return head;
    }
    // The same by a table in memory.
    uint16_t add_indirect(const std::vector<Part>& parts) {
        uint64_t table = machine_->allocate(16 * parts.size(), 16);
        for (size_t i = 0; i < parts.size(); ++i) {
            vring_desc d{};
            d.addr = parts[i].gpa;
            d.len = parts[i].length;
            d.flags = static_cast<uint16_t>((parts[i].device_writes ? VRING_DESC_F_WRITE : 0) |
                                            (i + 1 < parts.size() ? VRING_DESC_F_NEXT : 0));
            d.next = static_cast<uint16_t>(i + 1);
            std::memcpy(machine_->at(table + 16 * i), &d, sizeof(d));
        }
        uint16_t head = next_descriptor_;
        next_descriptor_ = static_cast<uint16_t>((next_descriptor_ + 1) % size_);
        vring_desc& d = descriptor(head);
        d.addr = table;
        d.len = static_cast<uint32_t>(16 * parts.size());
        d.flags = VRING_DESC_F_INDIRECT;
        offer(head);
        return head;
    }
    void offer(uint16_t head) {
        available_ring(available_index()) = head;
        __atomic_store_n(&available_index(), static_cast<uint16_t>(available_index() + 1), __ATOMIC_RELEASE);
    }
    std::optional<Used> take_used() {
        if (used_index() == seen_) return std::nullopt;
        uint64_t at = config.used.value + 4 + size_t{8} * (seen_++ % size_);
        uint32_t element[2];
        std::memcpy(element, machine_->at(at), 8);
        return Used{static_cast<uint16_t>(element[0]), element[1]};
    }
    // The rings were cleared.
    void forget() { next_descriptor_ = seen_ = 0; }
    bool has_used() { return used_index() != seen_; }

    QueueConfig config;  // what the driver will write into the registers

  private:
    uint16_t* available(size_t i) { return reinterpret_cast<uint16_t*>(machine_->at(config.available.value)) + i; }

    FakeMachine* machine_ = nullptr;
    uint16_t size_ = 0;
    uint16_t next_descriptor_ = 0;
    uint16_t seen_ = 0;
};

class FakeDriver final : public InterruptLine {
  public:
    // The sizes of the queues are the device's own, or `queue_size` if smaller.
    FakeDriver(FakeMachine& machine, Device& device, uint16_t queue_size = 256) : machine_(machine) {
        transport_ = MUST(MmioTransport::create(device, machine.loop(), *this, machine.memory()));
        for (uint16_t size : device.queue_sizes()) queues_.emplace_back(machine, std::min(size, queue_size));
    }

    uint32_t read(uint32_t offset) {
        uint32_t value = 0;
        transport_->read(offset, {reinterpret_cast<uint8_t*>(&value), 4});
        return value;
    }
    void write(uint32_t offset, uint32_t value) {
        transport_->write(offset, {reinterpret_cast<const uint8_t*>(&value), 4});
    }
    uint64_t device_features() {
        write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        uint64_t high = read(VIRTIO_MMIO_DEVICE_FEATURES);
        write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        return high << 32 | read(VIRTIO_MMIO_DEVICE_FEATURES);
    }
    void write_features(uint64_t features) {
        write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features));
        write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<uint32_t>(features >> 32));
    }
    void write_queue(uint16_t index) {
        const QueueConfig& config = queues_[index].config;
        write(VIRTIO_MMIO_QUEUE_SEL, index);
        write(VIRTIO_MMIO_QUEUE_NUM, config.size);
        write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<uint32_t>(config.descriptors.value));
        write(VIRTIO_MMIO_QUEUE_DESC_HIGH, static_cast<uint32_t>(config.descriptors.value >> 32));
        write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<uint32_t>(config.available.value));
        write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, static_cast<uint32_t>(config.available.value >> 32));
        write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<uint32_t>(config.used.value));
        write(VIRTIO_MMIO_QUEUE_USED_HIGH, static_cast<uint32_t>(config.used.value >> 32));
        write(VIRTIO_MMIO_QUEUE_READY, 1);
    }
    void add_status(uint32_t bits) { write(VIRTIO_MMIO_STATUS, read(VIRTIO_MMIO_STATUS) | bits); }
    // Up to the point where queues are written.
    bool negotiate(uint64_t features) {
        write(VIRTIO_MMIO_STATUS, 0);
        add_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
        add_status(VIRTIO_CONFIG_S_DRIVER);
        write_features(features);
        add_status(VIRTIO_CONFIG_S_FEATURES_OK);
        return (read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
    }
    // All the way; false if the device does not work afterwards.
    bool start(uint64_t without = kFeatureEventIndex) {
        if (!negotiate(device_features() & ~without)) return false;
        for (uint16_t i = 0; i < queues_.size(); ++i) write_queue(i);
        add_status(VIRTIO_CONFIG_S_DRIVER_OK);
        return !broken();
    }
    bool broken() { return (read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }
    FakeQueue& queue(uint16_t index) { return queues_[index]; }
    // Rings and lets the device work.
    void kick(uint16_t index) {
        write(VIRTIO_MMIO_QUEUE_NOTIFY, index);
        machine_.turn();
    }
    template <typename T>
    T config(uint32_t offset) {
        T value{};
        transport_->read(VIRTIO_MMIO_CONFIG + offset, {reinterpret_cast<uint8_t*>(&value), sizeof(value)});
        return value;
    }
    MmioTransport& transport() { return *transport_; }
    void raise() override { ++interrupts; }

    std::atomic<int> interrupts{0};

  private:
    FakeMachine& machine_;
    std::unique_ptr<MmioTransport> transport_;
    std::vector<FakeQueue> queues_;
};

}  // namespace casemate::virtio
