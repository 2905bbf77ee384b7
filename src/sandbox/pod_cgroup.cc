#include "sandbox/pod_cgroup.h"

#include "host/namespaces.h"

namespace casemate::sandbox {
namespace {

// The guest kernel holds the pod's programs to their limit by itself, and kills by its own choice. The host's limit is
// for what is beside their memory as well: the helpers' heaps, page tables, cached host files. It lies higher by what
// those may take, so that the host's killer, which would take the whole pod, does not come first.
constexpr int64_t kOverhead = int64_t{48} << 20;
// Likewise with tasks: each of the guest's has a thread here and one in the guest kernel, each of its processes one
// more for its maps; and these are the helpers' own.
constexpr int64_t kTasksOfOne = 3, kOwnTasks = 128;

}  // namespace

oci::Resources with_overhead(oci::Resources resources) {
    auto raise = [](std::optional<int64_t>& limit, int64_t by) {
        if (limit && *limit > 0 && *limit < INT64_MAX - by) *limit += by;
    };
    int64_t by = kOverhead + (resources.memory.limit && *resources.memory.limit > 0 ? *resources.memory.limit / 8 : 0);
    raise(resources.memory.limit, by);
    raise(resources.memory.swap, by);
    std::optional<int64_t>& tasks = resources.pids_limit;
    if (tasks && *tasks > 0 && *tasks < (INT64_MAX - kOwnTasks) / kTasksOfOne) tasks = *tasks * kTasksOfOne + kOwnTasks;
    return resources;
}

Result<std::unique_ptr<host::Cgroup>> create_cgroup(const oci::Spec& spec, const LaunchOptions& options,
                                                    pid_t first_process) {
    host::CgroupMounts mounts = TRY(host::CgroupMounts::discover());
    host::CgroupRequest request;
    request.path = spec.linux.cgroups_path;
    request.id = options.id;
    request.driver = options.systemd_cgroup ? host::CgroupDriver::kSystemd : host::CgroupDriver::kCgroupfs;
    request.rootless = options.rootless;
    request.first_process = first_process;
    auto cgroup = TRY(host::Cgroup::create(mounts, request));
    if (spec.linux.resources) {
        auto applied = cgroup->apply(with_overhead(*spec.linux.resources), false);
        if (!applied.ok()) {
            (void)cgroup->destroy();
            return applied.take_error();
        }
    }
    return cgroup;
}

Result<void> apply_device_rules(host::Cgroup& cgroup, const oci::Spec& spec) {
    if (!spec.linux.resources || host::is_rootless()) return {};
    return cgroup.apply_devices(spec.linux.resources->devices);
}

std::unique_ptr<host::Cgroup> open_cgroup(const v1::Record& record) {
    if (!record.has_cgroup()) return nullptr;
    host::CgroupRecord stored;
    for (const auto& [controller, path] : record.cgroup().paths()) stored.paths.emplace(controller, path);
    stored.systemd_unit = record.cgroup().systemd_unit();
    stored.systemd_user = record.cgroup().systemd_user();
    return host::Cgroup::open(stored);
}

void save_cgroup(const host::Cgroup& cgroup, v1::Record& record) {
    v1::Cgroup& stored = *record.mutable_cgroup();
    for (const auto& [controller, path] : cgroup.record().paths) (*stored.mutable_paths())[controller] = path;
    stored.set_systemd_unit(cgroup.record().systemd_unit);
    stored.set_systemd_user(cgroup.record().systemd_user);
}

void CgroupMove::start(host::Cgroup& cgroup, std::vector<pid_t> processes) {
    thread_ = std::thread([this, &cgroup, processes = std::move(processes)] {
        for (pid_t pid : processes) {
            auto done = cgroup.add_process(pid);
            if (done.ok()) continue;
            result_ = done.take_error();
            return;
        }
    });
}

Result<void> CgroupMove::finish() {
    if (thread_.joinable()) thread_.join();
    return std::move(result_);
}

}  // namespace casemate::sandbox
