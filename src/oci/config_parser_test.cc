#include "oci/config_parser.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <linux/sched.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>

#include "oci/json_node.h"

namespace casemate::oci {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

const char* kMinimal = R"({
    "ociVersion": "1.2.0",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]}
})";

// The minimal document with a JSON merge patch (RFC 7386) applied: null removes a member.
std::string patched(std::string_view patch) {
    json document = json::parse(kMinimal);
    document.merge_patch(json::parse(patch));
    return document.dump();
}

std::string error_of(std::string_view text) {
    auto spec = parse_config(text);
    return spec.ok() ? "accepted" : spec.error().message();
}

Spec parsed(std::string_view patch) {
    auto spec = parse_config(patched(patch));
    EXPECT_TRUE(spec.ok()) << (spec.ok() ? "" : spec.error().message());
    return spec.ok() ? spec.take_value() : Spec();
}

TEST(ConfigParser, MinimalDocument) {
    Spec spec = parsed("{}");
    EXPECT_EQ(spec.oci_version, "1.2.0");
    ASSERT_TRUE(spec.process);
    EXPECT_THAT(spec.process->args, ElementsAre("sh"));
    EXPECT_EQ(spec.root.path, "rootfs");
    EXPECT_FALSE(spec.root.readonly);
    EXPECT_EQ(spec.linux.namespaces.size(), 2u);
    EXPECT_NE(spec.linux.find_namespace(NamespaceType::kPid), nullptr);
    EXPECT_EQ(spec.linux.find_namespace(NamespaceType::kUser), nullptr);
    EXPECT_TRUE(spec.notes.warnings.empty());
    EXPECT_TRUE(spec.notes.unknown_fields.empty());
}

TEST(ConfigParser, WholeProcess) {
    Spec spec = parsed(R"({"process": {
        "terminal": true, "consoleSize": {"height": 25, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 63, "additionalGids": [5, 4294967295]},
        "args": ["sh", "", "-c"], "env": ["A=1", "B=2", "A=3", "EMPTY="], "cwd": "/root",
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "CAP_FLY"], "ambient": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}],
        "noNewPrivileges": true, "oomScoreAdj": -1000,
        "scheduler": {"policy": "SCHED_FIFO", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 7},
        "execCPUAffinity": {"initial": "7", "final": "0-3,7"},
        "apparmorProfile": "acme", "selinuxLabel": "system_u:system_r:svirt_lxc_net_t:s0:c124,c675"}})");
    const Process& process = *spec.process;
    EXPECT_TRUE(process.terminal);
    EXPECT_EQ(process.console_size->height, 25);
    EXPECT_EQ(process.console_size->width, 80);
    EXPECT_EQ(process.user.uid, 1u);
    EXPECT_EQ(process.user.gid, 2u);
    EXPECT_EQ(process.user.umask, 077u);
    EXPECT_THAT(process.user.additional_gids, ElementsAre(5, 4294967295));
    EXPECT_THAT(process.args, ElementsAre("sh", "", "-c"));
    EXPECT_THAT(process.env, ElementsAre("A=3", "B=2", "EMPTY="));
    EXPECT_EQ(process.capabilities->bounding, 1ULL << CAP_CHOWN | 1ULL << CAP_CHECKPOINT_RESTORE);
    EXPECT_EQ(process.capabilities->ambient, 1ULL << CAP_KILL);
    EXPECT_THAT(
        spec.notes.warnings,
        ElementsAre("process.capabilities.bounding[2]: \"CAP_FLY\" is a capability unknown here, and is not granted"));
    ASSERT_EQ(process.rlimits.size(), 1u);
    EXPECT_EQ(process.rlimits[0].resource, RLIMIT_NOFILE);
    EXPECT_EQ(process.rlimits[0].soft, 10u);
    EXPECT_EQ(process.rlimits[0].hard, UINT64_MAX);
    EXPECT_TRUE(process.no_new_privileges);
    EXPECT_EQ(process.oom_score_adj, -1000);
    EXPECT_EQ(process.scheduler->policy, static_cast<uint32_t>(SCHED_FIFO));
    EXPECT_EQ(process.scheduler->priority, 99);
    EXPECT_EQ(process.scheduler->flags, static_cast<uint64_t>(SCHED_FLAG_RESET_ON_FORK));
    EXPECT_EQ(process.io_priority->io_class, IoPriorityClass::kIdle);
    EXPECT_EQ(process.exec_cpu_affinity->final, "0-3,7");
    EXPECT_EQ(process.apparmor_profile, "acme");
}

