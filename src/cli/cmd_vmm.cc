// vmm: one virtual machine by our own monitor, for trying and testing it.
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <charconv>
#include <optional>

#include "base/scope_exit.h"
#include "cli/commands.h"
#include "linux/event_fds.h"
#include "linux/event_loop.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_socket.h"
#include "sandbox/config.h"
#include "sandbox/launch.h"
#include "virtio/fs.h"
#include "virtio/net.h"
#include "vmm/control_server.h"
#include "vmm/devices.h"
#include "vmm/jail.h"
#include "vmm/share.h"

namespace casemate::cli {

namespace {

constexpr std::string_view kDefaultCommandLine =
    "console=ttyS0 panic=-1 reboot=acpi,panic_warm pci=off cryptomgr.notests";

// The descriptors behind MonitorOptions' numbers.
class Opened {
  public:
    Result<int> open(std::string_view what, const std::string& path, int flags) {
        auto fd = linux::open(path, flags | O_NOCTTY, 0600);
        if (!fd.ok()) return sys_error(fmt::format("open the {} {}", what, path), fd.error().value);
        return keep(fd.take_value());
    }
    int keep(UniqueFd fd) {
        fds_.push_back(std::move(fd));
        return fds_.back().get();
    }

  private:
    std::vector<UniqueFd> fds_;
};

// A terminal gives every key to the guest but Ctrl-], which ends the machine.
class GuestTerminal {
  public:
    GuestTerminal() {
        if (::tcgetattr(STDIN_FILENO, &saved_) < 0) return;
        termios raw = saved_;
        ::cfmakeraw(&raw);
        raw.c_oflag |= OPOST;
        raw.c_lflag |= ISIG;
        raw.c_cc[VINTR] = 0x1d;
        raw.c_cc[VQUIT] = raw.c_cc[VSUSP] = _POSIX_VDISABLE;
        changed_ = ::tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
    }
    ~GuestTerminal() {
        if (changed_) ::tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_);
    }

