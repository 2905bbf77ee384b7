// A monitor: one machine with its devices and its event loop, from options that carry open descriptors. It runs in the
// process of who calls run_monitor() ("inline"), or in a process of its own in a jail (jail.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "vmm/machine.h"

namespace casemate::vmm {

// Descriptors are numbers that stay open while the monitor runs; -1: none.
struct MonitorOptions {
    // What a machine wants to own of them it may take; else it takes duplicates.
    bool may_take = false;
    uint32_t vcpus = 1;
    uint64_t memory = 256 << 20;  // bytes
    HugePages huge_pages = HugePages::kTransparent;
    bool preallocate = false;
    bool map_images = false;

    int kvm = -1;
    int memory_file = -1;                         // else a memfd
    int image_pipe_in = -1, image_pipe_out = -1;  // of create_image_pipe(): who starts a monitor may make larger ones
    int kernel = -1, initrd = -1;
    std::string command_line;
    int restore_state = -1, restore_memory = -1;  // instead of a kernel; vcpus and memory are then the snapshot's
    bool advance_clocks = true;                   // a restored guest sees the time since the snapshot as passed
    int control = -1;                             // listening socket for control.h
    int serial_input = -1, serial_output = -1;

    bool virtio_console = false;  // input goes there instead of to the serial port
    struct Disk {
        int fd = -1;
        bool read_only = false;
        uint64_t operations = 0, bytes = 0;  // a second; 0: no limit
    };
    std::vector<Disk> disks;
    struct Net {
        int tap = -1;  // of virtio::open_tap()
        uint64_t mac = 0;
        uint16_t mtu = 0;                // 0: not told
        uint64_t frames = 0, bytes = 0;  // a second, each way; 0: no limit
    };
    std::vector<Net> nets;
    struct Share {
        int socket = -1;  // to casemate-share (share.h)
        std::string tag;
    };
    std::vector<Share> shares;
    int vsock_listener = -1;
    int vsock_broker = -1;   // socket to the parent, which opens the guest's streams (devices.h)
    std::string vsock_path;  // without a broker: they are opened here, below this path
    uint64_t vsock_cid = 3;

    // As words for another process, where the descriptors have other numbers (jail.h).
    std::vector<std::string> to_words() const;
    static Result<MonitorOptions> from_words(const std::vector<std::string>& words);
    // Every descriptor above that is not -1.
    std::vector<int*> descriptors();
    // One of them, for the machine to own; `what` it is of, for the error.
    Result<UniqueFd> owned(int fd, const char* what) const;
};

struct MonitorHooks {
    // Before the first instruction of the guest, on the thread of run_monitor() and in each vCPU's: seccomp.
    std::function<Result<void>()> confine_main;
    std::function<Result<void>()> confine_vcpu;
};

// Runs the machine until it ends. SIGTERM and SIGINT stop it.
Result<MachineEnd> run_monitor(const MonitorOptions& options, const MonitorHooks& hooks);

// The exit status by which a process tells how its guest ended, and what it says in words.
int exit_status(GuestEnd end);
const char* describe(GuestEnd end);

}  // namespace casemate::vmm
