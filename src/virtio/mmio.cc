#include "virtio/mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "linux/event_fds.h"

namespace casemate::virtio {

namespace {

constexpr uint32_t kMagic = 0x74726976;   // "virt"
constexpr uint32_t kVendor = 0x4d534143;  // "CASM"
constexpr uint32_t kDriverStatus = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |
                                   VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED;

void set_low(GuestAddr& address, uint32_t value) { address.value = (address.value & ~uint64_t{0xffffffff}) | value; }
void set_high(GuestAddr& address, uint32_t value) {
    address.value = (address.value & 0xffffffff) | uint64_t{value} << 32;
}

}  // namespace

MmioTransport::MmioTransport(Device& device, DeviceLoop& loop, InterruptLine& line,
                             std::shared_ptr<const GuestMemory> memory)
    : device_(device), loop_(loop), line_(line), memory_(std::move(memory)), queues_(device.queue_sizes().size()) {}

SysResult<std::unique_ptr<MmioTransport>> MmioTransport::create(Device& device, DeviceLoop& loop, InterruptLine& line,
                                                                std::shared_ptr<const GuestMemory> memory) {
    std::unique_ptr<MmioTransport> made(new MmioTransport(device, loop, line, std::move(memory)));
    for (uint16_t i = 0; i < made->queues_.size(); ++i) {
        UniqueFd bell = TRY(linux::create_eventfd());
        int fd = bell.get();
        made->doorbells_.push_back(std::move(bell));
        // Each ring is an edge of its own, so the counter need not be read.
        made->watches_.push_back(
            TRY(loop.watch(device.mutex(), fd, EPOLLIN | EPOLLET, [&device, i](uint32_t) { device.notify(i); })));
    }
    return made;
}

MmioTransport::~MmioTransport() {
    std::lock_guard lock(device_.mutex());
    for (DeviceLoop::Id id : watches_) loop_.remove(id);
    device_.reset();  // it must not keep the Interrupt
}

void MmioTransport::signal_queue(uint16_t) { interrupt(VIRTIO_MMIO_INT_VRING); }

void MmioTransport::signal_queues(std::span<const uint16_t>) { interrupt(VIRTIO_MMIO_INT_VRING); }

void MmioTransport::signal_config() { interrupt(VIRTIO_MMIO_INT_CONFIG); }

void MmioTransport::interrupt(uint32_t bits) {
    uint32_t old = interrupt_status_;
    while (!interrupt_status_.compare_exchange_weak(old, (old | bits) & ~(bits << kShown))) {
    }
    line_.raise();
}

uint32_t MmioTransport::show_interrupts() {
    uint32_t old = interrupt_status_;
    while (!interrupt_status_.compare_exchange_weak(old, old | (old & kInterrupts) << kShown)) {
    }
    return old & kInterrupts;
}

void MmioTransport::acknowledge(uint32_t bits) {
    uint32_t old = interrupt_status_, taken;
    do {
        taken = bits & old >> kShown & kInterrupts;
    } while (!interrupt_status_.compare_exchange_weak(old, old & ~(taken | taken << kShown)));
}

void MmioTransport::needs_reset(const char* why) {
    log::debug("virtio {}: the driver broke the rules: {}", device_.name(), why == nullptr ? "?" : why);
    status_ |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if ((status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0) signal_config();
}

void MmioTransport::read(uint64_t offset, std::span<uint8_t> into) {
    std::fill(into.begin(), into.end(), uint8_t{0});
    if (offset >= kRegisterBytes || into.empty()) return;
    uint32_t at = static_cast<uint32_t>(offset);
    if (at >= VIRTIO_MMIO_CONFIG) {
        std::lock_guard lock(device_.mutex());
        device_.read_config(at - VIRTIO_MMIO_CONFIG, into);
        return;
    }
    // Registers have 4 bytes and are read whole (4.2.2.2).
    if (into.size() != 4 || at % 4 != 0) return;
    uint32_t value;
    if (at == VIRTIO_MMIO_INTERRUPT_STATUS) {
        value = show_interrupts();
    } else if (at == VIRTIO_MMIO_STATUS) {
        value = status_;
    } else {
        std::lock_guard lock(device_.mutex());
        value = read_register_locked(at);
    }
    std::memcpy(into.data(), &value, 4);
}

void MmioTransport::write(uint64_t offset, std::span<const uint8_t> from) {
    if (offset >= kRegisterBytes || from.empty()) return;
    uint32_t at = static_cast<uint32_t>(offset);
    if (at >= VIRTIO_MMIO_CONFIG) {
        std::lock_guard lock(device_.mutex());
        if ((status_ & VIRTIO_CONFIG_S_DRIVER) != 0) device_.write_config(at - VIRTIO_MMIO_CONFIG, from);
        return;
    }
    if (from.size() != 4 || at % 4 != 0) return;
    uint32_t value;
    std::memcpy(&value, from.data(), 4);
    if (at == VIRTIO_MMIO_QUEUE_NOTIFY) {
        if (value < doorbells_.size()) linux::signal_eventfd(doorbells_[value].get());
    } else if (at == VIRTIO_MMIO_INTERRUPT_ACK) {
        acknowledge(value);
    } else {
        std::lock_guard lock(device_.mutex());
        write_register_locked(at, value);
    }
}

MmioTransport::QueueRegisters* MmioTransport::selected_locked() {
    return queue_select_ < queues_.size() ? &queues_[queue_select_] : nullptr;
}

uint32_t MmioTransport::read_register_locked(uint32_t offset) {
    QueueRegisters* queue = selected_locked();
    switch (offset) {
        case VIRTIO_MMIO_MAGIC_VALUE:
            return kMagic;
        case VIRTIO_MMIO_VERSION:
            return 2;
        case VIRTIO_MMIO_DEVICE_ID:
            return static_cast<uint32_t>(device_.type());
        case VIRTIO_MMIO_VENDOR_ID:
            return kVendor;
        case VIRTIO_MMIO_DEVICE_FEATURES:
            return device_features_select_ < 2
                       ? static_cast<uint32_t>(offered_features() >> (32 * device_features_select_))
                       : 0;
        case VIRTIO_MMIO_QUEUE_NUM_MAX:
            return queue != nullptr ? device_.queue_sizes()[queue_select_] : 0;
        case VIRTIO_MMIO_QUEUE_READY:
            return queue != nullptr && queue->ready ? 1 : 0;
        case VIRTIO_MMIO_CONFIG_GENERATION:
            return device_.config_generation();
        case VIRTIO_MMIO_SHM_LEN_LOW:  // no shared memory region: a length of -1 (4.2.2)
        case VIRTIO_MMIO_SHM_LEN_HIGH:
        case VIRTIO_MMIO_SHM_BASE_LOW:
        case VIRTIO_MMIO_SHM_BASE_HIGH:
            return 0xffffffff;
        default:
            return 0;
    }
}

void MmioTransport::write_register_locked(uint32_t offset, uint32_t value) {
    switch (offset) {
        case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
            device_features_select_ = value;
            return;
        case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
            driver_features_select_ = value;
            return;
        case VIRTIO_MMIO_DRIVER_FEATURES: {
            bool now = (status_ & VIRTIO_CONFIG_S_DRIVER) != 0 && (status_ & VIRTIO_CONFIG_S_FEATURES_OK) == 0;
            if (!now || driver_features_select_ > 1) return;
            unsigned shift = 32 * driver_features_select_;
            driver_features_ &= ~(uint64_t{0xffffffff} << shift);
            driver_features_ |= uint64_t{value} << shift;
            return;
        }
        case VIRTIO_MMIO_QUEUE_SEL:
            queue_select_ = value;
            return;
        case VIRTIO_MMIO_STATUS:
            write_status_locked(value);
            return;
        default:
            write_queue_register_locked(offset, value);
    }
}

void MmioTransport::write_queue_register_locked(uint32_t offset, uint32_t value) {
    QueueRegisters* queue = selected_locked();
    bool now = (status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && (status_ & VIRTIO_CONFIG_S_DRIVER_OK) == 0;
    if (queue == nullptr || !now) return;
    if (offset == VIRTIO_MMIO_QUEUE_READY) {
        queue->ready = (value & 1) != 0;
        return;
    }
    if (queue->ready) return;
    switch (offset) {
        case VIRTIO_MMIO_QUEUE_NUM:
            // What does not fit 16 bits is no size at all; activation refuses it.
            queue->config.size = value <= kMaxQueueSize ? static_cast<uint16_t>(value) : 0;
            return;
        case VIRTIO_MMIO_QUEUE_DESC_LOW:
            set_low(queue->config.descriptors, value);
            return;
        case VIRTIO_MMIO_QUEUE_DESC_HIGH:
            set_high(queue->config.descriptors, value);
            return;
        case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
            set_low(queue->config.available, value);
            return;
        case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
            set_high(queue->config.available, value);
            return;
        case VIRTIO_MMIO_QUEUE_USED_LOW:
            set_low(queue->config.used, value);
            return;
        case VIRTIO_MMIO_QUEUE_USED_HIGH:
            set_high(queue->config.used, value);
            return;
        default:
            return;
    }
}

void MmioTransport::reset_locked() {
    device_.reset();
    device_features_select_ = driver_features_select_ = queue_select_ = 0;
    driver_features_ = 0;
    for (QueueRegisters& queue : queues_) queue = QueueRegisters();
    interrupt_status_ = 0;
    status_ = 0;
}

void MmioTransport::write_status_locked(uint32_t value) {
    if (value == 0) {
        reset_locked();
        return;
    }
    uint32_t old = status_;
    uint32_t now = old | (value & kDriverStatus);
    uint32_t added = now & ~old;
    if ((value & old & kDriverStatus) != (old & kDriverStatus)) return;  // takes a bit back without a reset
    // In order: ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK (3.1.1).
    auto needs = [&](uint32_t bit, uint32_t before) { return (added & bit) == 0 || (now & before) == before; };
    if (!needs(VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE) ||
        !needs(VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER) ||
        !needs(VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK))
        return;
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
        bool subset = (driver_features_ & ~offered_features()) == 0;
        if (!subset || (driver_features_ & kFeatureVersion1) == 0) {
            // The driver reads that the bit did not stay.
            now &= ~(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
            added &= ~(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        }
    }
    status_ |= added;
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (now & VIRTIO_CONFIG_S_FAILED) == 0)
        if (!activate_locked(nullptr).ok()) needs_reset("a queue's size or address cannot be");
    if ((added & VIRTIO_CONFIG_S_FAILED) != 0) {
        log::info("virtio {}: the guest's driver gave up", device_.name());
        device_.reset();
    }
}

SysResult<void> MmioTransport::activate_locked(const std::vector<QueuePosition>* positions) {
    Activation activation;
    activation.memory = memory_;
    activation.features = driver_features_;
    activation.interrupt = this;
    for (size_t i = 0; i < queues_.size(); ++i) {
        Queue queue;
        if (queues_[i].ready) {
            queue = TRY(Queue::create(memory_, queues_[i].config, device_.queue_sizes()[i],
                                      (driver_features_ & kFeatureEventIndex) != 0,
                                      (driver_features_ & kFeatureIndirect) != 0));
            if (positions != nullptr) queue.set_position((*positions)[i]);
        }
        activation.queues.push_back(std::move(queue));
    }
    device_.activate(std::move(activation));
    // The driver may have filled queues before DRIVER_OK and rung a bell that nobody heard.
    for (const UniqueFd& bell : doorbells_) linux::signal_eventfd(bell.get());
    return {};
}

void MmioTransport::save(StateWriter& writer) const {
    writer.number(static_cast<uint32_t>(device_.type()));
    writer.number(status_.load());
    writer.number(interrupt_status_.load() & kInterrupts);
    writer.number(device_features_select_);
    writer.number(driver_features_select_);
    writer.number(driver_features_);
    writer.number(queue_select_);
    writer.number(static_cast<uint32_t>(queues_.size()));
    for (size_t i = 0; i < queues_.size(); ++i) {
        const QueueRegisters& queue = queues_[i];
        QueuePosition position;
        if (device_.active()) position = device_.queue_position(static_cast<uint16_t>(i));
        writer.number(queue.config.size);
        writer.number(queue.config.descriptors.value);
        writer.number(queue.config.available.value);
        writer.number(queue.config.used.value);
        writer.number(static_cast<uint8_t>(queue.ready));
        writer.number(position.next_available);
        writer.number(position.next_used);
    }
    writer.number(static_cast<uint8_t>(device_.active()));
    device_.save(writer);
}

SysResult<void> MmioTransport::restore(StateReader& reader) {
    std::lock_guard lock(device_.mutex());
    if (TRY(reader.number<uint32_t>()) != static_cast<uint32_t>(device_.type())) return Errno(EBADMSG);
    uint32_t status = TRY(reader.number<uint32_t>());
    interrupt_status_ = TRY(reader.number<uint32_t>()) & kInterrupts;
    device_features_select_ = TRY(reader.number<uint32_t>());
    driver_features_select_ = TRY(reader.number<uint32_t>());
    driver_features_ = TRY(reader.number<uint64_t>());
    queue_select_ = TRY(reader.number<uint32_t>());
    if ((status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && (driver_features_ & ~offered_features()) != 0)
        return Errno(EINVAL);
    if (TRY(reader.number<uint32_t>()) != queues_.size()) return Errno(EBADMSG);
    std::vector<QueuePosition> positions(queues_.size());
    for (size_t i = 0; i < queues_.size(); ++i) {
        QueueRegisters& queue = queues_[i];
        queue.config.size = TRY(reader.number<uint16_t>());
        queue.config.descriptors.value = TRY(reader.number<uint64_t>());
        queue.config.available.value = TRY(reader.number<uint64_t>());
        queue.config.used.value = TRY(reader.number<uint64_t>());
        queue.ready = TRY(reader.number<uint8_t>()) != 0;
        positions[i].next_available = TRY(reader.number<uint16_t>());
        positions[i].next_used = TRY(reader.number<uint16_t>());
    }
    bool active = TRY(reader.number<uint8_t>()) != 0;
    status_ = status;
    if (active) TRY(activate_locked(&positions));
    TRY(device_.restore(reader));
    return {};
}

void MmioTransport::resume() {
    std::lock_guard lock(device_.mutex());
    if ((interrupt_status_ & kInterrupts) != 0) line_.raise();
    device_.resume();
}

}  // namespace casemate::virtio
