#include "vmm/monitor.h"

#include <fmt/core.h>
#include <signal.h>

#include "base/log.h"
#include "linux/event_fds.h"
#include "vmm/control_server.h"
#include "vmm/devices.h"
#include "vmm/snapshot.h"

namespace casemate::vmm {

namespace {

Result<MachineSpec> machine_spec(const MonitorOptions& options, const Snapshot* snapshot, const MonitorHooks& hooks) {
    MachineSpec spec;
    spec.kvm = options.kvm >= 0 ? TRY(options.owned(options.kvm, "/dev/kvm")) : TRY(Kvm::open_device());
    spec.prepare_vcpu_thread = hooks.confine_vcpu;
    if (snapshot != nullptr) {
        spec.restored = true;
        spec.vcpus = snapshot->vcpus;
        spec.memory.size = snapshot->memory;
        spec.memory.file = TRY(options.owned(options.restore_memory, "snapshot's memory"));
        spec.memory.private_copy = true;
        return spec;
    }
    spec.vcpus = options.vcpus;
    spec.memory.size = options.memory;
    spec.memory.huge_pages = options.huge_pages;
    spec.memory.preallocate = options.preallocate;
    spec.memory.map_images = options.map_images;
    if (options.memory_file >= 0) spec.memory.file = TRY(options.owned(options.memory_file, "memory file"));
    if (options.image_pipe_in >= 0 && options.image_pipe_out >= 0) {
        spec.memory.image_pipe.write_end = TRY(options.owned(options.image_pipe_in, "pipe for images"));
        spec.memory.image_pipe.read_end = TRY(options.owned(options.image_pipe_out, "pipe for images"));
    }
    return spec;
}

}  // namespace

Result<UniqueFd> MonitorOptions::owned(int fd, const char* what) const {
    if (may_take) return UniqueFd(fd);
    auto copy = linux::duplicate_fd(fd);
    if (!copy.ok()) return sys_error(fmt::format("dup of the {}", what), copy.error().value);
    return copy.take_value();
}

Result<MachineEnd> run_monitor(const MonitorOptions& options, const MonitorHooks& hooks) {
    auto created = linux::EventLoop::create();
    if (!created.ok()) return sys_error("event loop", created.error().value);
    linux::EventLoop& loop = **created;
    std::optional<Snapshot> snapshot;
    if (options.restore_state >= 0) snapshot = TRY(read_snapshot(options.restore_state));
    MachineSpec spec = TRY(machine_spec(options, snapshot ? &*snapshot : nullptr, hooks));
    std::unique_ptr<Machine> machine = TRY(Machine::create(std::move(spec), loop));
    auto signals = loop.on_signals({SIGTERM, SIGINT, SIGHUP}, [&](const signalfd_siginfo&) { machine->stop(); });
    if (!signals.ok()) return sys_error("signalfd", signals.error().value);
    TRY(add_devices(options, *machine));
    if (snapshot) {
        virtio::StateReader reader(snapshot->machine);
        TRY(machine->restore(reader, options.advance_clocks));
        TRY(machine->change_generation());
        snapshot.reset();
    } else {
        TRY(machine->boot({options.kernel, options.initrd, options.command_line}));
    }
    TRY(machine->connect_serial(options.virtio_console ? -1 : options.serial_input, options.serial_output));
    std::unique_ptr<ControlServer> control;
    if (options.control >= 0) control = TRY(ControlServer::create(options.control, *machine, loop));
    MachineEnd end;
    machine->on_end([&](const MachineEnd& how) {
        end = how;
        loop.quit();
    });
    TRY(machine->start());
    if (hooks.confine_main) TRY(hooks.confine_main());
    machine->run();
    log::debug("{} exits came to the monitor", machine->exit_count());
    if (machine->serial().dropped() > 0)
        log::warning("{} bytes of the serial port were dropped: their reader was too slow",
                     machine->serial().dropped());
    return end;
}

int exit_status(GuestEnd end) {
    switch (end) {
        case GuestEnd::kPowerOff:
            return 0;
        case GuestEnd::kReboot:
            return 3;
        case GuestEnd::kPanic:
            return 4;
        case GuestEnd::kTripleFault:
            return 5;
        case GuestEnd::kStopped:
            return 6;
        case GuestEnd::kFailed:
            break;
    }
    return 1;
}

const char* describe(GuestEnd end) {
    switch (end) {
        case GuestEnd::kPowerOff:
            return "the guest powered off";
        case GuestEnd::kReboot:
            return "the guest asked for a reboot";
        case GuestEnd::kPanic:
            return "the guest's kernel panicked";
        case GuestEnd::kTripleFault:
            return "the guest ended in a triple fault";
        case GuestEnd::kStopped:
            return "the guest was stopped";
        case GuestEnd::kFailed:
            break;
    }
    return "the guest could not go on";
}

}  // namespace casemate::vmm
