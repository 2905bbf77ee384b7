#include "sandbox/join.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "host/namespaces.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_socket.h"
#include "oci/config_parser.h"
#include "oci/hooks.h"
#include "sandbox/pod_cgroup.h"
#include "sandbox/prepare.h"

namespace casemate::sandbox {

namespace {

// type, sandbox id
constexpr const char* kAnnotations[][2] = {
    {"io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"},
    {"io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"},
};

}  // namespace

Result<std::optional<std::string>> pod_to_join(const oci::Spec& spec, const std::string& id) {
    for (auto [type_key, id_key] : kAnnotations) {
        auto type = spec.annotations.find(type_key);
        if (type == spec.annotations.end() || type->second == "sandbox") continue;
        if (type->second != "container")
            return Error(fmt::format("annotations.{}: is \"{}\", must be sandbox or container", type_key, type->second),
                         EINVAL);
        auto pod = spec.annotations.find(id_key);
        if (pod == spec.annotations.end())
            return Error(fmt::format("annotations.{}: is missing for a container of a pod", id_key), EINVAL);
        TRY(oci::validate_container_id(pod->second));
        if (pod->second != id) return std::optional(pod->second);
    }
    return std::optional<std::string>();
}

Result<AnchorProcess> start_anchor(const std::string& libexec, int terminal) {
    auto pair = linux::create_socket_pair(SOCK_SEQPACKET);
    if (!pair.ok()) return sys_error("socketpair", pair.error().value);
    std::string program = (libexec.empty() ? own_folder() : libexec) + "/casemate-anchor";
    UniqueFd executable(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
    if (!executable) return sys_error("open " + program);
    AnchorProcess anchor;
    anchor.pid = fork();
    if (anchor.pid < 0) return sys_error("fork an anchor process");
    if (anchor.pid == 0) {
        // Numbers above those that are to be filled, so that no dup2 hits another's source.
        int socket = fcntl(pair->second.get(), F_DUPFD, 10);
        int program_fd = fcntl(executable.get(), F_DUPFD_CLOEXEC, 10);
        int slave = terminal >= 0 ? fcntl(terminal, F_DUPFD, 10) : -1;
        dup2(socket, 3);
        if (slave >= 0) dup2(slave, 4);
        char name[] = "casemate-anchor", with[] = "terminal";
        char* argv[] = {name, slave >= 0 ? with : nullptr, nullptr};
        char* environment[] = {nullptr};
        fexecve(program_fd, argv, environment);
        _exit(127);
    }
    auto pidfd = linux::pidfd_open(anchor.pid);
    if (!pidfd.ok()) return sys_error("pidfd_open of an anchor process", pidfd.error().value);
    anchor.pidfd = std::move(*pidfd);
    anchor.host_end = std::move(pair->first);
    return anchor;
}

Result<Launched> join_pod(const LaunchOptions& options, const std::string& pod_id, StreamFds streams, StateDir& dir) {
    std::string root = dir.path().substr(0, dir.path().rfind('/'));
    auto pod_dir = StateDir::open(root, pod_id, StateDir::Lock::kNone);
    if (!pod_dir.ok()) return pod_dir.take_error().with_context("the pod that the annotations name");
    Record pod = TRY(pod_dir->load());
    if (real_status(pod) == oci::ContainerStatus::kStopped)
        return Error(fmt::format("the pod {} that the annotations name is not running", pod_id), ESRCH);
    std::string pod_config = TRY(pod_dir->load_config());
    oci::Spec pod_spec = TRY(oci::parse_config(pod_config));

    PrepareOptions prepare;
    prepare.container_id = options.id;
    prepare.config = options.config_json;
    prepare.bundle_fd = options.bundle_fd;
    prepare.root_fd = options.root_fd;
    prepare.layer = root_layer_of(*options.config);
    prepare.layer_size = options.config->root_overlay_size;
    prepare.pod = &pod_spec;
    prepare.pod_pid = pod.process().pid();
    prepare.pod_id = pod_id;
    PreparedContainer prepared = TRY(prepare_container(*options.spec, std::move(prepare)));

    AnchorProcess anchor =
        TRY(start_anchor(options.config->libexec, options.own_terminal ? streams.console.get() : -1));
    Record record;
    std::unique_ptr<host::Cgroup> cgroup;
    auto make = [&]() -> Result<void> {
        cgroup = TRY(create_cgroup(*options.spec, options, anchor.pid));
        save_cgroup(*cgroup, record);
        TRY(apply_device_rules(*cgroup, *options.spec));
        TRY(cgroup->add_process(anchor.pid));
        record.set_id(options.id);
        record.set_status(v1::STATUS_CREATING);
        record.set_bundle(options.bundle);
        record.set_rootfs(options.rootfs);
        timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        record.set_created_ns(int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec);
        record.set_owner(host::outer_uid());
        record.set_pod(pod_id);
        record.set_engine(pod.engine());
        record.set_terminal(streams.terminal);
        record.mutable_sandbox_host()->CopyFrom(pod.sandbox_host());
        record.mutable_process()->set_pid(anchor.pid);
        auto start = linux::process_start_time(anchor.pid);
        if (start.ok()) record.mutable_process()->set_start_time(*start);
        for (const auto& [key, value] : options.spec->annotations) (*record.mutable_annotations())[key] = value;
        TRY(dir.save(record));
        std::string state = oci::state_to_json(state_of(record));
        for (auto kind : {oci::HookKind::kPrestart, oci::HookKind::kCreateRuntime, oci::HookKind::kCreateContainer})
            TRY(oci::run_hooks(kind, options.spec->hooks, state));

        v1::Request request;
        v1::Join& join = *request.mutable_join();
        join.set_request(prepared.request.SerializeAsString());
        std::vector<int> fds;
        for (const HostTree& tree : prepared.trees) {
            v1::Tree& out = *join.add_trees();
            out.set_descriptor(static_cast<uint32_t>(fds.size()));
            out.set_read_only(tree.read_only);
            out.set_shared(tree.shared);
            fds.push_back(tree.mount.get());
        }
        if (prepared.store) {
            join.set_store(static_cast<uint32_t>(fds.size()) + 1);
            fds.push_back(prepared.store.get());
        }
        describe_streams(streams, *join.mutable_streams(), fds);
        join.set_anchor(static_cast<uint32_t>(fds.size()));
        fds.push_back(anchor.host_end.get());
        join.set_state_dir(dir.path());
        ControlClient client = TRY(ControlClient::connect(pod_dir->control_socket()));
        TRY(client.call(request, fds));
        if (options.start) {
            v1::Request start_request;
            start_request.mutable_start()->set_container(options.id);
            ControlClient second = TRY(ControlClient::connect(pod_dir->control_socket()));
            TRY(second.call(start_request));
        }
        return {};
    };
    auto made = make();
    if (!made.ok()) {
        linux::kill_and_reap(anchor.pidfd.get());
        if (cgroup != nullptr) (void)cgroup->destroy();
        return made.take_error();
    }
    Launched launched;
    launched.pid = anchor.pid;
    launched.pidfd = std::move(anchor.pidfd);
    return launched;
}

}  // namespace casemate::sandbox