  private:
    termios saved_ = {};
    bool changed_ = false;
};

Result<uint64_t> size_option(const Arguments& arguments, std::string_view name, uint64_t otherwise) {
    if (!arguments.has(name)) return otherwise;
    auto size = sandbox::parse_size(arguments.value(name));
    if (!size.ok()) return size.take_error().with_context(fmt::format("option --{}", name));
    return *size;
}

// PATH[,WORD]...
std::pair<std::string, std::vector<std::string_view>> path_and_words(std::string_view text) {
    size_t comma = text.find(',');
    std::pair<std::string, std::vector<std::string_view>> parts;
    parts.first = text.substr(0, comma);
    while (comma != std::string_view::npos) {
        text.remove_prefix(comma + 1);
        comma = text.find(',');
        parts.second.push_back(text.substr(0, comma));
    }
    return parts;
}

// FILE[,ro][,iops=N][,bps=SIZE]
Result<vmm::MonitorOptions::Disk> disk_option(std::string_view text, Opened& opened) {
    vmm::MonitorOptions::Disk disk;
    auto [path, words] = path_and_words(text);
    for (std::string_view word : words) {
        if (word == "ro") {
            disk.read_only = true;
        } else if (word.starts_with("iops=")) {
            disk.operations = static_cast<uint64_t>(TRY(parse_number(word.substr(5), "disk")));
        } else if (word.starts_with("bps=")) {
            disk.bytes = TRY(sandbox::parse_size(word.substr(4)));
        } else {
            return Error(
                fmt::format("option --disk: FILE may be followed by ro, iops=N and bps=SIZE, not \"{}\"", word),
                EINVAL);
        }
    }
    disk.fd = TRY(opened.open("disk", path, disk.read_only ? O_RDONLY : O_RDWR));
    return disk;
}

// DIR[,ro][,tag=NAME]: starts the process that serves it, which ends with us or the monitor.
Result<vmm::MonitorOptions::Share> share_option(const Context& context, std::string_view text, Opened& opened) {
    vmm::MonitorOptions::Share share;
    share.tag = "share";
    bool read_only = false;
    auto [path, words] = path_and_words(text);
    for (std::string_view word : words) {
        if (word == "ro") {
            read_only = true;
        } else if (word.starts_with("tag=") && word.size() > 4 && word.size() <= 4 + virtio::FsDevice::kTagBytes) {
            share.tag = word.substr(4);
        } else {
            return Error(fmt::format("option --fs: DIR may be followed by ro and tag=NAME, not \"{}\"", word), EINVAL);
        }
    }
    // Detached from where it is mounted: nothing is above it, whatever the process that gets it does.
    auto directory = linux::clone_mount(AT_FDCWD, path, true);
    if (!directory.ok() && directory.error().value == EPERM) directory = linux::open(path, O_PATH | O_DIRECTORY);
    if (!directory.ok()) return sys_error("share the directory " + path, directory.error().value);
    auto pair = linux::create_socket_pair();
    if (!pair.ok()) return sys_error("socketpair", pair.error().value);
    std::string folder = context.config->libexec.empty() ? sandbox::own_folder() : context.config->libexec;
    (void)TRY(vmm::spawn_share(folder + "/casemate-share", pair->second.get(), directory->get(), read_only));
    share.socket = opened.keep(std::move(pair->first));
    return share;
}

Result<vmm::MonitorOptions> monitor_options(const Context& context, const Arguments& arguments, Opened& opened) {
    vmm::MonitorOptions options;
    options.memory = TRY(size_option(arguments, "memory", options.memory));
    if (arguments.has("cpus")) {
        int64_t cpus = TRY(parse_number(arguments.value("cpus"), "cpus"));
        if (cpus < 1 || cpus > 64) return Error(fmt::format("option --cpus: 1 to 64, not {}", cpus), EINVAL);
        options.vcpus = static_cast<uint32_t>(cpus);
    }
    std::string_view pages = arguments.value_or("huge-pages", "transparent");
    options.huge_pages = pages == "reserved" ? vmm::HugePages::kReserved
                         : pages == "none"   ? vmm::HugePages::kNone
                                             : vmm::HugePages::kTransparent;
    options.preallocate = arguments.has("preallocate");
    options.map_images = arguments.has("map-images");
    options.kvm = TRY(opened.open("device", "/dev/kvm", O_RDWR));
    if (arguments.has("restore")) {
        if (arguments.has("kernel")) return Error("--kernel and --restore exclude each other", EINVAL);
        std::string folder(arguments.value("restore"));
        options.restore_state = TRY(opened.open("snapshot", folder + "/state", O_RDONLY));
        options.restore_memory = TRY(opened.open("snapshot", folder + "/memory", O_RDONLY));
        options.advance_clocks = !arguments.has("keep-clocks");
    } else {
        if (!arguments.has("kernel")) return Error("vmm needs --kernel, or --restore", EINVAL);
        options.kernel = TRY(opened.open("kernel", std::string(arguments.value("kernel")), O_RDONLY));
        if (arguments.has("initrd"))
            options.initrd = TRY(opened.open("initrd", std::string(arguments.value("initrd")), O_RDONLY));
        options.command_line = arguments.value_or("cmdline", kDefaultCommandLine);
    }
    if (arguments.has("control")) {
        std::string path(arguments.value("control"));
        auto listener = linux::listen_unix(path, SOCK_SEQPACKET);
        if (!listener.ok()) return sys_error("listen on " + path, listener.error().value);
        options.control = opened.keep(listener.take_value());
    }
    options.serial_input = STDIN_FILENO;
    options.serial_output = STDOUT_FILENO;
    options.virtio_console = arguments.value("console") == "virtio";
    for (std::string_view disk : arguments.values("disk")) options.disks.push_back(TRY(disk_option(disk, opened)));
    for (std::string_view tap : arguments.values("net")) {
        UniqueFd fd = TRY(virtio::open_tap(std::string(tap)));
        // Locally administered; by its order, so that a restored guest keeps its own.
        options.nets.push_back({opened.keep(std::move(fd)), 0x02'ca'5e'00'00'00 + options.nets.size() + 1});
    }
    for (std::string_view share : arguments.values("fs"))
        options.shares.push_back(TRY(share_option(context, share, opened)));
    if (arguments.has("vsock")) {
        options.vsock_path = arguments.value("vsock");
        auto listener = linux::listen_unix(options.vsock_path, SOCK_STREAM | SOCK_NONBLOCK);
        if (!listener.ok()) return sys_error("listen on " + options.vsock_path, listener.error().value);
        options.vsock_listener = opened.keep(listener.take_value());
    }
    return options;
}

Result<int> run_jailed(const Context& context, vmm::MonitorOptions options) {
    std::string folder = context.config->libexec.empty() ? sandbox::own_folder() : context.config->libexec;
    auto created = linux::EventLoop::create();
    if (!created.ok()) return sys_error("event loop", created.error().value);
    linux::EventLoop& loop = **created;
    // In its jail the monitor cannot open the sockets that its guest connects to: this process does it.
    linux::SocketPair broker;
    if (options.vsock_listener >= 0) {
        auto pair = linux::create_socket_pair(SOCK_SEQPACKET);
        if (!pair.ok()) return sys_error("socketpair", pair.error().value);
        broker = pair.take_value();
        options.vsock_broker = broker.second.get();
        auto watched = loop.watch(broker.first.get(), EPOLLIN, [&, fd = broker.first.get()](uint32_t events) {
            vmm::answer_vsock_broker(fd, options.vsock_path);
            if ((events & EPOLLHUP) != 0) loop.remove(fd);
        });
        if (!watched.ok()) return sys_error("watch the vsock device", watched.error().value);
    }
    auto process = TRY(vmm::spawn_monitor(folder + "/casemate-vmm", options));
    broker.second.reset();
    int pidfd = process.pidfd.get();
    auto watched = loop.on_signals({SIGTERM, SIGINT, SIGHUP},
                                   [&](const signalfd_siginfo&) { (void)linux::pidfd_send_signal(pidfd, SIGTERM); });
    linux::ExitStatus status;
    if (watched.ok()) {
        auto waited = loop.on_exit(std::move(process.pidfd), [&](linux::ExitStatus ended) {
            status = ended;
            loop.quit();
        });
        if (!waited.ok()) return sys_error("wait for the monitor", waited.error().value);
        loop.run();
    } else {
        return sys_error("signalfd", watched.error().value);
    }
    if (status.signaled) return Error(fmt::format("the monitor was killed by signal {}", status.value), EIO);
    return status.value;
}

// A request to a monitor that runs; `snapshot DIR` makes the files here and sends them along.
Result<int> send_request(const std::string& path, std::string_view request) {
    Opened opened;
    std::string answer;
    if (request.starts_with("snapshot ")) {
        std::string folder(request.substr(9));
        if (::mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST) return sys_error("make the folder " + folder);
        int state = TRY(opened.open("snapshot", folder + "/state", O_RDWR | O_CREAT | O_TRUNC));
        int memory = TRY(opened.open("snapshot", folder + "/memory", O_RDWR | O_CREAT | O_TRUNC));
        answer = TRY(vmm::control_monitor(path, "snapshot", {state, memory}));
    } else {
        answer = TRY(vmm::control_monitor(path, request, {}));
    }
    if (!answer.empty()) fmt::print("{}\n", answer);
    return 0;
}

Result<int> run(const Context& context, const Arguments& arguments) {
    if (arguments.has("send")) {
        if (!arguments.has("control")) return Error("--send needs --control, the socket of the monitor", EINVAL);
        return send_request(std::string(arguments.value("control")), arguments.value("send"));
    }
    Opened opened;
    vmm::MonitorOptions options = TRY(monitor_options(context, arguments, opened));
    std::string control(arguments.value("control"));
    ScopeExit remove_sockets([&] {
        if (!control.empty()) ::unlink(control.c_str());
        if (!options.vsock_path.empty()) ::unlink(options.vsock_path.c_str());
    });
    GuestTerminal terminal;
    if (!arguments.has("inline")) return run_jailed(context, options);
    // As the jail would make it, with huge pages; without the right to, a plain memfd has to do.
    if (options.huge_pages == vmm::HugePages::kTransparent && options.restore_memory < 0)
        if (auto file = linux::create_huge_tmpfile(); file.ok()) options.memory_file = opened.keep(file.take_value());
    vmm::MachineEnd end = TRY(vmm::run_monitor(options, {}));
    if (end.end == vmm::GuestEnd::kFailed) return Error(end.why, EIO);
    return vmm::exit_status(end.end);
}

}  // namespace

int vmm_command(Context& context, const Arguments& arguments) {
    auto status = run(context, arguments);
    if (!status.ok()) return fail(status.error());
    for (auto end :
         {vmm::GuestEnd::kReboot, vmm::GuestEnd::kPanic, vmm::GuestEnd::kTripleFault, vmm::GuestEnd::kStopped})
        if (*status == vmm::exit_status(end)) fmt::print(stderr, "casemate: {}\n", vmm::describe(end));
    return *status;
}

}  // namespace casemate::cli
