// The runtime specification's config.json (runtime-spec 1.2, Linux) as plain structs: every field of the document.
//
// Made by config_parser.h, which has checked all that can be checked without the host: paths that must be absolute are,
// enumerations hold known values, lists hold no forbidden duplicates, strings hold no NUL. Whether an engine can honour
// what is asked is engine_support.h's matter. An empty string stands for an absent one where the specification gives an
// empty string no meaning of its own; std::optional is used where absence matters.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "oci/mount_options.h"

namespace casemate::oci {

// The version that our own documents (state, features, default config) name.
inline constexpr const char* kOciVersion = "1.2.1";

using StringMap = std::map<std::string, std::string, std::less<>>;

struct IdMapping {
    uint32_t container_id = 0;
    uint32_t host_id = 0;
    uint32_t size = 0;  // never 0; container_id + size and host_id + size do not pass 2^32
};

// --- process -------------------------------------------------------------------------------------------------------

struct ConsoleSize {
    uint16_t height = 0;  // rows
    uint16_t width = 0;   // columns
};

struct User {
    uint32_t uid = 0;
    uint32_t gid = 0;
    std::optional<uint32_t> umask;
    std::vector<uint32_t> additional_gids;
};

// Bit n is capability number n. Names that are unknown here are a warning (config.md), not a bit.
struct Capabilities {
    uint64_t bounding = 0;
    uint64_t effective = 0;
    uint64_t inheritable = 0;
    uint64_t permitted = 0;
    uint64_t ambient = 0;
};

struct Rlimit {
    int resource = 0;  // RLIMIT_*
    uint64_t soft = 0;
    uint64_t hard = 0;
};

struct Scheduler {
    uint32_t policy = 0;  // SCHED_*
    int32_t nice = 0;
    int32_t priority = 0;
    uint64_t flags = 0;     // SCHED_FLAG_*
    uint64_t runtime = 0;   // nanoseconds; this and the next two belong to SCHED_DEADLINE
    uint64_t deadline = 0;  // nanoseconds
    uint64_t period = 0;    // nanoseconds
};

enum class IoPriorityClass { kRealTime = 1, kBestEffort = 2, kIdle = 3 };  // IOPRIO_CLASS_*

struct IoPriority {
    IoPriorityClass io_class = IoPriorityClass::kBestEffort;
    int priority = 0;  // 0 (highest) to 7
};

// Lists of CPUs such as "0-3,7"; of processes that `exec` adds, never of the container's first one.
struct ExecCpuAffinity {
    std::string initial;
    std::string final;
};

struct Process {
    bool terminal = false;
    std::optional<ConsoleSize> console_size;  // absent unless `terminal`
    User user;
    std::vector<std::string> args;  // one at least, the first not empty
    std::vector<std::string> env;   // NAME=VALUE, each name once (the last one given)
    std::string cwd;                // absolute
    std::optional<Capabilities> capabilities;
    std::vector<Rlimit> rlimits;  // each resource once
    bool no_new_privileges = false;
    std::optional<int> oom_score_adj;
    std::optional<Scheduler> scheduler;
    std::optional<IoPriority> io_priority;
    std::optional<ExecCpuAffinity> exec_cpu_affinity;
    std::string apparmor_profile;
    std::string selinux_label;
};

// --- root, mounts, hooks -------------------------------------------------------------------------------------------

struct Root {
    std::string path;  // absolute, or relative to the bundle
    bool readonly = false;
};

struct Mount {
    std::string destination;              // absolute: a relative one (deprecated) was read as relative to "/"
    std::string type;                     // empty or a dummy for bind mounts
    std::string source;                   // of a bind mount: absolute or relative to the bundle
    std::vector<std::string> options;     // as written
    MountOptions parsed;                  // the same, understood
    std::vector<IdMapping> uid_mappings;  // given together with gid_mappings
    std::vector<IdMapping> gid_mappings;
};

struct Hook {
    std::string path;                 // absolute
    std::vector<std::string> args;    // argv; empty: the path alone
    std::vector<std::string> env;     // the whole environment
    std::optional<uint32_t> timeout;  // seconds, never 0; absent: no limit
};

struct Hooks {
    std::vector<Hook> prestart;
    std::vector<Hook> create_runtime;
    std::vector<Hook> create_container;
    std::vector<Hook> start_container;
    std::vector<Hook> poststart;
    std::vector<Hook> poststop;
};

// --- linux.resources -----------------------------------------------------------------------------------------------

struct DeviceRule {
    bool allow = false;
    char type = 'a';                // a, c or b
    std::optional<uint32_t> major;  // absent: all
    std::optional<uint32_t> minor;
    std::string access = "rwm";  // of the letters r, w, m
};

// Bytes, or -1 for no limit.
struct MemoryResources {
    std::optional<int64_t> limit;
    std::optional<int64_t> reservation;
    std::optional<int64_t> swap;  // memory + swap
    std::optional<int64_t> kernel;
    std::optional<int64_t> kernel_tcp;
    std::optional<uint64_t> swappiness;  // 0 to 100
    std::optional<bool> disable_oom_killer;
    std::optional<bool> use_hierarchy;
    std::optional<bool> check_before_update;
};

// Times in microseconds.
struct CpuResources {
    std::optional<uint64_t> shares;
    std::optional<int64_t> quota;
    std::optional<uint64_t> burst;
    std::optional<uint64_t> period;
    std::optional<int64_t> realtime_runtime;
    std::optional<uint64_t> realtime_period;
    std::string cpus;  // a list such as "0-3,7"
    std::string mems;
    std::optional<int64_t> idle;  // 0 or 1
};

struct BlockWeight {
    uint32_t major = 0, minor = 0;
    std::optional<uint16_t> weight;  // one of the two is there
    std::optional<uint16_t> leaf_weight;
};

struct BlockThrottle {
    uint32_t major = 0, minor = 0;
    uint64_t rate = 0;  // bytes or operations a second
};

struct BlockIoResources {
    std::optional<uint16_t> weight;
    std::optional<uint16_t> leaf_weight;
    std::vector<BlockWeight> weight_device;
    std::vector<BlockThrottle> throttle_read_bps;
    std::vector<BlockThrottle> throttle_write_bps;
    std::vector<BlockThrottle> throttle_read_iops;
    std::vector<BlockThrottle> throttle_write_iops;
};

struct HugepageLimit {
    std::string page_size;  // "2MB", as the control files spell it
    uint64_t limit = 0;     // bytes
};

struct InterfacePriority {
    std::string name;
    uint32_t priority = 0;
};

struct NetworkResources {
    std::optional<uint32_t> class_id;
    std::vector<InterfacePriority> priorities;
};

struct RdmaLimit {
    std::optional<uint32_t> hca_handles;  // one of the two is there
    std::optional<uint32_t> hca_objects;
};

struct Resources {
    std::vector<DeviceRule> devices;  // applied in order
    MemoryResources memory;
    CpuResources cpu;
    std::optional<int64_t> pids_limit;
    BlockIoResources block_io;
    std::vector<HugepageLimit> hugepage_limits;
    NetworkResources network;
    std::map<std::string, RdmaLimit, std::less<>> rdma;  // by device name
    StringMap unified;                                   // cgroup v2 file name -> what is written
};

// --- linux.seccomp -------------------------------------------------------------------------------------------------

enum class SeccompAction { kKillThread, kKillProcess, kTrap, kErrno, kTrace, kAllow, kLog, kNotify };
enum class SeccompOperator { kNotEqual, kLess, kLessEqual, kEqual, kGreaterEqual, kGreater, kMaskedEqual };

struct SeccompArgument {
    uint32_t index = 0;  // 0 to 5
    uint64_t value = 0;  // with kMaskedEqual: the mask
    uint64_t value_two = 0;
    SeccompOperator op = SeccompOperator::kEqual;
};

struct SeccompSyscall {
    std::vector<std::string> names;  // one at least
    SeccompAction action = SeccompAction::kErrno;
    std::optional<uint16_t> errno_ret;  // with kErrno and kTrace only; absent: EPERM
    std::vector<SeccompArgument> args;
};

struct Seccomp {
    SeccompAction default_action = SeccompAction::kErrno;
    std::optional<uint16_t> default_errno_ret;
    std::vector<std::string> architectures;  // SCMP_ARCH_*, known ones
    uint32_t flags = 0;                      // SECCOMP_FILTER_FLAG_*
    std::string listener_path;               // there if an action is kNotify
    std::string listener_metadata;
    std::vector<SeccompSyscall> syscalls;
};

// --- linux ---------------------------------------------------------------------------------------------------------

enum class NamespaceType { kPid, kNetwork, kMount, kIpc, kUts, kUser, kCgroup, kTime };

struct Namespace {
    NamespaceType type = NamespaceType::kPid;
    std::string path;  // absolute; empty: a new one
};

struct Device {
    char type = 'c';                    // c, b or p ("u" was read as c)
    std::string path;                   // absolute, in the container
    uint32_t major = 0, minor = 0;      // 0 for p
    std::optional<uint32_t> file_mode;  // permission bits
    std::optional<uint32_t> uid;
    std::optional<uint32_t> gid;
};

struct TimeOffset {
    int64_t secs = 0;
    uint32_t nanosecs = 0;  // below 10^9
};

enum class PersonalityDomain { kLinux, kLinux32 };

struct IntelRdt {
    std::string clos_id;
    std::string l3_cache_schema;
    std::string mem_bw_schema;
    bool enable_cmt = false;
    bool enable_mbm = false;
};

struct Linux {
    std::vector<Namespace> namespaces;  // each type once
    std::vector<IdMapping> uid_mappings;
    std::vector<IdMapping> gid_mappings;
    std::vector<Device> devices;
    std::string cgroups_path;
    std::optional<Resources> resources;
    StringMap sysctl;  // names with dots: "net.ipv4.ip_forward"
    std::optional<Seccomp> seccomp;
    uint64_t rootfs_propagation = 0;  // MS_SHARED..., perhaps | MS_REC; 0: not given
    std::vector<std::string> masked_paths;
    std::vector<std::string> readonly_paths;
    std::string mount_label;
    std::optional<PersonalityDomain> personality;
    std::optional<TimeOffset> monotonic_offset;
    std::optional<TimeOffset> boottime_offset;
    std::optional<IntelRdt> intel_rdt;

    // Null if the list has none of the type: the container then stays in the runtime's namespace.
    const Namespace* find_namespace(NamespaceType type) const {
        for (const Namespace& entry : namespaces)
            if (entry.type == type) return &entry;
        return nullptr;
    }
};

// What the parser saw and did not refuse, for the log.
struct ParseNotes {
    std::vector<std::string> warnings;        // sentences with the field's path: unknown capability, newer version
    std::vector<std::string> unknown_fields;  // paths of properties that the specification does not know: ignored
};

struct Spec {
    std::string oci_version;
    std::optional<Process> process;  // needed by `start`
    Root root;
    std::string hostname;
    std::string domainname;
    std::vector<Mount> mounts;  // mounted in this order
    Hooks hooks;
    StringMap annotations;
    Linux linux;
    ParseNotes notes;
};

}  // namespace casemate::oci
