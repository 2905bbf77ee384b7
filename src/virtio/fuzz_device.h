// What the fuzz targets of the devices share: a guest that does what the input says. Most inputs begin with a driver
// that negotiated in order, so that they get to the device; then chains, bytes in any place of the rings and buffers,
// register writes, resets, saved states, in any order.
#pragma once

#include <functional>
#include <map>

#include "virtio/fake_driver.h"

namespace casemate::virtio {

class FuzzInput {
  public:
    FuzzInput(const uint8_t* data, size_t size) : data_(data), left_(size) {}
    bool empty() const { return left_ == 0; }
    template <typename T>
    T take() {
        T value{};
        size_t n = std::min(sizeof(T), left_);
        std::memcpy(&value, data_, n);
        data_ += n;
        left_ -= n;
        return value;
    }
    std::string_view bytes(size_t n) {
        n = std::min(n, left_);
        std::string_view view(reinterpret_cast<const char*>(data_), n);
        data_ += n;
        left_ -= n;
        return view;
    }

  private:
    const uint8_t* data_;
    size_t left_;
};

// Buffers of the fuzzed guest lie in this part of low RAM, behind the rings.
constexpr uint64_t kFuzzBuffers = 0x8000, kFuzzBytes = 0x8000;

inline void fuzz_chain(FakeMachine& machine, FakeQueue& queue, FuzzInput& input) {
    std::vector<FakeQueue::Part> parts;
    unsigned shape = input.take<uint8_t>();
    // Readable bytes from the input, in one or two parts.
    std::string_view bytes = input.bytes(input.take<uint8_t>());
    uint64_t at = kFuzzBuffers + (shape & 7) * 512;
    std::memcpy(machine.at(at), bytes.data(), bytes.size());
    uint32_t first = (shape & 8) != 0 ? static_cast<uint32_t>(bytes.size() / 2) : static_cast<uint32_t>(bytes.size());
    if (!bytes.empty()) parts.push_back({at, first});
    if (first < bytes.size()) parts.push_back({at + first, static_cast<uint32_t>(bytes.size()) - first});
    if ((shape & 16) != 0) parts.push_back({kFuzzBuffers + 0x2000, input.take<uint16_t>() & 0x3fffu});
    if ((shape & 32) != 0) parts.push_back({kFuzzBuffers + 0x4000, input.take<uint16_t>() & 0x3fffu, true});
    if ((shape & 64) != 0) parts.push_back({kFuzzBuffers + 0x7000, input.take<uint8_t>(), true});
    if (parts.empty()) parts.push_back({at, 0, true});
    if ((shape & 128) != 0) {
        // By an indirect table.
        for (size_t i = 0; i < parts.size(); ++i) {
            vring_desc d{parts[i].gpa, parts[i].length,
                         static_cast<uint16_t>((parts[i].device_writes ? VRING_DESC_F_WRITE : 0) |
                                               (i + 1 < parts.size() ? VRING_DESC_F_NEXT : 0)),
                         static_cast<uint16_t>(i + 1)};
            std::memcpy(machine.at(kFuzzBuffers + 0x7800 + 16 * i), &d, sizeof(d));
        }
        uint16_t head = static_cast<uint16_t>(queue.available_index() % queue.size());
        queue.descriptor(head) = {kFuzzBuffers + 0x7800, static_cast<uint32_t>(16 * parts.size()),
                                  VRING_DESC_F_INDIRECT, 0};
        queue.offer(head);
    } else {
        queue.add(parts);
    }
}

// Runs the input against a device; `between` after each step, for what the other side (a socket, a file) does.
inline void fuzz_device(FakeMachine& machine, Device& device, const uint8_t* data, size_t size,
                        const std::function<void(FuzzInput&)>& between = {}) {
    // One driver for all inputs: making eventfds and watches costs more than the rest.
    static auto* made = new std::map<Device*, std::unique_ptr<FakeDriver>>;
    std::unique_ptr<FakeDriver>& slot = (*made)[&device];
    if (slot == nullptr) slot = std::make_unique<FakeDriver>(machine, device, 16);
    FakeDriver& driver = *slot;
    uint64_t rings = machine.allocate(0);
    CHECK(rings <= kFuzzBuffers);
    driver.write(VIRTIO_MMIO_STATUS, 0);
    std::memset(machine.at(0), 0, rings);
    for (uint16_t i = 0; i < device.queue_sizes().size(); ++i) driver.queue(i).forget();
    FuzzInput input(data, size);
    unsigned start = input.take<uint8_t>();
    if ((start & 1) == 0) driver.start((start & 2) != 0 ? kFeatureEventIndex : 0);
    uint16_t queues = static_cast<uint16_t>(device.queue_sizes().size());
    for (int steps = 0; !input.empty() && steps < 64; ++steps) {
        unsigned op = input.take<uint8_t>();
        uint16_t index = static_cast<uint16_t>((op >> 4) % queues);
        switch (op & 15) {
            case 0:
            case 1:
            case 2:
            case 3:
            case 4:
                fuzz_chain(machine, driver.queue(index), input);
                driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, index);
                break;
            case 5:
                driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, index);
                machine.turn(1);
                break;
            case 6: {  // bytes anywhere in rings and buffers
                uint64_t at = input.take<uint16_t>();
                std::string_view bytes = input.bytes(input.take<uint8_t>());
                std::memcpy(machine.at(at), bytes.data(), bytes.size());
                break;
            }
            case 7: {
                uint32_t offset = input.take<uint8_t>() * 4u;
                driver.write(offset, input.take<uint32_t>());
                break;
            }
            case 8: {
                uint8_t bytes[16];
                uint64_t offset = input.take<uint16_t>();
                driver.transport().read(offset, std::span(bytes).first(op >> 4));
                driver.transport().write(offset, std::span(bytes).first(op >> 4));
                break;
            }
            case 9:
                driver.start();
                break;
            case 10: {
                driver.queue(index).descriptor(input.take<uint8_t>() & 15) = input.take<vring_desc>();
                driver.queue(index).offer(input.take<uint8_t>());
                break;
            }
            case 11: {
                std::lock_guard lock(device.mutex());
                device.quiesce();
                StateWriter writer;
                driver.transport().save(writer);
                break;
            }
            case 12: {
                StateReader reader(input.bytes(input.take<uint8_t>()));
                std::lock_guard lock(device.mutex());
                (void)device.restore(reader);
                break;
            }
            case 13:
                driver.transport().resume();
                break;
            default:
                if (between) between(input);
                machine.turn(1);
        }
    }
    machine.turn(2);
}

}  // namespace casemate::virtio
