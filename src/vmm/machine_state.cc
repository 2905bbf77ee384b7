// Everything of a machine but its memory, as bytes and back: vCPUs, interrupt controllers, clock, serial port, devices.
#include <fmt/core.h>
#include <sys/ioctl.h>
#include <time.h>

#include <array>

#include "vmm/machine.h"
#include "vmm/state_values.h"
#include "vmm/vcpu_state.h"

namespace casemate::vmm {

namespace {

uint64_t realtime_ns() {
    timespec now;
    ::clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

constexpr std::array<uint32_t, 3> kIrqchips = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC};

size_t xsave_size_of(int vm) {
    int size = ::ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    return size > 0 ? static_cast<size_t>(size) : kXsaveSize;
}

}  // namespace

Result<void> Machine::save(virtio::StateWriter& writer) {
    if (!paused_) return Error("a guest that runs cannot be saved: pause it", EBUSY);
    auto indexes = kvm_.msr_indexes();
    if (!indexes.ok()) return sys_error("KVM_GET_MSR_INDEX_LIST", indexes.error().value);
    size_t xsave_size = xsave_size_of(vm_.fd());
    kvm_clock_data clock = {};
    if (auto got = vm_.call(KVM_GET_CLOCK, &clock); !got.ok()) return sys_error("KVM_GET_CLOCK", got.error().value);
    writer.number(realtime_ns());
    writer.number(host_tsc());
    writer.number(static_cast<uint64_t>(clock.clock));
    for (auto& vcpu : vcpus_) TRY(save_vcpu(vcpu->kvm(), *indexes, xsave_size, writer));
    for (uint32_t id : kIrqchips) {
        kvm_irqchip chip = {};
        chip.chip_id = id;
        if (auto got = vm_.call(KVM_GET_IRQCHIP, &chip); !got.ok())
            return sys_error("KVM_GET_IRQCHIP", got.error().value);
        put(writer, chip);
    }
    writer.number(static_cast<uint8_t>(has_pit_));
    if (has_pit_) {
        kvm_pit_state2 pit = {};
        if (auto got = vm_.call(KVM_GET_PIT2, &pit); !got.ok()) return sys_error("KVM_GET_PIT2", got.error().value);
        put(writer, pit);
    }
    put(writer, serial_->state());
    writer.number(static_cast<uint32_t>(slots_.size()));
    for (Slot& slot : slots_) {
        virtio::Device& device = slot.transport->device();
        writer.number(static_cast<uint32_t>(device.type()));
        virtio::StateWriter own;
        std::lock_guard guard(device.mutex());
        device.quiesce();
        slot.transport->save(own);
        writer.text(own.take());
    }
    return {};
}

Result<void> Machine::restore(virtio::StateReader& reader, bool advance_clocks) {
    auto realtime = reader.number<uint64_t>();
    auto tsc = reader.number<uint64_t>();
    auto clock = reader.number<uint64_t>();
    if (!realtime.ok() || !tsc.ok() || !clock.ok()) return Error("the snapshot is not whole", EBADMSG);
    ClockShift shift;
    shift.host_tsc_then = *tsc;
    uint64_t now = realtime_ns();
    shift.host_tsc_now = host_tsc();
    if (advance_clocks && now > *realtime) shift.elapsed_ns = now - *realtime;
    size_t xsave_size = xsave_size_of(vm_.fd());
    for (auto& vcpu : vcpus_) TRY(restore_vcpu(vcpu->kvm(), xsave_size, shift, reader));
    for (uint32_t id : kIrqchips) {
        auto chip = TRY(take<kvm_irqchip>(reader));
        chip.chip_id = id;
        if (auto set = vm_.call(KVM_SET_IRQCHIP, &chip); !set.ok())
            return sys_error("KVM_SET_IRQCHIP", set.error().value);
    }
    auto pit = reader.number<uint8_t>();
    if (!pit.ok() || (*pit != 0) != has_pit_)
        return Error("the snapshot is of a host with another kind of timer", EBADMSG);
    if (has_pit_) {
        auto state = TRY(take<kvm_pit_state2>(reader));
        if (auto set = vm_.call(KVM_SET_PIT2, &state); !set.ok()) return sys_error("KVM_SET_PIT2", set.error().value);
    }
    serial_->restore(TRY(take<Serial::State>(reader)));
    auto count = reader.number<uint32_t>();
    if (!count.ok()) return Error("the snapshot is not whole", EBADMSG);
    if (*count != slots_.size())
        return Error(
            fmt::format("the snapshot has {} virtio devices; give the same ones, not {}", *count, slots_.size()),
            EINVAL);
    for (Slot& slot : slots_) {
        virtio::Device& device = slot.transport->device();
        auto type = reader.number<uint32_t>();
        auto bytes = reader.text();
        if (!type.ok() || !bytes.ok()) return Error("the snapshot is not whole", EBADMSG);
        if (*type != static_cast<uint32_t>(device.type()))
            return Error(fmt::format("the snapshot has another device where {} is given", device.name()), EINVAL);
        virtio::StateReader own(*bytes);
        if (auto restored = slot.transport->restore(own); !restored.ok())
            return sys_error(fmt::format("the snapshot's state of {}", device.name()), restored.error().value);
    }
    if (!reader.at_end()) return Error("the snapshot has more in it than a machine", EBADMSG);
    for (Slot& slot : slots_) slot.transport->resume();
    kvm_clock_data data = {};
    data.clock = *clock + shift.elapsed_ns;
    if (auto set = vm_.call(KVM_SET_CLOCK, &data); !set.ok()) return sys_error("KVM_SET_CLOCK", set.error().value);
    for (auto& vcpu : vcpus_) (void)vcpu->kvm().call(KVM_KVMCLOCK_CTRL, nullptr);
    return {};
}

}  // namespace casemate::vmm
