#include "oci/engine_support.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mount.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "oci/config_parser.h"
#include "oci/default_config.h"

namespace casemate::oci {
namespace {

using nlohmann::json;

// What the default config.json needs, and no more.
EngineCapabilities enough() {
    EngineCapabilities engine;
    engine.engine = "test";
    engine.terminal = true;
    engine.no_new_privileges = true;
    engine.rlimits = {RLIMIT_NOFILE};
    engine.new_namespaces = {NamespaceType::kPid, NamespaceType::kNetwork, NamespaceType::kIpc,
                             NamespaceType::kUts, NamespaceType::kMount,   NamespaceType::kCgroup};
    engine.inherited_namespaces = {NamespaceType::kUser, NamespaceType::kTime};
    engine.read_only_root = engine.masked_paths = engine.readonly_paths = engine.hostname = true;
    engine.filesystem_types = {"proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup"};
    engine.mount_flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_STRICTATIME | MS_RELATIME;
    return engine;
}

std::string verdict(const json& patch, const EngineCapabilities& engine) {
    json document = json::parse(default_config(false));
    document.merge_patch(patch);
    auto spec = parse_config(document.dump());
    if (!spec.ok()) return "bad test: " + spec.error().message();
    auto result = refuse_unsupported(*spec, engine);
    return result.ok() ? "accepted" : result.error().message();
}

TEST(EngineSupport, DefaultDocumentIsAccepted) { EXPECT_EQ(verdict(json::object(), enough()), "accepted"); }

TEST(EngineSupport, NothingAtAllIsPossibleAtFirst) {
    EngineCapabilities none;
    none.engine = "none";
    EXPECT_EQ(verdict(json::object(), none), "process.terminal: a terminal is not supported by the engine none");
}

TEST(EngineSupport, EachFieldIsRefusedByName) {
    struct Case {
        const char* patch;
        const char* error;
    };
    const Case cases[] = {
        {R"({"process": {"apparmorProfile": "p"}})", "process.apparmorProfile: AppArmor"},
        {R"({"process": {"selinuxLabel": "p"}})", "process.selinuxLabel: SELinux"},
        {R"({"process": {"oomScoreAdj": 0}})", "process.oomScoreAdj: an OOM score"},
        {R"({"process": {"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1}}})", "process.ioPriority: an I/O"},
        {R"({"process": {"scheduler": {"policy": "SCHED_IDLE"}}})", "process.scheduler.policy: SCHED_IDLE"},
        {R"({"process": {"execCPUAffinity": {"initial": "0"}}})", "process.execCPUAffinity: a CPU affinity"},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_RTTIME", "soft": 1, "hard": 1}]}})",
         "process.rlimits[0]: RLIMIT_RTTIME"},
        {R"({"domainname": "d"})", "domainname: a domain name"},
        {R"({"mounts": [{"destination": "/a", "type": "ext4", "source": "/dev/sda"}]})",
         "mounts[0].type: the file system type \"ext4\""},
        {R"({"mounts": [{"destination": "/a", "type": "tmpfs", "options": ["ro", "dirsync"]}]})",
         "mounts[0].options[1]: the mount option \"dirsync\""},
        {R"({"mounts": [{"destination": "/a", "type": "tmpfs", "options": ["rro"]}]})",
         "mounts[0].options: a recursive mount option"},
        {R"({"mounts": [{"destination": "/a", "type": "tmpfs", "options": ["tmpcopyup"]}]})",
         "mounts[0].options: the mount option \"tmpcopyup\""},
        {R"({"mounts": [{"destination": "/a", "source": "/a", "options": ["rbind", "rshared"]}]})",
         "mounts[0].options: mount propagation to the host"},
        {R"({"mounts": [{"destination": "/a", "source": "/a", "options": ["rbind", "slave"]}]})",
         "mounts[0].options: mount propagation from the host"},
        {R"({"mounts": [{"destination": "/a", "source": "/a", "options": ["bind", "idmap"],
             "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
             "gidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]})",
         "mounts[0]: an id-mapped mount"},
        {R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "uts"}, {"type": "mount"}]}})",
         "linux.namespaces: the host's cgroup namespace (the list has no \"cgroup\")"},
        {R"({"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "uts"}]}})",
         "linux.namespaces[0].path: joining a pid namespace"},
        {R"({"linux": {"namespaces": [{"type": "user"}, {"type": "uts"}]}})",
         "linux.namespaces[0]: a new user namespace"},
        {R"({"linux": {"devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}})",
         "linux.devices[0]: the device /dev/fuse (c 10:229)"},
        {R"({"linux": {"rootfsPropagation": "shared"}})", "linux.rootfsPropagation: mount propagation to the host"},
        {R"({"linux": {"rootfsPropagation": "unbindable"}})", "linux.rootfsPropagation: an unbindable mount"},
        {R"({"linux": {"sysctl": {"vm.swappiness": "1"}}})", "linux.sysctl: the kernel parameter \"vm.swappiness\""},
        {R"({"linux": {"personality": {"domain": "LINUX32"}}})", "linux.personality.domain: LINUX32"},
        {R"({"linux": {"intelRdt": {}}})", "linux.intelRdt: Intel RDT"},
        {R"({"linux": {"mountLabel": "l"}})", "linux.mountLabel: SELinux"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}})", "linux.seccomp: a system call filter"},
        {R"({"hooks": {"startContainer": [{"path": "/x"}]}})", "hooks.startContainer: this kind of hook"},
    };
    for (const Case& c : cases)
        EXPECT_EQ(verdict(json::parse(c.patch), enough()).find(c.error), 0u)
            << c.patch << "\n  says: " << verdict(json::parse(c.patch), enough());
}

