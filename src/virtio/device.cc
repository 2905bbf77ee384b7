#include "virtio/device.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace casemate::virtio {

void Device::read_config(uint32_t, std::span<uint8_t> into) { std::fill(into.begin(), into.end(), uint8_t{0}); }

void Device::write_config(uint32_t, std::span<const uint8_t>) {}

void Device::copy_config(const void* config, size_t size, uint32_t offset, std::span<uint8_t> into) {
    std::fill(into.begin(), into.end(), uint8_t{0});
    if (offset >= size) return;
    std::memcpy(into.data(), static_cast<const char*>(config) + offset, std::min<size_t>(into.size(), size - offset));
}

Device::~Device() {
    for (DeviceLoop::Id id : again_) loop_.cancel(id);
}

void Device::notify_again(uint16_t index, std::chrono::nanoseconds delay) {
    if (again_[index] != 0) return;
    again_[index] = loop_.after(mutex_, delay, [this, index] {
        again_[index] = 0;
        notify(index);
    });
}

void Device::activate(Activation activation) {
    CHECK(!active_ && activation.queues.size() == queue_sizes().size());
    memory_ = std::move(activation.memory);
    queues_ = std::move(activation.queues);
    again_.assign(queues_.size(), 0);
    features_ = activation.features;
    interrupt_ = activation.interrupt;
    active_ = true;
    failed_ = false;
    on_activate();
}

void Device::notify(uint16_t queue) {
    if (working() && queue < queues_.size()) on_notify(queue);
}

void Device::reset() {
    if (!active_) return;
    for (DeviceLoop::Id& id : again_) loop_.cancel(std::exchange(id, 0));
    on_reset();
    active_ = failed_ = false;
    queues_.clear();
    memory_.reset();
    interrupt_ = nullptr;
    features_ = 0;
}

void Device::quiesce() {
    if (active_) on_quiesce();
}

void Device::resume() {
    if (working()) on_resume();
}

void Device::on_resume() {
    for (uint16_t i = 0; i < queues_.size() && working(); ++i) on_notify(i);
}

bool Device::pop(uint16_t index, Chain& chain) {
    auto popped = queues_[index].pop(chain);
    if (popped.ok()) return *popped;
    fail(queues_[index].broken());
    return false;
}

void Device::publish(uint16_t index) {
    if (queues_[index].publish()) interrupt_->signal_queue(index);
}

void Device::publish(std::initializer_list<uint16_t> queues) {
    std::array<uint16_t, 4> wanted;
    CHECK(queues.size() <= wanted.size());
    size_t count = 0;
    for (uint16_t index : queues)
        if (queues_[index].publish()) wanted[count++] = index;
    if (count > 0) interrupt_->signal_queues({wanted.data(), count});
}

void Device::fail(const char* why) {
    if (failed_ || !active_) return;
    failed_ = true;
    interrupt_->needs_reset(why);
}

void Device::config_changed() {
    ++config_generation_;
    if (working()) interrupt_->signal_config();
}

}  // namespace casemate::virtio
