#include "cli/container.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/log.h"
#include "host/namespaces.h"
#include "linux/event_fds.h"
#include "linux/file.h"
#include "linux/process.h"
#include "oci/config_parser.h"
#include "oci/hooks.h"
#include "sandbox/pod_cgroup.h"
#include "sandbox/terminal.h"

namespace casemate::cli {

Result<Found> find_container(const Context& context, std::string_view id, bool lock) {
    using sandbox::StateDir;
    StateDir dir =
        TRY(StateDir::open(context.root, std::string(id), lock ? StateDir::Lock::kExclusive : StateDir::Lock::kNone));
    auto record = dir.load();
    if (!record.ok()) {
        if (record.error().code() != ENOENT) return record.take_error();
        // Its creation was cut off before there was anything to tell.
        sandbox::Record empty;
        empty.set_id(std::string(id));
        empty.set_pod(std::string(id));
        return Found{std::move(dir), empty, oci::ContainerStatus::kStopped};
    }
    auto status = sandbox::real_status(*record);
    return Found{std::move(dir), record.take_value(), status};
}

Result<sandbox::ControlClient> connect_to_pod(const Context& context, const Found& container) {
    if (container.status == oci::ContainerStatus::kStopped) return Error("container not running", ESRCH);
    return connect_to_pod_of_stopped(context, container);
}

Result<sandbox::ControlClient> connect_to_pod_of_stopped(const Context& context, const Found& container) {
    sandbox::StateDir pod =
        TRY(sandbox::StateDir::open(context.root, container.record.pod(), sandbox::StateDir::Lock::kNone));
    return sandbox::ControlClient::connect(pod.control_socket());
}

Result<int> parse_signal(std::string_view text) {
    int number = -1;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size() && number >= 0 && number <= SIGRTMAX) return number;
    std::string name(text);
    for (char& c : name)
        if (c >= 'a' && c <= 'z') c &= ~0x20;
    if (name.starts_with("SIG")) name.erase(0, 3);
    for (int signo = 1; signo < SIGRTMIN; ++signo) {
        const char* known = sigabbrev_np(signo);
        if (known != nullptr && name == known) return signo;
    }
    if (name == "IOT") return SIGABRT;
    if (name == "CLD") return SIGCHLD;
    for (auto [base, value, sign] : {std::tuple("RTMIN", SIGRTMIN, 1), std::tuple("RTMAX", SIGRTMAX, -1)}) {
        std::string_view rest = name;
        if (!rest.starts_with(base)) continue;
        rest.remove_prefix(5);
        if (rest.empty()) return value;
        int offset = 0;
        if (rest[0] != (sign > 0 ? '+' : '-')) continue;
        auto parsed = std::from_chars(rest.data() + 1, rest.data() + rest.size(), offset);
        if (parsed.ec == std::errc() && parsed.ptr == rest.data() + rest.size() && offset >= 0 &&
            offset <= SIGRTMAX - SIGRTMIN)
            return value + sign * offset;
    }
    return Error(fmt::format("unknown signal \"{}\"", text), EINVAL);
}

Result<void> ensure_root(host::IdMaps maps) {
    if (geteuid() == 0) return {};
    if (maps.uids.empty()) maps = host::rootless_id_maps();
    return host::enter_rootless(maps);
}

Result<void> write_pid_file(std::string_view path, pid_t pid) {
    if (path.empty()) return {};
    auto done = linux::write_file_atomic(std::string(path), std::to_string(pid), 0644);
    if (!done.ok()) return sys_error("write the pid file " + std::string(path), done.error().value);
    return {};
}

Result<CommandStreams> open_streams(const StreamRequest& request, const std::optional<oci::ConsoleSize>& size) {
    CommandStreams out;
    sandbox::StreamFds& streams = out.streams;
    streams.terminal = request.terminal;
    if (size) streams.size = {size->height, size->width};
    if (!request.terminal && !request.console_socket.empty())
        return Error("--console-socket is for processes with a terminal (process.terminal, --tty)", EINVAL);
    if (request.terminal && !request.console_socket.empty()) {
        auto pty = TRY(sandbox::HostPty::create(streams.size));
        TRY(sandbox::send_console(request.console_socket, pty.master.get()));
        streams.console = std::move(pty.slave);
        out.own_pty = true;
    } else if (request.terminal) {
        if (request.detach)
            return Error("a detached process with a terminal needs --console-socket, where the terminal is sent",
                         EINVAL);
        streams.console = TRY(sandbox::open_callers_terminal());
        if (auto now = sandbox::terminal_size(streams.console.get()); now && !size) streams.size = *now;
        out.callers_terminal = true;
    } else {
        UniqueFd* places[] = {&streams.in, &streams.out, &streams.err};
        for (int fd = 0; fd < 3; ++fd) {
            auto copy = linux::duplicate_fd(fd);
            if (!copy.ok()) return sys_error(fmt::format("duplicate descriptor {}", fd), copy.error().value);
            *places[fd] = std::move(*copy);
        }
    }
    int count = request.preserve_fds;
    if (const char* listen = getenv("LISTEN_FDS")) count += atoi(listen);
    for (int fd = 3; fd < 3 + count; ++fd) {
        auto copy = linux::duplicate_fd(fd);
        if (!copy.ok())
            return sys_error(fmt::format("--preserve-fds: descriptor {} (of 3 to {})", fd, 2 + count),
                             copy.error().value);
        streams.passed.push_back(std::move(*copy));
    }
    return out;
}

