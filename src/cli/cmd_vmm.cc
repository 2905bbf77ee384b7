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
#include "linux/file.h"
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

// A limit of so many a second.
Result<uint64_t> limit_value(std::string_view text, std::string_view option) {
    int64_t number = TRY(parse_number(text, option));
    if (number < 1) return Error(fmt::format("option --{}: a limit is at least 1, not {}", option, number), EINVAL);
    return static_cast<uint64_t>(number);
}

// FILE[,ro][,iops=N][,bps=SIZE]
Result<vmm::MonitorOptions::Disk> disk_option(std::string_view text, Opened& opened) {
    vmm::MonitorOptions::Disk disk;
    auto [path, words] = path_and_words(text);
    for (std::string_view word : words) {
        if (word == "ro") {
            disk.read_only = true;
        } else if (word.starts_with("iops=")) {
            disk.operations = TRY(limit_value(word.substr(5), "disk"));
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

// TAP[,pps=N][,bps=SIZE][,mtu=N]
Result<vmm::MonitorOptions::Net> net_option(std::string_view text, Opened& opened) {
    vmm::MonitorOptions::Net net;
    auto [name, words] = path_and_words(text);
    for (std::string_view word : words) {
        if (word.starts_with("pps=")) {
            net.frames = TRY(limit_value(word.substr(4), "net"));
        } else if (word.starts_with("bps=")) {
            net.bytes = TRY(sandbox::parse_size(word.substr(4)));
        } else if (word.starts_with("mtu=")) {
            int64_t mtu = TRY(parse_number(word.substr(4), "net"));
            if (mtu < 68 || mtu > 65535)
                return Error(fmt::format("option --net: an MTU of 68 to 65535, not {}", mtu), EINVAL);
            net.mtu = static_cast<uint16_t>(mtu);
        } else {
            return Error(
                fmt::format("option --net: TAP may be followed by pps=N, bps=SIZE and mtu=N, not \"{}\"", word),
                EINVAL);
        }
    }
    net.tap = opened.keep(TRY(virtio::open_tap(name)));
    return net;
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
    auto pair = linux::create_socket_pair();
    if (!pair.ok()) return sys_error("socketpair", pair.error().value);
    std::string folder = context.config->libexec.empty() ? sandbox::own_folder() : context.config->libexec;
    (void)TRY(vmm::spawn_share(folder + "/casemate-share", pair->second.get(), path, read_only));
    share.socket = opened.keep(std::move(pair->first));
    return share;
}

// Options that would be of no effect beside another are refused.
Result<void> check_together(const Arguments& arguments) {
    if (arguments.has("restore"))
        for (const char* other :
             {"kernel", "initrd", "cmdline", "cpus", "memory", "huge-pages", "map-images", "preallocate"})
            if (arguments.has(other))
                return Error(
                    fmt::format("--{} and --restore exclude each other: it is the snapshot that says so", other),
                    EINVAL);
    if (!arguments.has("restore") && arguments.has("keep-clocks"))
        return Error("--keep-clocks needs --restore", EINVAL);
    return {};
}

// A socket of that name; one that nobody listens on any more is what a killed machine left, and gives way.
Result<UniqueFd> listen_at(const std::string& path, int type) {
    auto listener = linux::listen_unix(path, type);
    struct stat st;  // anything else than a socket refuses connections too
    if (!listener.ok() && listener.error().value == EADDRINUSE && ::lstat(path.c_str(), &st) == 0 &&
        S_ISSOCK(st.st_mode)) {
        auto other = linux::connect_unix(path, type & ~SOCK_NONBLOCK);
        if (!other.ok() && other.error().value == ECONNREFUSED && ::unlink(path.c_str()) == 0)
            listener = linux::listen_unix(path, type);
    }
    if (!listener.ok()) return sys_error("listen on " + path, listener.error().value);
    return listener.take_value();
}

Result<vmm::MonitorOptions> monitor_options(const Context& context, const Arguments& arguments, Opened& opened) {
    TRY(check_together(arguments));
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
        options.control = opened.keep(TRY(listen_at(path, SOCK_SEQPACKET)));
    }
    options.serial_input = STDIN_FILENO;
    options.serial_output = STDOUT_FILENO;
    options.virtio_console = arguments.value("console") == "virtio";
    for (std::string_view disk : arguments.values("disk")) options.disks.push_back(TRY(disk_option(disk, opened)));
    for (std::string_view text : arguments.values("net")) {
        options.nets.push_back(TRY(net_option(text, opened)));
        // Locally administered; by its order, so that a restored guest keeps its own.
        options.nets.back().mac = 0x02'ca'5e'00'00'00 + options.nets.size();
    }
    for (std::string_view share : arguments.values("fs"))
        options.shares.push_back(TRY(share_option(context, share, opened)));
    if (arguments.has("vsock")) {
        options.vsock_path = arguments.value("vsock");
        options.vsock_listener = opened.keep(TRY(listen_at(options.vsock_path, SOCK_STREAM | SOCK_NONBLOCK)));
    }
    return options;
}

// How many processes of our cgroup the host has killed for want of memory; 0 where it does not say.
uint64_t killed_for_memory() {
    auto cgroups = linux::read_file("/proc/self/cgroup");
    if (!cgroups.ok() || !cgroups->starts_with("0::")) return 0;
    std::string own = cgroups->substr(3, cgroups->find('\n') - 3);
    auto events = linux::read_file("/sys/fs/cgroup" + own + "/memory.events");
    constexpr std::string_view kName = "\noom_kill ";
    size_t at = events.ok() ? events->find(kName) : std::string::npos;
    uint64_t count = 0;
    if (at != std::string::npos)
        std::from_chars(events->data() + at + kName.size(), events->data() + events->size(), count);
    return count;
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
    uint64_t killed_before = killed_for_memory();
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
    if (status.signaled && status.value == SIGKILL && killed_for_memory() > killed_before)
        return Error("the host ran out of memory and killed the monitor (see memory.max of its cgroup)", ENOMEM);
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
        // Whoever owns the folder shall not choose by a link which of our files is overwritten.
        constexpr int kFlags = O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW;
        int state = TRY(opened.open("snapshot", folder + "/state", kFlags));
        int memory = TRY(opened.open("snapshot", folder + "/memory", kFlags));
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
        for (const char* other : {"kernel", "restore", "disk", "net", "fs", "vsock", "inline"})
            if (arguments.has(other)) return Error(fmt::format("--{} and --send exclude each other", other), EINVAL);
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