TEST(ConfigParser, ConsoleSizeIsIgnoredWithoutTerminal) {
    EXPECT_FALSE(parsed(R"({"process": {"consoleSize": {"height": 25, "width": 80}}})").process->console_size);
}

TEST(ConfigParser, ProcessMayBeMissing) { EXPECT_FALSE(parsed(R"({"process": null})").process); }

TEST(ConfigParser, NullCountsAsAbsent) {
    Spec spec = parsed("{}");
    json document = json::parse(kMinimal);
    document["mounts"] = nullptr;
    document["linux"]["resources"] = nullptr;
    document["process"]["rlimits"] = nullptr;
    document["annotations"] = nullptr;
    EXPECT_TRUE(parse_config(document.dump()).ok()) << error_of(document.dump());
}

TEST(ConfigParser, Mounts) {
    Spec spec = parsed(R"({"mounts": [
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
        {"destination": "data", "type": "bind", "source": "/volumes/x", "options": ["ro"]},
        {"destination": "/m", "type": "none", "source": "rel", "options": ["rbind", "rslave", "ridmap"],
         "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
         "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}]})");
    ASSERT_EQ(spec.mounts.size(), 3u);
    EXPECT_EQ(spec.mounts[0].parsed.data, "mode=755,size=64k");
    EXPECT_EQ(spec.mounts[0].parsed.flags, static_cast<uint64_t>(MS_NOSUID));
    EXPECT_FALSE(spec.mounts[0].parsed.is_bind());
    EXPECT_EQ(spec.mounts[1].destination, "/data");
    EXPECT_TRUE(spec.mounts[1].parsed.is_bind());
    EXPECT_TRUE(spec.mounts[1].parsed.is_read_only());
    EXPECT_EQ(spec.mounts[2].parsed.flags, static_cast<uint64_t>(MS_BIND | MS_REC));
    EXPECT_THAT(spec.mounts[2].parsed.propagation, ElementsAre(MS_SLAVE | MS_REC));
    EXPECT_EQ(spec.mounts[2].parsed.idmap, IdmapScope::kRecursive);
    EXPECT_EQ(spec.mounts[2].uid_mappings[0].host_id, 1000u);
}

TEST(ConfigParser, IdmapTakesTheContainersMapping) {
    Spec spec = parsed(R"({"mounts": [{"destination": "/m", "source": "/s", "options": ["bind", "idmap"]}],
        "linux": {"namespaces": [{"type": "user"}],
                  "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                  "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]}})");
    EXPECT_EQ(spec.mounts[0].parsed.idmap, IdmapScope::kMount);
}

TEST(ConfigParser, Hooks) {
    Spec spec = parsed(R"({"hooks": {
        "prestart": [{"path": "/a", "args": ["a", "b"], "env": ["X=1"], "timeout": 5}],
        "createRuntime": [{"path": "/b"}], "createContainer": [{"path": "/c"}], "startContainer": [{"path": "/d"}],
        "poststart": [{"path": "/e"}], "poststop": [{"path": "/f"}, {"path": "/g"}]}})");
    EXPECT_EQ(spec.hooks.prestart[0].path, "/a");
    EXPECT_EQ(spec.hooks.prestart[0].timeout, 5u);
    EXPECT_FALSE(spec.hooks.create_runtime[0].timeout);
    EXPECT_EQ(spec.hooks.create_container[0].path, "/c");
    EXPECT_EQ(spec.hooks.start_container[0].path, "/d");
    EXPECT_EQ(spec.hooks.poststart[0].path, "/e");
    EXPECT_EQ(spec.hooks.poststop[1].path, "/g");
}

