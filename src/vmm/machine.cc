#include "vmm/machine.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "linux/event_fds.h"
#include "vmm/acpi.h"
#include "vmm/cpu.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr const char* kMemoryLost =
    "the host has no memory for the guest any more, or a file that the guest's memory comes from was cut";

}  // namespace

// A device's interrupt: an eventfd that KVM turns into an edge at the I/O APIC.
class Machine::Line final : public virtio::InterruptLine {
  public:
    static Result<std::unique_ptr<Line>> create(KvmVm& vm, uint32_t irq) {
        auto line = std::make_unique<Line>();
        auto fd = linux::create_eventfd();
        if (!fd.ok()) return sys_error("eventfd of an interrupt", fd.error().value);
        line->fd_ = fd.take_value();
        line->irq_ = irq;
        if (auto added = vm.add_irqfd(line->fd_.get(), irq); !added.ok())
            return sys_error(fmt::format("KVM_IRQFD of interrupt {}", irq), added.error().value);
        return line;
    }
    void raise() override { linux::signal_eventfd(fd_.get()); }
    uint32_t irq() const { return irq_; }

  private:
    UniqueFd fd_;
    uint32_t irq_ = 0;
};

Result<std::unique_ptr<Machine>> Machine::create(MachineSpec spec, linux::EventLoop& loop) {
    if (spec.vcpus < 1 || spec.vcpus > kMaxVcpus)
        return Error(fmt::format("a guest has 1 to {} processors, not {}", kMaxVcpus, spec.vcpus), EINVAL);
    std::unique_ptr<Machine> machine(new Machine(loop));
    machine->spec_ = std::move(spec);
    machine->kvm_ = TRY(Kvm::create(std::move(machine->spec_.kvm)));
    machine->vm_ = TRY(machine->kvm_.create_vm());
    machine->memory_ = TRY(Memory::create(std::move(machine->spec_.memory)));
    std::vector<virtio::MemoryRegion> regions;
    for (const MemoryRegion& region : machine->memory_.regions()) {
        auto set = machine->vm_.set_memory(static_cast<uint32_t>(regions.size()), region.guest_address, region.size,
                                           region.host);
        if (!set.ok()) return sys_error("KVM_SET_USER_MEMORY_REGION", set.error().value);
        regions.push_back({region.guest_address, region.size, region.host});
    }
    machine->guest_memory_ = MUST(virtio::GuestMemory::create(std::move(regions)));
    TRY(machine->create_interrupt_controllers());
    TRY(machine->create_vcpus());
    auto device_loop = virtio::DeviceLoop::create();
    if (!device_loop.ok()) return sys_error("event loop of the devices", device_loop.error().value);
    machine->device_loop_ = device_loop.take_value();
    auto watched = machine->watch_devices();
    if (!watched.ok()) return sys_error("watch the devices", watched.error().value);
    watched = loop.watch(machine->memory_.lost_event(), EPOLLIN, [raw = machine.get()](uint32_t) {
        raw->loop_.remove(raw->memory_.lost_event());
        raw->ended(GuestEnd::kFailed, kMemoryLost);
    });
    if (!watched.ok()) return sys_error("watch the guest's memory", watched.error().value);
    return machine;
}

Machine::Machine(linux::EventLoop& loop) : loop_(loop) {}

SysResult<void> Machine::watch_devices() {
    return loop_.watch(device_loop_->fd(), EPOLLIN,
                       [this](uint32_t) { device_loop_->turn(std::chrono::milliseconds(0)); });
}

Machine::~Machine() {
    gate_.set(RunGate::State::kStopped);
    kick_all();
    for (auto& vcpu : vcpus_) vcpu->join();
    if (device_loop_) loop_.remove(device_loop_->fd());
    if (memory_.lost_event() >= 0) loop_.remove(memory_.lost_event());
    if (serial_event_) loop_.remove(serial_event_.get());
    if (serial_waits_) loop_.remove(serial_output_);
    if (serial_input_watched_) loop_.remove(serial_input_);
}

