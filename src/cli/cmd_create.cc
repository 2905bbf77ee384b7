// create and run.
#include <fmt/core.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope_exit.h"
#include "cli/container.h"
#include "cli/process_json.h"
#include "oci/config_parser.h"
#include "oci/engine_support.h"
#include "oci/hooks.h"
#include "sandbox/engine_capabilities.h"
#include "sandbox/join.h"

namespace casemate::cli {

namespace {

struct Creation {
    bool run = false;
    bool detach = true;
};

host::IdMaps maps_of(const oci::Spec& spec) {
    host::IdMaps maps;
    for (const oci::IdMapping& m : spec.linux.uid_mappings) maps.uids.push_back({m.container_id, m.host_id, m.size});
    for (const oci::IdMapping& m : spec.linux.gid_mappings) maps.gids.push_back({m.container_id, m.host_id, m.size});
    return maps;
}

Result<int> make_container(Context& context, const Arguments& arguments, Creation creation) {
    std::string id(arguments.positional()[0]);
    TRY(oci::validate_container_id(id));
    std::string folder(arguments.value_or("bundle", "."));
    oci::Bundle bundle = TRY(oci::open_bundle(folder));
    if (geteuid() != 0) {
        // The maps of config.json are those of the user namespace that the whole pod lives in, which needs none in the
        // guest. What was opened before is in another mount namespace, whose mounts cannot be taken.
        TRY(ensure_root(maps_of(bundle.spec)));
        bundle = TRY(oci::open_bundle(folder));
        bundle.config = TRY(without_user_namespace(bundle.config));
        bundle.spec = TRY(oci::parse_config(bundle.config));
    }
    const oci::Spec& spec = bundle.spec;
    for (const std::string& warning : spec.notes.warnings) log::info("{}", warning);
    if (!spec.process) return Error("config.json: process: is missing; a container needs a program to start", EINVAL);
    sandbox::Config config = *context.config;
    for (const auto& [name, value] : spec.annotations) TRY(sandbox::apply_annotation(config, name, value));
    sandbox::EngineKind engine = TRY(sandbox::choose_engine(config));
    TRY(oci::refuse_unsupported(spec, sandbox::engine_capabilities(engine)));

    StreamRequest streams;
    streams.terminal = spec.process->terminal;
    streams.detach = creation.detach;
    streams.console_socket = arguments.value("console-socket");
    if (arguments.has("preserve-fds"))
        streams.preserve_fds = static_cast<int>(TRY(parse_number(arguments.value("preserve-fds"), "preserve-fds")));

    sandbox::StateDir dir = TRY(sandbox::StateDir::create(context.root, id));
    ScopeExit remove_dir([&] { (void)dir.remove(); });
    TRY(dir.save_config(bundle.config));
    CommandStreams command_streams = TRY(open_streams(streams, spec.process->console_size));
    std::optional<sandbox::RawTerminal> raw;

    auto pod = TRY(sandbox::pod_to_join(spec, id));
    sandbox::LaunchOptions launch;
    launch.id = id;
    launch.spec = &spec;
    launch.config_json = bundle.config;
    launch.bundle = bundle.path;
    launch.bundle_fd = bundle.directory.get();
    launch.root_fd = bundle.rootfs.get();
    launch.rootfs = bundle.rootfs_path;
    launch.config = &config;
    launch.systemd_cgroup = context.systemd_cgroup;
    launch.rootless = context.rootless;
    launch.own_terminal = command_streams.own_pty;
    launch.debug = context.debug || config.debug;
    launch.log_fd = context.log_fd;
    launch.start = creation.run;
    if (command_streams.callers_terminal)
        raw.emplace(TRY(sandbox::RawTerminal::create(command_streams.streams.console.get())));
    sigset_t signals{};
    if (!creation.detach) signals = hold_passed_signals();
    sandbox::Launched launched = pod ? TRY(sandbox::join_pod(launch, *pod, std::move(command_streams.streams), dir))
                                     : TRY(sandbox::launch_pod(launch, std::move(command_streams.streams), dir));
    remove_dir.dismiss();

    auto give_up = [&](Error error) -> Error {
        auto record = dir.load();
        if (record.ok()) {
            auto status = sandbox::real_status(*record);
            (void)remove_container(context, Found{std::move(dir), record.take_value(), status}, true);
        }
        return error;
    };
    auto written = write_pid_file(arguments.value("pid-file"), launched.pid);
    if (!written.ok()) return give_up(written.take_error());
    if (creation.run && !spec.hooks.poststart.empty()) {
        auto record = dir.load();
        if (record.ok())
            (void)oci::run_hooks(oci::HookKind::kPoststart, spec.hooks, oci::state_to_json(sandbox::state_of(*record)));
    }
    if (creation.detach) return 0;

    dir.unlock();
    int code = wait_and_forward(launched.pidfd.get(), signals);
    raw.reset();
    if (arguments.has("keep")) return code;
    auto container = find_container(context, id, true);
    if (!container.ok()) return code;  // somebody else deleted it
    TRY(remove_container(context, container.take_value(), true));
    return code;
}

}  // namespace

int create_command(Context& context, const Arguments& arguments) {
    auto made = make_container(context, arguments, {.run = false, .detach = true});
    return made.ok() ? *made : fail(made.error());
}

int run_command(Context& context, const Arguments& arguments) {
    auto made = make_container(context, arguments, {.run = true, .detach = arguments.has("detach")});
    return made.ok() ? *made : fail(made.error());
}

}  // namespace casemate::cli