TEST(ConfigParser, Resources) {
    Spec spec = parsed(R"({"linux": {"cgroupsPath": "/a/b", "resources": {
        "devices": [{"allow": false}, {"allow": true, "type": "c", "major": 10, "minor": -1, "access": "rw"}],
        "memory": {"limit": 536870912, "reservation": 1, "swap": -1, "kernel": -1, "kernelTCP": -1, "swappiness": 0,
                   "disableOOMKiller": false, "useHierarchy": true, "checkBeforeUpdate": true},
        "cpu": {"shares": 1024, "quota": 1000000, "burst": 1000000, "period": 500000, "realtimeRuntime": 950000,
                "realtimePeriod": 1000000, "cpus": "2-3", "mems": "0-7", "idle": 1},
        "pids": {"limit": 32771},
        "blockIO": {"weight": 10, "leafWeight": 11, "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                    "throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 1}],
                    "throttleWriteBpsDevice": [{"major": 8, "minor": 2, "rate": 2}],
                    "throttleReadIOPSDevice": [{"major": 8, "minor": 3, "rate": 3}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 4, "rate": 18446744073709551615}]},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 9223372036854772000}, {"pageSize": "64KB", "limit": 1}],
        "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
        "rdma": {"mlx5_1": {"hcaHandles": 3}},
        "unified": {"memory.high": "1", "hugetlb.1GB.max": "2"}}}})");
    const Resources& resources = *spec.linux.resources;
    EXPECT_EQ(spec.linux.cgroups_path, "/a/b");
    ASSERT_EQ(resources.devices.size(), 2u);
    EXPECT_EQ(resources.devices[0].type, 'a');
    EXPECT_EQ(resources.devices[0].access, "rwm");
    EXPECT_EQ(resources.devices[1].major, 10u);
    EXPECT_FALSE(resources.devices[1].minor);
    EXPECT_EQ(resources.memory.limit, 536870912);
    EXPECT_EQ(resources.memory.swap, -1);
    EXPECT_EQ(resources.memory.disable_oom_killer, false);
    EXPECT_EQ(resources.memory.check_before_update, true);
    EXPECT_EQ(resources.cpu.burst, 1000000u);
    EXPECT_EQ(resources.cpu.idle, 1);
    EXPECT_EQ(resources.cpu.cpus, "2-3");
    EXPECT_EQ(resources.pids_limit, 32771);
    EXPECT_EQ(resources.block_io.weight_device[0].weight, 500);
    EXPECT_EQ(resources.block_io.throttle_write_iops[0].rate, UINT64_MAX);
    EXPECT_EQ(resources.block_io.throttle_read_bps[0].minor, 1u);
    EXPECT_EQ(resources.hugepage_limits[0].page_size, "2MB");
    EXPECT_EQ(resources.network.class_id, 1048577u);
    EXPECT_EQ(resources.network.priorities[0].name, "eth0");
    EXPECT_EQ(resources.rdma.at("mlx5_1").hca_handles, 3u);
    EXPECT_EQ(resources.unified.at("memory.high"), "1");
}

TEST(ConfigParser, Seccomp) {
    Spec spec = parsed(R"({"linux": {"seccomp": {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "listenerPath": "/run/agent.sock", "listenerMetadata": "x",
        "syscalls": [
            {"names": ["getcwd", "chmod"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 5, "value": 18446744073709551615, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["mknod"], "action": "SCMP_ACT_NOTIFY"}, {"names": ["ptrace"], "action": "SCMP_ACT_KILL"}]}}})");
    const Seccomp& seccomp = *spec.linux.seccomp;
    EXPECT_EQ(seccomp.default_action, SeccompAction::kErrno);
    EXPECT_EQ(seccomp.default_errno_ret, 38);
    EXPECT_THAT(seccomp.architectures, ElementsAre("SCMP_ARCH_X86_64", "SCMP_ARCH_X32"));
    EXPECT_EQ(seccomp.flags, 2u | 4u);
    EXPECT_THAT(seccomp.syscalls[0].names, ElementsAre("getcwd", "chmod"));
    EXPECT_EQ(seccomp.syscalls[0].args[0].value, UINT64_MAX);
    EXPECT_EQ(seccomp.syscalls[0].args[0].op, SeccompOperator::kMaskedEqual);
    EXPECT_EQ(seccomp.syscalls[1].action, SeccompAction::kNotify);
    EXPECT_EQ(seccomp.syscalls[2].action, SeccompAction::kKillThread);
}

TEST(ConfigParser, RestOfLinux) {
    Spec spec = parsed(R"({"hostname": "h", "domainname": "d", "annotations": {"a.b": "", "org.opencontainers.x": "y"},
        "linux": {
        "namespaces": [{"type": "network", "path": "/run/netns/a"}, {"type": "uts"}, {"type": "user"}, {"type": "time"},
                       {"type": "ipc"}, {"type": "cgroup", "path": ""}],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}, {"containerID": 5, "hostID": 0, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 4294966296}],
        "devices": [{"path": "/dev/fuse", "type": "u", "major": 10, "minor": 229, "fileMode": 8630, "uid": 1, "gid": 2},
                    {"path": "/dev/p", "type": "p", "major": 8, "minor": 666}],
        "sysctl": {"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/forwarding": "0", "kernel.shmmax": "9",
                   "vm.overcommit_memory": "1"},
        "rootfsPropagation": "rslave", "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
        "mountLabel": "l", "personality": {"domain": "LINUX32", "flags": []},
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 999999999}, "boottime": {"secs": 1}},
        "intelRdt": {"closID": "g", "l3CacheSchema": "L3:0=7f0", "memBwSchema": "MB:0=20", "enableCMT": true}}})");
    const Linux& linux = spec.linux;
    EXPECT_EQ(linux.find_namespace(NamespaceType::kNetwork)->path, "/run/netns/a");
    EXPECT_EQ(linux.uid_mappings.size(), 2u);
    EXPECT_EQ(linux.devices[0].type, 'c');
    EXPECT_EQ(linux.devices[0].file_mode, 0666u);
    EXPECT_EQ(linux.devices[0].uid, 1u);
    EXPECT_EQ(linux.devices[1].major, 0u);
    EXPECT_EQ(linux.sysctl.at("net.ipv4.ip_forward"), "1");
    EXPECT_EQ(linux.sysctl.at("net.ipv4.conf.eth0/1.forwarding"), "0");
    EXPECT_EQ(linux.rootfs_propagation, static_cast<uint64_t>(MS_SLAVE | MS_REC));
    EXPECT_EQ(linux.personality, PersonalityDomain::kLinux32);
    EXPECT_EQ(linux.monotonic_offset->secs, -5);
    EXPECT_EQ(linux.boottime_offset->nanosecs, 0u);
    EXPECT_TRUE(linux.intel_rdt->enable_cmt);
    EXPECT_EQ(spec.annotations.at("a.b"), "");
}

