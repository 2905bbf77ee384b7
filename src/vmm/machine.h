// A virtual machine: processors, memory, interrupt controllers, virtio devices, a serial port, and the few ports by
// which a guest says that it is done. The one typed API of the monitor:
//
//   auto machine = TRY(Machine::create(std::move(spec), loop));
//   TRY(machine->add_device(block));                    // any number, before boot() or restore()
//   TRY(machine->boot(files));                          // or machine->restore(...) (snapshot.h)
//   machine->on_end([&](const MachineEnd& end) { loop.quit(); });
//   TRY(machine->start());
//   loop.run();
//
// Everything here belongs to the thread of the event loop, but what ExitHandler says: vCPU threads call that. Locks:
// the serial port's and each device's own; they are never held together.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "linux/event_loop.h"
#include "virtio/device_loop.h"
#include "virtio/mmio.h"
#include "virtio/state.h"
#include "vmm/boot.h"
#include "vmm/kvm.h"
#include "vmm/memory.h"
#include "vmm/serial.h"
#include "vmm/vcpu.h"

namespace casemate::vmm {

struct MachineSpec {
    UniqueFd kvm;  // open /dev/kvm
    uint32_t vcpus = 1;
    MemoryOptions memory;
    bool restored = false;  // by restore(): what a booting guest needs is left out
    // Runs first in each vCPU's thread: its seccomp filter.
    std::function<Result<void>()> prepare_vcpu_thread;
};

struct MachineEnd {
    GuestEnd end = GuestEnd::kStopped;
    std::string why;  // for kFailed: one sentence
};

class Machine final : private ExitHandler {
  public:
    static Result<std::unique_ptr<Machine>> create(MachineSpec spec, linux::EventLoop& loop);
    ~Machine() override;

    // In the order of their addresses and interrupts. ENOSPC past kMaxVirtioDevices.
    Result<void> add_device(std::unique_ptr<virtio::Device> device);
    virtio::DeviceLoop& device_loop() { return *device_loop_; }

    Result<void> boot(const BootFiles& files);
    // Registers and memory are somebody else's work (snapshot.cc), or a test's.
    Result<void> start();
    // The loop's run(), for who has nothing dearer to do: devices are waited for in the first place.
    void run();
    // Ends the guest at once, as kStopped.
    void stop();

    // Returns when no vCPU runs and no device works any more. EALREADY if it is so already.
    Result<void> pause();
    Result<void> resume();
    bool paused() const { return paused_; }

    // Called once, on the loop. No vCPU runs any more then.
    void on_end(std::function<void(const MachineEnd&)> callback) { end_callback_ = std::move(callback); }

    Serial& serial() { return *serial_; }
    // What the guest wrote goes to `output`, what comes from `input` to the guest; borrowed, -1: none.
    Result<void> connect_serial(int input, int output);
    // Writes what is left, as far as the reader takes it without waiting.
    void flush_serial();

    Memory& memory() { return memory_; }
    Vcpu& vcpu(uint32_t id) { return *vcpus_[id]; }
    uint32_t vcpu_count() const { return static_cast<uint32_t>(vcpus_.size()); }
    // Tells the guest's kernel that it is a copy from now on (snapshot.cc). Before start(): it talks to KVM.
    Result<void> change_generation();
    // Exits to the monitor so far; for measurements.
    uint64_t exit_count() const { return exits_.load(std::memory_order_relaxed); }

    // For snapshots (machine_state.cc). Saving wants a paused machine; restoring one that was created with
    // MachineSpec::restored, has the same devices and was neither booted nor started. Then start().
    Result<void> save(virtio::StateWriter& writer);
    Result<void> restore(virtio::StateReader& reader, bool advance_clocks);

  private:
    class Line;
    struct Slot {
        std::unique_ptr<Line> line;
        std::unique_ptr<virtio::Device> device;
        std::unique_ptr<virtio::MmioTransport> transport;
    };

    explicit Machine(linux::EventLoop& loop);
    SysResult<void> watch_devices();
    Result<void> create_interrupt_controllers();
    Result<void> create_vcpus();
    Result<void> add_interrupt(UniqueFd& event, uint32_t irq);
    void kick_all();
    void end_on_loop();
    void write_serial_output();
    void read_serial_input();
    GuestEnd reset_reason(GuestEnd plain) const;

    void port_read(uint16_t port, std::span<uint8_t> data) override;
    void port_write(uint16_t port, std::span<const uint8_t> data) override;
    void register_read(uint64_t address, std::span<uint8_t> data) override;
    void register_write(uint64_t address, std::span<const uint8_t> data) override;
    void delayed_writes(KvmVcpu& vcpu) override;
    void ended(GuestEnd end, std::string why) override;
    uint8_t read_port(uint16_t port);
    void write_port(uint16_t port, uint8_t value);
    void write_register(uint64_t address, std::span<const uint8_t> data);

    linux::EventLoop& loop_;
    MachineSpec spec_;
    Kvm kvm_;
    KvmVm vm_;
    Memory memory_;
    std::shared_ptr<const virtio::GuestMemory> guest_memory_;
    std::unique_ptr<virtio::DeviceLoop> device_loop_;
    std::vector<Slot> slots_;
    bool has_pit_ = false;
    bool tsc_deadline_ = false;

    RunGate gate_;
    std::vector<std::unique_ptr<Vcpu>> vcpus_;
    bool started_ = false;
    bool paused_ = false;
    std::atomic<uint64_t> exits_{0};
    std::mutex delayed_lock_;  // around KVM's ring of delayed writes

    std::unique_ptr<Serial> serial_;
    UniqueFd serial_interrupt_, serial_event_;  // the second: there is output, or room for input
    std::atomic<bool> serial_wants_input_{false};
    int serial_input_ = -1, serial_output_ = -1;
    std::string serial_pending_;  // taken from the port, not yet written
    std::string serial_typed_;    // read, not yet taken by the port
    bool serial_waits_ = false;   // for the reader
    bool serial_input_watched_ = false;
    UniqueFd generation_interrupt_;

    std::atomic<bool> ending_{false};
    MachineEnd end_;  // written by who set ending_, read on the loop afterwards
    std::function<void(const MachineEnd&)> end_callback_;
};

}  // namespace casemate::vmm
