#include "sandbox/engine_capabilities.h"

#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>

namespace casemate::sandbox {

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
    engine.time_offsets = true;

    engine.read_only_root = true;
    engine.masked_paths = true;
    engine.readonly_paths = true;
    engine.filesystem_types = {"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2"};
    engine.mount_flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS | MS_REMOUNT | MS_DIRSYNC |
                         MS_NOATIME | MS_NODIRATIME | MS_BIND | MS_REC | MS_RELATIME | MS_STRICTATIME | MS_SILENT |
                         MS_PRIVATE | MS_SLAVE | MS_LAZYTIME;
    engine.recursive_mount_attributes = true;
    engine.mount_propagation_slave = true;
    engine.tmpcopyup = true;
    // Those that every container has, and the ones the guest kernel answers for itself.
    engine.devices = {{'c', 1, 3}, {'c', 1, 5}, {'c', 1, 7}, {'c', 1, 8},
                      {'c', 1, 9}, {'c', 5, 0}, {'c', 5, 1}, {'c', 5, 2}};

    engine.sysctls = {"kernel.", "fs.mqueue.", "net."};
    engine.hostname = true;
    engine.domainname = true;
    engine.seccomp = true;
    engine.seccomp_actions = {oci::SeccompAction::kKillThread, oci::SeccompAction::kKillProcess,
                              oci::SeccompAction::kTrap,       oci::SeccompAction::kErrno,
                              oci::SeccompAction::kTrace,      oci::SeccompAction::kAllow,
                              oci::SeccompAction::kLog};
    engine.seccomp_flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    engine.hooks = {oci::HookKind::kPrestart, oci::HookKind::kCreateRuntime, oci::HookKind::kCreateContainer,
                    oci::HookKind::kPoststart, oci::HookKind::kPoststop};  // startContainer: not run inside yet
    return engine;
}

}  // namespace casemate::sandbox