TEST(ConfigParser, UnknownPropertiesAreListedNotRefused) {
    Spec spec = parsed(R"({"unknown": 1, "windows": {"x": []}, "process": {"nested": {"deep": []}},
                           "mounts": [{"destination": "/a", "type": "proc", "odd": null, "even": 0}]})");
    EXPECT_THAT(spec.notes.unknown_fields,
                testing::UnorderedElementsAre("unknown", "windows", "process.nested", "mounts[0].even"));
}

TEST(ConfigParser, NewerMinorVersionIsAWarning) {
    EXPECT_THAT(parsed(R"({"ociVersion": "1.4.0-rc.1+x"})").notes.warnings, ElementsAre(HasSubstr("newer")));
    EXPECT_TRUE(parsed(R"({"ociVersion": "1.0.2-dev"})").notes.warnings.empty());
}

struct Bad {
    const char* patch;
    const char* error;  // behind "config.json: "
};

TEST(ConfigParser, BadFieldsAreNamed) {
    const Bad cases[] = {
        {R"({"ociVersion": null})", "ociVersion: is missing"},
        {R"({"ociVersion": "invalid"})", "ociVersion: is \"invalid\", must be a version as in SemVer 2.0.0"},
        {R"({"ociVersion": "1.0"})", "ociVersion: is \"1.0\", must be a version as"},
        {R"({"ociVersion": "1.02.0"})", "ociVersion: is \"1.02.0\", must be"},
        {R"({"ociVersion": "1.0.0-"})", "ociVersion: is \"1.0.0-\", must be"},
        {R"({"ociVersion": "2.0.0"})", "ociVersion: is \"2.0.0\", must be a version 1.x.y"},
        {R"({"ociVersion": 1})", "ociVersion: is 1, must be a string"},
        {R"({"root": null})", "root: is missing"},
        {R"({"root": "rootfs"})", "root: is \"rootfs\", must be an object"},
        {R"({"root": {"path": null}})", "root.path: is missing"},
        {R"({"root": {"path": ""}})", "root.path: is \"\", must be the path of a directory"},
        {R"({"root": {"readonly": "yes"}})", "root.readonly: is \"yes\", must be true or false"},
        {R"({"process": []})", "process: is a list, must be an object"},
        {R"({"process": {"args": null}})", "process.args: is missing"},
        {R"({"process": {"args": []}})", "process.args: is a list, must be a list that names the program"},
        {R"({"process": {"args": [""]}})", "process.args[0]: is \"\", must be the program to run"},
        {R"({"process": {"args": ["a", 1]}})", "process.args[1]: is 1, must be a string"},
        {R"({"process": {"args": ["a", null]}})", "process.args[1]: is null, must be a string"},
        {R"({"process": {"args": {"0": "sh"}}})", "process.args: is an object, must be a list"},
        {R"({"process": {"cwd": "tmp"}})", "process.cwd: is \"tmp\", must be an absolute path"},
        {R"({"process": {"cwd": null}})", "process.cwd: is missing"},
        {R"({"process": {"env": ["A"]}})", "process.env[0]: is \"A\", must be of the form NAME=VALUE"},
        {R"({"process": {"env": ["=A"]}})", "process.env[0]: is \"=A\", must be of the form NAME=VALUE"},
        {R"({"process": {"env": ["A=\u0000B"]}})", "holds a NUL character"},
        {R"({"process": {"user": {"uid": -1}}})", "process.user.uid: is -1, must be a number of 0 to 4294967295"},
        {R"({"process": {"user": {"uid": 4294967296}}})", "process.user.uid: is 4294967296, must be a number of 0"},
        {R"({"process": {"user": {"uid": 1.5}}})", "process.user.uid: is 1.5, must be a number of 0 to"},
        {R"({"process": {"user": {"uid": null}}})", "process.user.uid: is missing"},
        {R"({"process": {"user": {"umask": 512}}})", "process.user.umask: is 512, must be a number of 0 to 511"},
        {R"({"process": {"terminal": 1}})", "process.terminal: is 1, must be true or false"},
        {R"({"process": {"consoleSize": {"height": 65536, "width": 1}}})", "process.consoleSize.height: is 65536"},
        {R"({"process": {"consoleSize": {"height": 1}}})", "process.consoleSize.width: is missing"},
        {R"({"process": {"capabilities": {"bounding": "CAP_KILL"}}})",
         "process.capabilities.bounding: is \"CAP_KILL\""},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_TEST", "soft": 1, "hard": 1}]}})",
         "process.rlimits[0].type: is \"RLIMIT_TEST\", must be one of RLIMIT_AS, "},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": "abc", "hard": 1}]}})",
         "process.rlimits[0].soft: is \"abc\", must be a number of 0 to 18446744073709551615"},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1}]}})", "process.rlimits[0].hard: is missing"},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]}})",
         "process.rlimits[0]: soft is 2, above hard, which is 1"},
        {R"({"process": {"rlimits": [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
                                     {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]}})",
         "process.rlimits[1]: limits RLIMIT_CPU a second time"},
        {R"({"process": {"oomScoreAdj": 1001}})", "process.oomScoreAdj: is 1001, must be a number of -1000 to 1000"},
        {R"({"process": {"scheduler": {"policy": "SCHED_X"}}})",
         "process.scheduler.policy: is \"SCHED_X\", must be one"},
        {R"({"process": {"scheduler": {"policy": "SCHED_OTHER", "nice": 20}}})", "process.scheduler.nice: is 20, must"},
        {R"({"process": {"scheduler": {"policy": "SCHED_FIFO"}}})", "process.scheduler: priority must be 1 to 99"},
        {R"({"process": {"scheduler": {"policy": "SCHED_OTHER", "runtime": 1}}})", "process.scheduler: runtime, deadl"},
        {R"({"process": {"ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 8}}})",
         "process.ioPriority.priority: is 8, must be a number of 0 to 7"},
        {R"({"process": {"execCPUAffinity": {"initial": "3-1"}}})",
         "process.execCPUAffinity.initial: is \"3-1\", must"},
        {R"({"hostname": "h"})", "hostname: needs a namespace of type \"uts\" in linux.namespaces"},
        {R"({"mounts": {}})", "mounts: is an object, must be a list"},
        {R"({"mounts": [{"type": "proc"}]})", "mounts[0].destination: is missing"},
        {R"({"mounts": [{"destination": ""}]})", "mounts[0].destination: is \"\", must be a path in the container"},
        {R"({"mounts": [{"destination": "/a"}]})", "mounts[0]: has neither a type nor the option"},
        {R"({"mounts": [{"destination": "/a", "options": ["bind"]}]})", "mounts[0]: is a bind mount without a source"},
        {R"({"mounts": [{"destination": "/a", "type": "proc", "options": ["ro", ""]}]})",
         "mounts[0].options[1]: is empty, must be a mount option"},
        {R"({"mounts": [{"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}]})",
         "mounts[0]: has the option"},
        {R"({"mounts": [{"destination": "/a", "source": "/", "options": ["bind", "idmap"]}]})",
         "mounts[0].options: ask for an id-mapped mount, but neither"},
        {R"({"mounts": [{"destination": "/a", "source": "/", "options": ["bind"],
                         "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}]})",
         "mounts[0]: has only one of uidMappings and gidMappings"},
        {R"({"hooks": {"prestart": [{"path": "a"}]}})", "hooks.prestart[0].path: is \"a\", must be an absolute path"},
        {R"({"hooks": {"poststop": [{"path": "/a", "timeout": 0}]}})",
         "hooks.poststop[0].timeout: is 0, must be a number of 1"},
        {R"({"hooks": {"createRuntime": {"path": "/a"}}})", "hooks.createRuntime: is an object, must be a list"},
        {R"({"annotations": {"a": 1}})", "annotations.a: is 1, must be a string"},
        {R"({"annotations": {"": "x"}})", "annotations: has a member without a name"},
        {R"({"annotations": {"a.b/c": true}})", "annotations[\"a.b/c\"]: is true, must be a string"},
        {R"({"vm": {"kernel": {"path": "/k"}}})", "vm: is not supported"},
        {R"({"linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}]}})",
         "linux.namespaces[1]: has the type \"pid\" a second time"},
        {R"({"linux": {"namespaces": [{"type": "net"}]}})",
         "linux.namespaces[0].type: is \"net\", must be one of cgroup,"},
        {R"({"linux": {"namespaces": [{"type": "pid", "path": "proc/1"}]}})",
         "linux.namespaces[0].path: is \"proc/1\""},
        {R"({"linux": {"uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]}})",
         "linux.uidMappings: needs a namespace of type \"user\""},
        {R"({"linux": {"namespaces": [{"type": "user"}], "uidMappings": [{"containerID": 0, "hostID": 0, "size": 0}]}})",
         "linux.uidMappings[0]: size is 0, must be 1 or more"},
        {R"({"linux": {"namespaces": [{"type": "user"}],
                       "gidMappings": [{"containerID": 4294967295, "hostID": 0, "size": 2}]}})",
         "linux.gidMappings[0]: passes the last possible id"},
        {R"({"linux": {"namespaces": [{"type": "user"}], "uidMappings": [{"containerID": 0, "hostID": 0, "size": 9},
                       {"containerID": 8, "hostID": 100, "size": 1}]}})",
         "linux.uidMappings[1]: overlaps with entry 0"},
        {R"({"linux": {"devices": [{"path": "/dev/x", "type": "x"}]}})", "linux.devices[0].type: is \"x\", must be"},
        {R"({"linux": {"devices": [{"path": "dev/x", "type": "c"}]}})", "linux.devices[0].path: is \"dev/x\", must be"},
        {R"({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 1}]}})",
         "linux.devices[0].minor: is missing"},
        {R"({"linux": {"devices": [{"path": "/dev/x", "type": "c", "major": 4096, "minor": 1}]}})",
         "linux.devices[0].major: is 4096, must be a number of 0 to 4095"},
        {R"({"linux": {"devices": [{"path": "/d", "type": "p"}, {"path": "/d", "type": "p"}]}})",
         "linux.devices[1]: has the path \"/d\" a second time"},
        {R"({"linux": {"cgroupsPath": "/a/../b"}})", "linux.cgroupsPath: is \"/a/../b\", must be a path without"},
        {R"({"linux": {"maskedPaths": ["proc"]}})", "linux.maskedPaths[0]: is \"proc\", must be an absolute path"},
        {R"({"linux": {"readonlyPaths": ["/", "p"]}})", "linux.readonlyPaths[1]: is \"p\", must be an absolute path"},
        {R"({"linux": {"rootfsPropagation": "nosuid"}})", "linux.rootfsPropagation: is \"nosuid\", must be shared,"},
        {R"({"linux": {"personality": {"domain": "BSD"}}})",
         "linux.personality.domain: is \"BSD\", must be one of LINUX"},
        {R"({"linux": {"personality": {"domain": "LINUX", "flags": ["X"]}}})", "linux.personality.flags: has entries"},
        {R"({"linux": {"timeOffsets": {"monotonic": {}}}})",
         "linux.timeOffsets: needs a new namespace of type \"time\""},
        {R"({"linux": {"timeOffsets": {"realtime": {}}}})",
         "linux.timeOffsets.realtime: is no clock of a time namespace"},
        {R"({"linux": {"timeOffsets": {"monotonic": {"nanosecs": 1000000000}}}})",
         "linux.timeOffsets.monotonic.nanosecs: is 1000000000, must be a number of 0 to 999999999"},
        {R"({"linux": {"sysctl": {"net.core.somaxconn": "1"}}})",
         "linux.sysctl: sets \"net.core.somaxconn\", which needs a namespace of type \"network\""},
        {R"({"linux": {"sysctl": {"../x": "1"}}})", "linux.sysctl: has \"../x\", must have names such as"},
        {R"({"linux": {"sysctl": {"vm/../../x": "1"}}})", "linux.sysctl: has \"vm/../../x\", must have names"},
        {R"({"linux": {"intelRdt": {"closID": "../x"}}})", "linux.intelRdt.closID: is \"../x\", must be the name"},
        {R"({"linux": {"intelRdt": {"memBwSchema": "L3:1"}}})", "linux.intelRdt.memBwSchema: is \"L3:1\", must be one"},
        {R"({"linux": {"resources": {"devices": [{"access": "rwm"}]}}})",
         "linux.resources.devices[0].allow: is missing"},
        {R"({"linux": {"resources": {"devices": [{"allow": true, "access": "x"}]}}})",
         "linux.resources.devices[0].access: is \"x\", must be made of the letters"},
        {R"({"linux": {"resources": {"devices": [{"allow": true, "type": "p"}]}}})",
         "linux.resources.devices[0].type: is \"p\", must be"},
        {R"({"linux": {"resources": {"memory": {"limit": -2}}}})",
         "linux.resources.memory.limit: is -2, must be a number"},
        {R"({"linux": {"resources": {"memory": {"limit": 9223372036854775808}}}})",
         "linux.resources.memory.limit: is 92"},
        {R"({"linux": {"resources": {"memory": {"swappiness": 101}}}})",
         "linux.resources.memory.swappiness: is 101, must"},
        {R"({"linux": {"resources": {"memory": {"limit": 2, "swap": 1}}}})",
         "linux.resources.memory: swap, which counts"},
        {R"({"linux": {"resources": {"cpu": {"quota": 1, "burst": 2}}}})",
         "linux.resources.cpu: burst is 2, above quota"},
        {R"({"linux": {"resources": {"cpu": {"cpus": "a"}}}})",
         "linux.resources.cpu.cpus: is \"a\", must be a list such"},
        {R"({"linux": {"resources": {"cpu": {"idle": 2}}}})",
         "linux.resources.cpu.idle: is 2, must be a number of 0 to 1"},
        {R"({"linux": {"resources": {"pids": {}}}})", "linux.resources.pids.limit: is missing"},
        {R"({"linux": {"resources": {"pids": 5}}})", "linux.resources.pids: is 5, must be an object"},
        {R"({"linux": {"resources": {"blockIO": {"weight": 65536}}}})",
         "linux.resources.blockIO.weight: is 65536, must"},
        {R"({"linux": {"resources": {"blockIO": {"weightDevice": [{"major": 1, "minor": 1}]}}}})",
         "linux.resources.blockIO.weightDevice[0]: has neither weight nor leafWeight"},
        {R"({"linux": {"resources": {"blockIO": {"throttleReadBpsDevice": [{"major": 1, "minor": 1}]}}}})",
         "linux.resources.blockIO.throttleReadBpsDevice[0].rate: is missing"},
        {R"({"linux": {"resources": {"hugepageLimits": [{"pageSize": "64kB", "limit": 1}]}}})",
         "linux.resources.hugepageLimits[0].pageSize: is \"64kB\", must be a size such as"},
        {R"({"linux": {"resources": {"hugepageLimits": [{"pageSize": "../1MB", "limit": 1}]}}})",
         "linux.resources.hugepageLimits[0].pageSize: is"},
        {R"({"linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 1},
             {"pageSize": "2MB", "limit": 1}]}}})",
         "linux.resources.hugepageLimits[1]: limits pages of 2MB a second time"},
        {R"({"linux": {"resources": {"network": {"priorities": [{"name": "a/b", "priority": 1}]}}}})",
         "linux.resources.network.priorities[0].name: is \"a/b\", must be the name of a network interface"},
        {R"({"linux": {"resources": {"rdma": {"x": {}}}}})", "linux.resources.rdma.x: has neither hcaHandles nor"},
        {R"({"linux": {"resources": {"unified": {"../memory.max": "1"}}}})",
         "linux.resources.unified: has \"../memory.max\""},
        {R"({"linux": {"seccomp": {}}})", "linux.seccomp.defaultAction: is missing"},
        {R"({"linux": {"seccomp": {"defaultAction": "KILL"}}})",
         "linux.seccomp.defaultAction: is \"KILL\", must be one of"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}}})",
         "linux.seccomp.defaultErrnoRet: SCMP_ACT_ALLOW returns no error number"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}}})",
         "linux.seccomp.defaultErrnoRet: is 4096, must be a number of 0 to 4095"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}})",
         "linux.seccomp: uses SCMP_ACT_NOTIFY without"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}}})",
         "linux.seccomp: has listenerMetadata without listenerPath"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}}})",
         "linux.seccomp.architectures[0]: is \"VAX\", must be one of SCMP_ARCH_"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}}})",
         "linux.seccomp.flags[0]: is \"X\", must be one of SECCOMP_FILTER_FLAG_TSYNC"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}}})",
         "linux.seccomp.syscalls[0].names: is a list, must be a list that names"},
        {R"({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG",
             "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}}})",
         "linux.seccomp.syscalls[0].args[0].index: is 6, must be a number of 0 to 5"},
    };
    for (const Bad& bad : cases) {
        std::string error = error_of(patched(bad.patch));
        EXPECT_THAT(error, testing::StartsWith("config.json: ")) << bad.patch;
        EXPECT_THAT(error, HasSubstr(bad.error)) << bad.patch;
    }
}

