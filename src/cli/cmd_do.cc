// do: a command in a sandbox on the host's own files.
#include <fcntl.h>
#include <fmt/core.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope_exit.h"
#include "cli/container.h"
#include "cli/process_json.h"
#include "linux/file.h"
#include "oci/config_parser.h"
#include "sandbox/terminal.h"

extern char** environ;

namespace casemate::cli {

namespace {

Result<DoConfig::Volume> parse_volume(std::string_view text) {
    DoConfig::Volume volume;
    size_t colon = text.find(':');
    if (colon != std::string_view::npos) {
        volume.source = text.substr(0, colon);
        std::string_view rest = text.substr(colon + 1);
        size_t second = rest.find(':');
        volume.target = rest.substr(0, second);
        if (second != std::string_view::npos) {
            std::string_view mode = rest.substr(second + 1);
            if (mode != "ro" && mode != "rw") volume.target.clear();
            volume.read_only = mode == "ro";
        }
    }
    if (volume.source.empty() || !volume.target.starts_with('/'))
        return Error(fmt::format("option --volume: \"{}\" is not SRC:DST or SRC:DST:ro with an absolute DST", text),
                     EINVAL);
    char resolved[PATH_MAX];
    if (realpath(volume.source.c_str(), resolved) == nullptr) return sys_error("option --volume: " + volume.source);
    volume.source = resolved;
    return volume;
}

Result<uint32_t> parse_id(std::string_view text) {
    int64_t id = TRY(parse_number(text, "user"));
    if (id < 0 || id > UINT32_MAX) return Error(fmt::format("option --user: {} is not an id", text), EINVAL);
    return static_cast<uint32_t>(id);
}

// A command in the background must not touch the terminal's mode: it would be stopped.
bool in_foreground() {
    pid_t foreground = tcgetpgrp(STDIN_FILENO);
    return foreground < 0 || foreground == getpgrp();
}

// A `do` that is killed while its sandbox comes up leaves a folder that nobody will ever name again.
void remove_dead_leftovers(const Context& context) {
    for (const std::string& id : sandbox::list_containers(context.root)) {
        if (!id.starts_with("do-")) continue;
        pid_t command = atoi(id.c_str() + 3);
        auto stat = linux::read_file(fmt::format("/proc/{}/stat", command));
        if (command <= 0 || (stat.ok() && stat->find(") Z ") == std::string::npos)) continue;
        auto left = find_container(context, id, true);
        if (left.ok() && left->status == oci::ContainerStatus::kStopped)
            (void)remove_container(context, left.take_value(), true);
    }
}

Result<int> run_do(Context& context, const Arguments& arguments) {
    DoConfig config;
    config.args = arguments.positional();
    for (char** variable = environ; *variable != nullptr; ++variable) config.env.emplace_back(*variable);
    for (std::string_view variable : arguments.values("env")) {
        if (variable.find('=') == std::string_view::npos || variable.starts_with('='))
            return Error(fmt::format("option --env: \"{}\" is not NAME=VALUE", variable), EINVAL);
        config.env.emplace_back(variable);
    }
    char folder[PATH_MAX];
    if (arguments.has("cwd"))
        config.cwd = arguments.value("cwd");
    else if (getcwd(folder, sizeof folder) != nullptr)
        config.cwd = folder;
    else
        return sys_error("find the working folder");
    bool ordinary_user = geteuid() != 0;
    TRY(ensure_root());
    config.uid = geteuid();
    config.gid = getegid();
    if (arguments.has("user")) {
        std::string_view user = arguments.value("user");
        size_t colon = user.find(':');
        config.uid = config.gid = TRY(parse_id(user.substr(0, colon)));
        if (colon != std::string_view::npos) config.gid = TRY(parse_id(user.substr(colon + 1)));
    } else if (!ordinary_user) {  // whose further groups do not exist in the user namespace
        gid_t groups[NGROUPS_MAX];
        int count = getgroups(NGROUPS_MAX, groups);
        for (int i = 0; i < count; ++i) config.additional_gids.push_back(groups[i]);
    }
    for (std::string_view volume : arguments.values("volume")) config.volumes.push_back(TRY(parse_volume(volume)));
    if (arguments.has("memory")) {
        auto size = sandbox::parse_size(arguments.value("memory"));
        if (!size.ok()) return size.take_error().with_context("option --memory");
        config.memory = *size;
    }
    if (arguments.has("cpus")) {
        int64_t cpus = TRY(parse_number(arguments.value("cpus"), "cpus"));
        if (cpus < 1 || cpus > 4096) return Error("option --cpus: must be 1 to 4096", EINVAL);
        config.cpus = static_cast<uint32_t>(cpus);
    }
    std::string_view net = arguments.value_or("net", "none");
    if (net.starts_with('/'))
        config.network_path = net;
    else if (net == "host")
        config.host_network = true;
    else if (net != "none" && net != "sandbox")
        return Error(fmt::format("option --net: {}: must be none, sandbox, host or the path of a namespace", net),
                     EINVAL);
    sandbox::Config effective = *context.config;
    if (arguments.has("engine")) TRY(effective.set("engine", arguments.value("engine"), "--engine"));

    bool terminal = (isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0 && in_foreground());
    if (arguments.has("tty") && !terminal)
        return Error("option --tty: standard input and output are no terminal, or another process has it", ENOTTY);
    config.terminal = terminal;
    char host[HOST_NAME_MAX + 1] = "";
    gethostname(host, sizeof host);
    config.hostname = host;

    std::string json = do_config(config);
    oci::Spec spec = TRY(oci::parse_config(json));
    std::string id = fmt::format("do-{}", getpid());
    remove_dead_leftovers(context);
    sandbox::StateDir dir = TRY(sandbox::StateDir::create(context.root, id));
    ScopeExit remove_dir([&] { (void)dir.remove(); });
    TRY(dir.save_config(json));

    StreamRequest request;
    request.terminal = terminal;
    CommandStreams streams = TRY(open_streams(request, std::nullopt));
    std::optional<sandbox::RawTerminal> raw;
    UniqueFd console;
    if (terminal) {
        console.reset(fcntl(streams.streams.console.get(), F_DUPFD_CLOEXEC, 3));
        raw.emplace(TRY(sandbox::RawTerminal::create(console.get())));
    }

    sandbox::LaunchOptions launch;
    launch.id = id;
    launch.spec = &spec;
    launch.config_json = json;
    launch.bundle = "/";
    launch.host_root = true;
    launch.rootfs = "/";
    launch.config = &effective;
    launch.no_cgroup = true;
    launch.debug = context.debug || effective.debug;
    launch.log_fd = context.log_fd;
    launch.start = true;
    launch.remove_at_end = true;
    launch.leash = true;
    sigset_t signals = hold_passed_signals();
    auto launched = TRY(sandbox::launch_pod(launch, std::move(streams.streams), dir));
    remove_dir.dismiss();
    dir.unlock();
    return wait_and_forward(launched.pidfd.get(), signals);
}

}  // namespace

int do_command(Context& context, const Arguments& arguments) {
    auto code = run_do(context, arguments);
    if (code.ok()) return *code;
    // As a shell: 127 for a command that is not there, 126 for one that cannot be executed.
    if (code.error().message().find("executable file not found") != std::string::npos) return fail(code.error(), 127);
    return fail(code.error());
}

}  // namespace casemate::cli