sigset_t hold_passed_signals() {
    sigset_t set;
    sigfillset(&set);
    for (int signo : {SIGCHLD, SIGURG, SIGTTOU, SIGTTIN, SIGTSTP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT})
        sigdelset(&set, signo);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    return set;
}

int wait_and_forward(int pidfd, const sigset_t& held) {
    UniqueFd signals(signalfd(-1, &held, SFD_CLOEXEC | SFD_NONBLOCK));
    pollfd polled[] = {{pidfd, POLLIN, 0}, {signals.get(), POLLIN, 0}};
    for (;;) {
        if (poll(polled, signals ? 2 : 1, -1) < 0 && errno != EINTR) break;
        signalfd_siginfo info;
        while (signals && read(signals.get(), &info, sizeof info) == sizeof info)
            (void)linux::pidfd_send_signal(pidfd, static_cast<int>(info.ssi_signo));
        if (polled[0].revents != 0) break;
    }
    auto status = linux::wait_pidfd(pidfd, true);
    if (!status.ok() || !status->has_value()) return 1;
    return (*status)->shell_code();
}

namespace {

// Kills the processes that stand for a container on the host and waits until they are gone.
Result<void> kill_process(const sandbox::v1::HostProcess& process) {
    if (!sandbox::is_alive(process)) return {};
    auto pidfd = linux::pidfd_open(process.pid());
    if (!pidfd.ok()) return {};
    if (!sandbox::is_alive(process)) return {};  // it ended, and its number was taken by another, before we opened it
    (void)linux::pidfd_send_signal(pidfd->get(), SIGKILL);
    pollfd wait = {pidfd->get(), POLLIN, 0};
    if (poll(&wait, 1, 10'000) <= 0) return Error(fmt::format("process {} does not end", process.pid()), EBUSY);
    return {};
}

// A sandbox that took addresses from a network namespace puts them back at its end, so where somebody else keeps that
// namespace it gets the time to end by itself. What does not answer is killed all the same.
void let_end(const Context& context, const Found& container) {
    const sandbox::v1::HostProcess& host = container.record.sandbox_host();
    if (!sandbox::is_alive(host)) return;
    auto json = container.dir.load_config();
    if (!json.ok()) return;
    auto spec = oci::parse_config(*json);
    if (!spec.ok()) return;
    const oci::Namespace* network = spec->linux.find_namespace(oci::NamespaceType::kNetwork);
    if (network == nullptr || network->path.empty()) return;
    auto pidfd = linux::pidfd_open(host.pid());
    auto pod = sandbox::StateDir::open(context.root, container.record.pod(), sandbox::StateDir::Lock::kNone);
    if (!pidfd.ok() || !pod.ok()) return;
    // Of a thread of its own: a sandbox that is stopped never answers.
    std::thread([socket = pod->control_socket(), id = container.record.id()] {
        auto client = sandbox::ControlClient::connect(socket);
        if (!client.ok()) return;
        sandbox::v1::Request request;
        request.mutable_signal()->set_container(id);
        request.mutable_signal()->set_signal(SIGKILL);
        request.mutable_signal()->set_all(true);
        (void)client->call(request);
    }).detach();
    pollfd wait = {pidfd->get(), POLLIN, 0};
    (void)poll(&wait, 1, 2'000);
}

void run_poststop(const Found& container) {
    auto json = container.dir.load_config();
    if (!json.ok() || json->find("\"poststop\"") == std::string::npos) return;
    auto spec = oci::parse_config(*json);
    if (!spec.ok() || spec->hooks.poststop.empty()) return;
    oci::State state = sandbox::state_of(container.record);
    state.status = oci::ContainerStatus::kStopped;
    state.pid = 0;
    (void)oci::run_hooks(oci::HookKind::kPoststop, spec->hooks, oci::state_to_json(state));
}

}  // namespace

Result<void> remove_container(const Context& context, Found container, bool force) {
    bool first = container.record.pod() == container.record.id();
    bool stopped = container.status == oci::ContainerStatus::kStopped;
    // Runtime-spec, "Delete": a container that is not stopped, a created one too, is left as it is.
    if (!stopped && !force)
        return Error(fmt::format("cannot delete container {} that is not stopped: {}", container.record.id(),
                                 oci::status_name(container.status)),
                     EBUSY);
    if (!first && sandbox::is_alive(container.record.sandbox_host())) {
        sandbox::v1::Request request;
        request.mutable_delete_()->set_container(container.record.id());
        request.mutable_delete_()->set_force(true);
        auto pod = sandbox::StateDir::open(context.root, container.record.pod(), sandbox::StateDir::Lock::kNone);
        if (pod.ok()) {
            auto client = sandbox::ControlClient::connect(pod->control_socket());
            if (client.ok()) {
                auto done = client->call(request);
                if (!done.ok() && done.error().code() != ENOENT) log::warning("{}", done.error().message());
            }
        }
    }
    if (first) {
        let_end(context, container);
        TRY(kill_process(container.record.sandbox_host()));
    }
    TRY(kill_process(container.record.process()));
    if (auto cgroup = sandbox::open_cgroup(container.record)) {
        TRY(cgroup->kill_all());
        TRY(cgroup->destroy());
    }
    Found kept = std::move(container);
    run_poststop(kept);
    return kept.dir.remove();
}

}  // namespace casemate::cli