TEST(ConfigParser, BadTextIsRefusedWithItsPlace) {
    EXPECT_THAT(error_of(""), HasSubstr("config.json: line 1, column 1: is not valid JSON: unexpected end of input"));
    EXPECT_THAT(error_of("[]"), testing::Eq("config.json: is a list, must be an object"));
    EXPECT_THAT(error_of("null"), HasSubstr("must be an object"));
    EXPECT_THAT(error_of("{\n  \"ociVersion\": tru\n}"), HasSubstr("line 2, column"));
    EXPECT_THAT(error_of(std::string(kMinimal) + "x"), HasSubstr("is not valid JSON"));
    EXPECT_THAT(error_of("{\"a\": \"\xff\"}"), HasSubstr("ill-formed UTF-8"));
    EXPECT_THAT(error_of("{\"a\": \"\\ud800\"}"), HasSubstr("is not valid JSON"));
    EXPECT_THAT(error_of("{\"a\": 1e999}"), HasSubstr("config.json: "));
    EXPECT_THAT(error_of(R"({"ociVersion": "1.0.0", "ociVersion": "1.0.0"})"),
                HasSubstr("\"ociVersion\" is given twice"));
    EXPECT_THAT(error_of(std::string("{\"a\\u0000b\": 1}")), HasSubstr("NUL"));
    EXPECT_THAT(error_of("// comment\n{}"), HasSubstr("is not valid JSON"));
}

