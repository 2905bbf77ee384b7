#include "sandbox/engine_capabilities.h"

#include <fmt/core.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

namespace casemate::sandbox {

namespace {

bool has_driver(const oci::DeviceNumber& number) {
    constexpr const char* kFolder = "/sys/dev";
    if (access(kFolder, F_OK) != 0) return true;
    std::string path =
        fmt::format("{}/{}/{}:{}", kFolder, number.type == 'b' ? "block" : "char", number.major, number.minor);
    return access(path.c_str(), F_OK) == 0;
}

}  // namespace

oci::EngineCapabilities engine_capabilities(EngineKind kind) {
    using enum oci::NamespaceType;
    oci::EngineCapabilities engine;
    engine.engine = engine_name(kind);
    engine.terminal = true;
    engine.no_new_privileges = true;
    engine.oom_score_adj = true;
    engine.io_priority = true;
    engine.scheduler_policies = {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE};
    for (int resource = 0; resource < RLIM_NLIMITS; ++resource) engine.rlimits.push_back(resource);

    engine.new_namespaces = {kPid, kNetwork, kMount, kIpc, kUts, kUser, kCgroup, kTime};
    engine.joinable_namespaces = {kPid, kNetwork, kIpc, kUts, kCgroup};  // prepare.cc says which paths
    engine.inherited_namespaces = {kPid, kMount, kIpc, kUts, kUser, kCgroup, kTime, kNetwork};
    engine.user_mappings = true;

    engine.read_only_root = true;
    engine.masked_paths = true;
    engine.readonly_paths = true;
    engine.filesystem_types = {"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2"};
    engine.mount_flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS | MS_REMOUNT | MS_DIRSYNC |
                         MS_NOATIME | MS_NODIRATIME | MS_BIND | MS_REC | MS_RELATIME | MS_STRICTATIME | MS_SILENT |
                         MS_PRIVATE | MS_SLAVE | MS_SHARED | MS_UNBINDABLE | MS_LAZYTIME;
    engine.recursive_mount_attributes = true;
    // Within the guest kernel. To the host nothing propagates: prepare.cc refuses a shared bind mount of a mount that
    // is shared on the host.
    engine.mount_propagation_shared = true;
    engine.mount_propagation_slave = true;
    engine.unbindable_mounts = true;
    engine.tmpcopyup = true;
    // Those that every container has, and the ones the guest kernel answers for itself.
    engine.devices = {{'c', 1, 3}, {'c', 1, 5}, {'c', 1, 7}, {'c', 1, 8},
                      {'c', 1, 9}, {'c', 5, 0}, {'c', 5, 1}, {'c', 5, 2}};
    engine.has_driver = has_driver;

    engine.sysctls = {"kernel.", "fs.mqueue.", "net."};
    engine.hostname = true;
    engine.domainname = true;
    engine.seccomp = true;
    engine.seccomp_actions = {oci::SeccompAction::kKillThread, oci::SeccompAction::kKillProcess,
                              oci::SeccompAction::kTrap,       oci::SeccompAction::kErrno,
                              oci::SeccompAction::kTrace,      oci::SeccompAction::kAllow,
                              oci::SeccompAction::kLog};
    engine.seccomp_flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    engine.hooks = {oci::HookKind::kPrestart,       oci::HookKind::kCreateRuntime, oci::HookKind::kCreateContainer,
                    oci::HookKind::kStartContainer, oci::HookKind::kPoststart,     oci::HookKind::kPoststop};
    return engine;
}

}  // namespace casemate::sandbox