Result<void> Machine::create_interrupt_controllers() {
    // Only Intel processors that cannot run real mode need these pages; nowhere do they hurt.
    uint64_t identity_map = kIdentityMap;
    (void)vm_.call(KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    if (auto set = vm_.call(KVM_SET_TSS_ADDR, kTss); !set.ok()) return sys_error("KVM_SET_TSS_ADDR", set.error().value);
    if (auto made = vm_.call(KVM_CREATE_IRQCHIP); !made.ok())
        return sys_error("KVM_CREATE_IRQCHIP", made.error().value);
    // The old interrupt controller hears every line too, and begins with none masked and vectors from 0 on: to a kernel
    // that has not come to its own yet, a line that is raised (by a restore: the generation id's) would be an
    // exception.
    kvm_irqchip chip = {};
    chip.chip_id = KVM_IRQCHIP_PIC_MASTER;
    chip.chip.pic.imr = 0xff;
    chip.chip.pic.elcr_mask = 0xf8;
    if (auto set = vm_.call(KVM_SET_IRQCHIP, &chip); !set.ok()) return sys_error("KVM_SET_IRQCHIP", set.error().value);
    tsc_deadline_ = kvm_.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    if (!tsc_deadline_) {
        // Without it the local APIC's timer is calibrated against this one.
        kvm_pit_config pit = {};
        pit.flags = KVM_PIT_SPEAKER_DUMMY;
        if (auto made = vm_.call(KVM_CREATE_PIT2, &pit); !made.ok())
            return sys_error("KVM_CREATE_PIT2", made.error().value);
        has_pit_ = true;
    }
    TRY(add_interrupt(serial_interrupt_, kSerialIrq));
    // What these registers of the serial port are set to, and the address register of the PCI bus that is not there,
    // shows at the next access. (Not data and interrupt enable: they work at once.) A KVM without it exits for each.
    if (kvm_.check_extension(KVM_CAP_COALESCED_PIO) > 0) {
        (void)vm_.delay_port_writes(kSerialPort + Serial::kFirstSettings, Serial::kSettings);
        (void)vm_.delay_port_writes(kPciAddressPort, 4);
    }
    Serial::Wires wires;
    wires.interrupt = [fd = serial_interrupt_.get()] { linux::signal_eventfd(fd); };
    wires.output_ready = [this] {
        if (serial_event_) linux::signal_eventfd(serial_event_.get());
    };
    wires.input_wanted = [this] {
        serial_wants_input_ = true;
        if (serial_event_) linux::signal_eventfd(serial_event_.get());
    };
    serial_ = std::make_unique<Serial>(std::move(wires));
    return {};
}

Result<void> Machine::add_interrupt(UniqueFd& event, uint32_t irq) {
    auto made = linux::create_eventfd();
    if (!made.ok()) return sys_error("eventfd", made.error().value);
    event = made.take_value();
    if (auto added = vm_.add_irqfd(event.get(), irq); !added.ok()) return sys_error("KVM_IRQFD", added.error().value);
    return {};
}

Result<void> Machine::create_vcpus() {
    TRY(Vcpu::install_kick_signal());
    std::vector<kvm_cpuid_entry2> supported;
    if (!spec_.restored) {
        auto leaves = kvm_.supported_cpuid();
        if (!leaves.ok()) return sys_error("KVM_GET_SUPPORTED_CPUID", leaves.error().value);
        supported = leaves.take_value();
    }
    for (uint32_t id = 0; id < spec_.vcpus; ++id) {
        auto created = vm_.create_vcpu(id, kvm_.run_size());
        if (!created.ok()) return sys_error(fmt::format("KVM_CREATE_VCPU of vCPU {}", id), created.error().value);
        if (!spec_.restored) {
            auto leaves = make_cpuid(supported, id, spec_.vcpus, tsc_deadline_);
            if (auto set = created->set_cpuid(leaves); !set.ok()) return sys_error("KVM_SET_CPUID2", set.error().value);
        }
        vcpus_.push_back(std::make_unique<Vcpu>(id, created.take_value(), gate_, static_cast<ExitHandler&>(*this)));
    }
    return {};
}

Result<void> Machine::add_device(std::unique_ptr<virtio::Device> device) {
    if (slots_.size() >= kMaxVirtioDevices)
        return Error(fmt::format("a guest has at most {} virtio devices", kMaxVirtioDevices), ENOSPC);
    Slot slot;
    uint32_t index = static_cast<uint32_t>(slots_.size());
    slot.line = TRY(Line::create(vm_, kFirstVirtioIrq + index));
    auto transport = virtio::MmioTransport::create(*device, *device_loop_, *slot.line, guest_memory_);
    if (!transport.ok()) return sys_error(fmt::format("virtio {}", device->name()), transport.error().value);
    slot.transport = transport.take_value();
    slot.device = std::move(device);
    uint64_t registers = kVirtioRegisters + index * kVirtioRegistersSize;
    uint64_t notify = registers + virtio::MmioTransport::kQueueNotify;
    for (uint16_t queue = 0; queue < slot.transport->queue_count(); ++queue)
        if (auto added = vm_.add_ioeventfd(slot.transport->doorbell(queue), notify, queue); !added.ok())
            return sys_error("KVM_IOEVENTFD", added.error().value);
    // An exit less for each interrupt; a KVM that cannot exits.
    if (vcpus_[0]->kvm().delayed_writes() != nullptr)
        (void)vm_.delay_register_writes(registers + virtio::MmioTransport::kInterruptAck, 4);
    slots_.push_back(std::move(slot));
    return {};
}

Result<void> Machine::boot(const BootFiles& files) {
    BootEntry entry = TRY(load_kernel(memory_, files));
    std::vector<AcpiVirtioDevice> devices;
    for (const Slot& slot : slots_)
        devices.push_back({kVirtioRegisters + devices.size() * kVirtioRegistersSize, slot.line->irq()});
    std::string tables = make_acpi_tables({vcpu_count(), devices, kAcpiTables});
    if (tables.size() > kAcpiTablesEnd - kAcpiTables) return Error("the ACPI tables do not fit", ENOSPC);
    MUST(memory_.write(kAcpiTables, tables));
    char generation[16];
    if (::getrandom(generation, sizeof generation, 0) != sizeof generation) return sys_error("getrandom");
    MUST(memory_.write(kGenerationId, {generation, sizeof generation}));
    // So that a cold reboot, which writes 0 here, is told from a triple fault, which writes nothing.
    MUST(memory_.write_object(kWarmRebootWord, uint16_t{0xffff}));

    for (auto& vcpu : vcpus_)
        if (auto set = set_boot_msrs(vcpu->kvm()); !set.ok()) return sys_error("KVM_SET_MSRS", set.error().value);
    KvmVcpu& first = vcpus_[0]->kvm();
    auto sregs = first.get<kvm_sregs>(KVM_GET_SREGS);
    if (!sregs.ok()) return sys_error("KVM_GET_SREGS", sregs.error().value);
    kvm_regs regs;
    set_entry_registers(entry, regs, *sregs);
    if (auto set = first.set(KVM_SET_SREGS, *sregs); !set.ok()) return sys_error("KVM_SET_SREGS", set.error().value);
    if (auto set = first.set(KVM_SET_REGS, regs); !set.ok()) return sys_error("KVM_SET_REGS", set.error().value);
    if (memory_.lost()) return Error(kMemoryLost, ENOMEM);
    return {};
}

void Machine::run() {
    constexpr std::chrono::nanoseconds kNoEnd(-1);
    virtio::DeviceLoop& devices = *device_loop_;
    // The other way round than before: the other loop is one of the descriptors of the devices' loop, so that a
    // doorbell or a device's descriptor costs one call to wait for it and not two.
    std::mutex owner;
    bool other = false;
    loop_.remove(devices.fd());
    auto inner = devices.watch(owner, loop_.fd(), EPOLLIN, [&](uint32_t) { other = true; });
    while (inner.ok() && !loop_.quitting()) {
        if (paused_) {
            loop_.run_once(kNoEnd);
            continue;
        }
        std::chrono::nanoseconds wait = loop_.time_to_next(kNoEnd);
        devices.turn(wait < wait.zero() ? std::chrono::milliseconds(-1)
                                        : std::chrono::ceil<std::chrono::milliseconds>(wait));
        if (std::exchange(other, false) || loop_.time_to_next(kNoEnd) == wait.zero()) loop_.run_once(wait.zero());
    }
    if (inner.ok()) devices.remove(*inner);
    (void)watch_devices().ok();
    (void)loop_.run();  // takes back quit(); all of it without the other way round
}

Result<void> Machine::start() {
    for (auto& vcpu : vcpus_) TRY(vcpu->start(spec_.prepare_vcpu_thread));
    started_ = true;
    gate_.set(RunGate::State::kRunning);
    return {};
}

void Machine::kick_all() {
    for (auto& vcpu : vcpus_) vcpu->kick();
}

void Machine::stop() { ended(GuestEnd::kStopped, ""); }

Result<void> Machine::pause() {
    if (!started_ || ending_.load()) return Error("the guest does not run", ESRCH);
    if (paused_) return Error("the guest is paused already", EALREADY);
    gate_.set(RunGate::State::kPaused);
    kick_all();
    gate_.wait_for(vcpus_.size());
    device_loop_->pause();
    (void)loop_.change(device_loop_->fd(), 0);
    paused_ = true;
    return {};
}

Result<void> Machine::resume() {
    if (!paused_) return Error("the guest is not paused", EALREADY);
    // Or its watchdogs take the pause for a processor that hangs. Guests without KVM's clock refuse.
    for (auto& vcpu : vcpus_) (void)vcpu->kvm().call(KVM_KVMCLOCK_CTRL, nullptr);
    device_loop_->resume();
    (void)loop_.change(device_loop_->fd(), EPOLLIN);
    for (Slot& slot : slots_) slot.transport->resume();
    paused_ = false;
    gate_.set(RunGate::State::kRunning);
    return {};
}

Result<void> Machine::change_generation() {
    char generation[16];
    if (::getrandom(generation, sizeof generation, 0) != sizeof generation) return sys_error("getrandom");
    MUST(memory_.write(kGenerationId, {generation, sizeof generation}));
    if (!generation_interrupt_) TRY(add_interrupt(generation_interrupt_, kGenerationIrq));
    linux::signal_eventfd(generation_interrupt_.get());
    return {};
}

// ---- the guest's end

void Machine::ended(GuestEnd end, std::string why) {
    if (ending_.exchange(true)) return;
    if (end == GuestEnd::kReboot || end == GuestEnd::kTripleFault) end = reset_reason(end);
    if (end == GuestEnd::kFailed && memory_.cut()) why = kMemoryLost;
    end_ = {end, std::move(why)};
    gate_.set(RunGate::State::kStopped);
    kick_all();
    loop_.post([this] { end_on_loop(); });
}

// Linux writes the word right before it resets, by whatever means: 0 for a cold reboot, 0x1234 for a warm one, which
// `reboot=panic_warm` makes those after a panic.
GuestEnd Machine::reset_reason(GuestEnd plain) const {
    uint16_t word;
    std::memcpy(&word, memory_.at(kWarmRebootWord, sizeof word), sizeof word);
    if (word == kWarmReboot) return GuestEnd::kPanic;
    return word == 0 ? GuestEnd::kReboot : plain;
}

void Machine::end_on_loop() {
    for (auto& vcpu : vcpus_) vcpu->join();
    write_serial_output();
    if (end_callback_) end_callback_(end_);
}

// ---- ports and registers; on the vCPUs' threads

uint8_t Machine::read_port(uint16_t port) {
    if (port >= kSerialPort && port < kSerialPort + 8) return serial_->read(port - kSerialPort);
    switch (port) {
        case kPanicPort:
            return 1;  // it can be told of panics
        case kKeyboardPort:
        case kSleepStatusPort:
        case kSleepControlPort:
            return 0;
        default:
            return 0xff;
    }
}

void Machine::write_port(uint16_t port, uint8_t value) {
    constexpr uint8_t kSleepEnable = 1 << 5, kSleepType5 = 5 << 2, kSleepTypeMask = 7 << 2;
    if (port >= kSerialPort && port < kSerialPort + 8) return serial_->write(port - kSerialPort, value);
    if (port == kPanicPort && (value & 1) != 0) return ended(GuestEnd::kPanic, "");
    if (port == kKeyboardPort && value == 0xfe) return ended(GuestEnd::kReboot, "");
    if (port == kResetPort && value == 1) return ended(GuestEnd::kReboot, "");
    if (port == kSleepControlPort && (value & kSleepEnable) != 0 && (value & kSleepTypeMask) == kSleepType5)
        return ended(GuestEnd::kPowerOff, "");
}

void Machine::port_read(uint16_t port, std::span<uint8_t> data) {
    exits_.fetch_add(1, std::memory_order_relaxed);
    for (size_t i = 0; i < data.size(); ++i) data[i] = read_port(static_cast<uint16_t>(port + i));
}

void Machine::port_write(uint16_t port, std::span<const uint8_t> data) {
    exits_.fetch_add(1, std::memory_order_relaxed);
    for (size_t i = 0; i < data.size(); ++i) write_port(static_cast<uint16_t>(port + i), data[i]);
}

void Machine::delayed_writes(KvmVcpu& vcpu) {
    DelayedWrites* ring = vcpu.delayed_writes();
    if (ring == nullptr ||
        __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) == __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE))
        return;
    std::lock_guard guard(delayed_lock_);
    for (uint32_t at = ring->first; at != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);) {
        const kvm_coalesced_mmio& write = ring->writes[at];
        std::span<const uint8_t> data(write.data, std::min<size_t>(write.len, sizeof write.data));
        if (write.pio == 0) {
            write_register(write.phys_addr, data);
        } else {
            for (size_t i = 0; i < data.size(); ++i) write_port(static_cast<uint16_t>(write.phys_addr + i), data[i]);
        }
        at = (at + 1) % DelayedWrites::kCapacity;
        __atomic_store_n(&ring->first, at, __ATOMIC_RELEASE);
    }
}

void Machine::register_read(uint64_t address, std::span<uint8_t> data) {
    exits_.fetch_add(1, std::memory_order_relaxed);
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    uint64_t index = (address - kVirtioRegisters) / kVirtioRegistersSize;
    if (address < kVirtioRegisters || index >= slots_.size()) return;
    slots_[index].transport->read(address % kVirtioRegistersSize, data);
}

void Machine::register_write(uint64_t address, std::span<const uint8_t> data) {
    exits_.fetch_add(1, std::memory_order_relaxed);
    write_register(address, data);
}

void Machine::write_register(uint64_t address, std::span<const uint8_t> data) {
    uint64_t index = (address - kVirtioRegisters) / kVirtioRegistersSize;
    if (address < kVirtioRegisters || index >= slots_.size()) return;
    slots_[index].transport->write(address % kVirtioRegistersSize, data);
}

}  // namespace casemate::vmm