TEST(ConfigParser, EveryTruncationIsRefused) {
    std::string whole = kMinimal;
    for (size_t size = 0; size < whole.size(); size++)
        EXPECT_NE(error_of(std::string_view(whole).substr(0, size)), "accepted") << size;
}

TEST(ConfigParser, HugeAndDeepTextsAreRefused) {
    EXPECT_THAT(error_of(std::string(1 << 20, '[')), HasSubstr("nested deeper than 64 levels"));
    std::string deep;
    for (int i = 0; i < 100000; i++) deep += "{\"a\":";
    EXPECT_THAT(error_of(deep), HasSubstr("nested deeper than 64 levels"));
    EXPECT_THAT(error_of(std::string(kMaxJsonSize + 1, ' ')), HasSubstr("at most 16777216 are read"));
    std::string many = "[";
    for (size_t i = 0; i < kMaxJsonValues; i++) many += "0,";
    EXPECT_THAT(error_of(many + "0]"), HasSubstr("holds more than 1048576 values"));
}

TEST(ConfigParser, HostileValuesAreQuotedSafely) {
    json document = json::parse(kMinimal);
    document["root"]["readonly"] = std::string("\x1b[31m\n") + std::string(100000, 'x');
    std::string error = error_of(document.dump());
    EXPECT_LT(error.size(), 300u);
    EXPECT_EQ(error.find('\n'), std::string::npos);
    EXPECT_EQ(error.find('\x1b'), std::string::npos);
}

