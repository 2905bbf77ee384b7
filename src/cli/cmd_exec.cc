// exec: one more process in a container.
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/container.h"
#include "cli/process_json.h"
#include "linux/file.h"
#include "linux/process.h"
#include "oci/config_parser.h"
#include "oci/engine_support.h"
#include "sandbox/engine_capabilities.h"
#include "sandbox/join.h"
#include "sandbox/pod_cgroup.h"
#include "sandbox/terminal.h"

namespace casemate::cli {

namespace {

constexpr int kExecFailed = 255;  // as runc's

// Passes signals and sizes of the terminal on until the process has ended.
Result<int> wait_for_exec(sandbox::ControlClient& client, int terminal) {
    sigset_t set = hold_passed_signals();
    UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals) return sys_error("signalfd");
    pollfd polled[] = {{client.fd(), POLLIN, 0}, {signals.get(), POLLIN, 0}};
    for (;;) {
        if (poll(polled, 2, -1) < 0 && errno != EINTR) return sys_error("poll");
        signalfd_siginfo info;
        while (read(signals.get(), &info, sizeof info) == sizeof info) {
            sandbox::v1::Request message;
            if (info.ssi_signo == SIGWINCH) {
                auto size = terminal >= 0 ? sandbox::terminal_size(terminal) : std::nullopt;
                if (!size) continue;
                message.mutable_resize()->set_rows(size->rows);
                message.mutable_resize()->set_columns(size->columns);
            } else {
                message.mutable_signal()->set_signal(info.ssi_signo);
            }
            (void)client.send(message);
        }
        if (polled[0].revents == 0) continue;
        auto reply = client.next_reply();
        // The sandbox ends with its first container, and the process with it.
        return reply.ok() ? reply->exit_code() : 128 + SIGKILL;
    }
}

Result<int> exec(Context& context, const Arguments& arguments) {
    const auto& words = arguments.positional();
    if (arguments.has("process-label")) return Error("--process-label: a guest kernel has no SELinux", ENOTSUP);
    if (arguments.has("apparmor")) return Error("--apparmor: a guest kernel has no AppArmor", ENOTSUP);
    if (arguments.has("cgroup"))
        return Error("--cgroup: processes of a sandbox share the pod's cgroup; a sub-cgroup cannot hold one of them",
                     ENOTSUP);
    Found container = TRY(find_container(context, words[0], false));
    if (container.status == oci::ContainerStatus::kStopped) return Error("cannot exec in a stopped container", ESRCH);

    ProcessChanges changes;
    changes.args.assign(words.begin() + 1, words.end());
    changes.env = arguments.values("env");
    changes.cwd = arguments.value("cwd");
    changes.user = arguments.value("user");
    changes.additional_gids = arguments.values("additional-gids");
    changes.capabilities = arguments.values("cap");
    changes.terminal = arguments.has("tty");
    changes.no_new_privileges = arguments.has("no-new-privs");
    std::string process_json;
    if (arguments.has("process")) {
        std::string path(arguments.value("process"));
        auto text = linux::read_file(path, 4 << 20);
        if (!text.ok()) return sys_error("read " + path, text.error().value);
        process_json = TRY(change_process(*text, changes));
    } else {
        if (changes.args.empty()) return Error("exec needs a command, or --process", EINVAL);
        process_json = TRY(process_of_config(TRY(container.dir.load_config()), changes));
    }
    oci::ParseNotes notes;
    oci::Process process = TRY(oci::parse_process(process_json, notes));
    TRY(oci::refuse_unsupported(process, sandbox::engine_capabilities(TRY(sandbox::choose_engine(*context.config)))));

    bool detach = arguments.has("detach");
    StreamRequest request;
    request.terminal = process.terminal;
    request.detach = detach;
    request.console_socket = arguments.value("console-socket");
    if (arguments.has("preserve-fds"))
        request.preserve_fds = static_cast<int>(TRY(parse_number(arguments.value("preserve-fds"), "preserve-fds")));
    CommandStreams streams = TRY(open_streams(request, process.console_size));

    sandbox::v1::Request message;
    sandbox::v1::Exec& message_exec = *message.mutable_exec();
    message_exec.set_container(container.record.id());
    message_exec.set_process(process_json);
    message_exec.set_ignore_paused(arguments.has("ignore-paused"));
    message_exec.set_wait(!detach);
    std::vector<int> fds;
    sandbox::describe_streams(streams.streams, *message_exec.mutable_streams(), fds);

    // A detached process has an anchor, which is what its supervisor waits for.
    sandbox::AnchorProcess anchor;
    if (detach) {
        anchor =
            TRY(sandbox::start_anchor(context.config->libexec, streams.own_pty ? streams.streams.console.get() : -1));
        fds.push_back(anchor.host_end.get());
        message_exec.set_anchor(static_cast<uint32_t>(fds.size()));
        if (auto cgroup = sandbox::open_cgroup(container.record)) {
            auto moved = cgroup->add_process(anchor.pid);
            if (!moved.ok()) log::warning("{}", moved.error().message());
        }
    }
    auto run = [&]() -> Result<int> {
        auto client = TRY(connect_to_pod(context, container));
        std::optional<sandbox::RawTerminal> raw;
        if (streams.callers_terminal) raw.emplace(TRY(sandbox::RawTerminal::create(streams.streams.console.get())));
        TRY(client.call(message, fds));
        TRY(write_pid_file(arguments.value("pid-file"), detach ? anchor.pid : getpid()));
        if (detach) return 0;
        int terminal = streams.callers_terminal ? streams.streams.console.get() : -1;
        streams.streams.in.reset();
        streams.streams.out.reset();
        streams.streams.err.reset();
        return wait_for_exec(client, terminal);
    };
    auto result = run();
    if (!result.ok() && detach) linux::kill_and_reap(anchor.pidfd.get());
    return result;
}

}  // namespace

int exec_command(Context& context, const Arguments& arguments) {
    auto code = exec(context, arguments);
    if (code.ok()) return *code;
    return fail(code.take_error().with_context("exec failed"), kExecFailed);
}

}  // namespace casemate::cli