TEST(EngineSupport, HarmlessValuesAreAccepted) {
    for (const char* patch : {
             R"({"process": {"apparmorProfile": "unconfined"}})",
             R"({"linux": {"personality": {"domain": "LINUX"}}})",
             R"({"linux": {"rootfsPropagation": "rprivate"}})",
             R"({"linux": {"devices": [{"path": "/dev/p", "type": "p"}]}})",
             // privileged: every device of the host
             R"({"linux": {"resources": {"devices": [{"allow": true, "access": "rwm"}]},
                 "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}})",
             R"({"mounts": [{"destination": "/a", "source": "/a", "options": ["rbind", "rprivate", "rw"]}]})",
         })
        EXPECT_EQ(verdict(json::parse(patch), enough()), "accepted") << patch;
}

TEST(EngineSupport, SeccompActionsAndFlags) {
    EngineCapabilities engine = enough();
    engine.seccomp = true;
    engine.seccomp_actions = {SeccompAction::kAllow, SeccompAction::kErrno};
    json patch = json::parse(R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["a"], "action": "SCMP_ACT_ERRNO"}]}}})");
    EXPECT_EQ(verdict(patch, engine), "accepted");
    patch["linux"]["seccomp"]["flags"] = {"SECCOMP_FILTER_FLAG_LOG"};
    EXPECT_EQ(verdict(patch, engine),
              "linux.seccomp.flags: SECCOMP_FILTER_FLAG_LOG is not supported by the engine test");
    patch["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_TRACE";
    EXPECT_EQ(verdict(patch, engine),
              "linux.seccomp.syscalls[0].action: SCMP_ACT_TRACE is not supported by the engine test");
}

TEST(EngineSupport, SysctlPrefixesAndDevices) {
    EngineCapabilities engine = enough();
    engine.sysctls = {"net.ipv4.", "kernel.shmmax"};
    engine.devices = {{'c', 10, 229}};
    EXPECT_EQ(verdict(json::parse(R"({"linux": {"sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1"},
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]}})"),
                      engine),
              "accepted");
    EXPECT_EQ(verdict(json::parse(R"({"linux": {"sysctl": {"kernel.shmmaxx": "1"}}})"), engine).find("linux.sysctl"),
              0u);
}

TEST(EngineSupport, ProcessOfAnExec) {
    Process process;
    process.terminal = true;
    EXPECT_TRUE(refuse_unsupported(process, enough()).ok());
    process.selinux_label = "x";
    EXPECT_EQ(refuse_unsupported(process, enough()).error().code(), ENOTSUP);
}

}  // namespace
}  // namespace casemate::oci