TEST(ConfigParser, ProcessDocument) {
    ParseNotes notes;
    auto process = parse_process(R"({"args": ["ls"], "cwd": "/", "odd": 1})", notes);
    ASSERT_TRUE(process.ok()) << process.error().message();
    EXPECT_THAT(process->args, ElementsAre("ls"));
    EXPECT_THAT(notes.unknown_fields, ElementsAre("odd"));
    EXPECT_EQ(parse_process(R"({"args": ["ls"], "cwd": "x"})", notes).error().message(),
              "process document: cwd: is \"x\", must be an absolute path");
}

TEST(ConfigParser, ResourcesDocument) {
    ParseNotes notes;
    auto resources = parse_resources(R"({"memory": {"limit": 5}, "pids": {"limit": -1}})", notes);
    ASSERT_TRUE(resources.ok()) << resources.error().message();
    EXPECT_EQ(resources->memory.limit, 5);
    EXPECT_EQ(resources->pids_limit, -1);
    EXPECT_EQ(parse_resources("{\"cpu\": 1}", notes).error().message(),
              "resources document: cpu: is 1, must be an object");
}

TEST(CpuList, Forms) {
    for (const char* good : {"", "0", "0-3", "0-3,7", "7,1-1"}) EXPECT_TRUE(is_cpu_list(good)) << good;
    for (const char* bad : {"a", "1-", "-1", "1,", ",1", "3-1", "1 ", "99999", "1--2", "0-3:2"})
        EXPECT_FALSE(is_cpu_list(bad)) << bad;
}

}  // namespace
}  // namespace casemate::oci
