// What an engine can honour, and the refusal of everything else: nothing that config.json asks for is dropped silently.
//
// Each engine fills in an EngineCapabilities; everything is off until it says otherwise. What the *host* applies to the
// whole sandbox (cgroup limits, hooks, joining a network namespace) is not judged here but where it is applied.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/result.h"
#include "oci/hooks.h"
#include "oci/spec.h"

namespace casemate::oci {

// A set of values of a small enumeration.
template <typename Enum>
class EnumSet {
  public:
    constexpr EnumSet() = default;
    constexpr EnumSet(std::initializer_list<Enum> values) {
        for (Enum value : values) bits_ |= bit(value);
    }
    constexpr bool contains(Enum value) const { return (bits_ & bit(value)) != 0; }

  private:
    static constexpr uint64_t bit(Enum value) { return uint64_t{1} << static_cast<unsigned>(value); }
    uint64_t bits_ = 0;
};

struct DeviceNumber {
    char type = 'c';
    uint32_t major = 0, minor = 0;
};

struct EngineCapabilities {
    std::string engine;  // "sentry", "microvm": for the message

    // Process.
    bool terminal = false;
    bool apparmor = false;
    bool selinux = false;  // process.selinuxLabel and linux.mountLabel
    bool no_new_privileges = false;
    bool oom_score_adj = false;
    bool io_priority = false;
    bool exec_cpu_affinity = false;
    std::vector<uint32_t> scheduler_policies;  // SCHED_* that process.scheduler may name
    uint64_t scheduler_flags = 0;              // SCHED_FLAG_* that it may have
    std::vector<int> rlimits;                  // RLIMIT_* that process.rlimits may name
    uint64_t capabilities = ~uint64_t{0};      // capability numbers that the engine knows

    // Namespaces.
    EnumSet<NamespaceType> new_namespaces;       // may be made new for a container
    EnumSet<NamespaceType> joinable_namespaces;  // may be given by path
    // May be left out: the container then has the runtime's. kUser, kTime and, on cgroup v1, kCgroup mostly are.
    EnumSet<NamespaceType> inherited_namespaces;
    bool user_mappings = false;  // linux.uidMappings and gidMappings
    bool time_offsets = false;

    // Files.
    bool read_only_root = false;
    bool masked_paths = false;
    bool readonly_paths = false;
    std::vector<std::string> filesystem_types;  // that mounts[].type may name, besides bind mounts
    uint64_t mount_flags = 0;                   // MS_* that options may set
    bool recursive_mount_attributes = false;    // rro, rnosuid, ...
    bool idmapped_mounts = false;
    bool tmpcopyup = false;
    bool mount_propagation_shared = false;  // "shared" mounts
    bool mount_propagation_slave = false;   // events from the host to the container ("slave")
    bool unbindable_mounts = false;
    bool all_devices = false;           // any node of linux.devices
    std::vector<DeviceNumber> devices;  // else these; fifos are always possible
    // Tells the numbers that have a driver on this host. Of those that have none a node can always be made: opening it
    // fails here as there. Null: all may have one.
    bool (*has_driver)(const DeviceNumber& number) = nullptr;

    // Kernel.
    std::vector<std::string> sysctls;  // names; one that ends in "." is a prefix, "." is every name
    bool hostname = false;
    bool domainname = false;
    bool linux32_personality = false;
    bool intel_rdt = false;
    bool seccomp = false;
    EnumSet<SeccompAction> seccomp_actions;
    uint32_t seccomp_flags = 0;  // SECCOMP_FILTER_FLAG_*

    EnumSet<HookKind> hooks;
};

// The first field that the engine cannot honour: "linux.personality: LINUX32 is not supported by the engine sentry".
Result<void> refuse_unsupported(const Spec& spec, const EngineCapabilities& engine);

// The same for the process of an `exec`.
Result<void> refuse_unsupported(const Process& process, const EngineCapabilities& engine);

}  // namespace casemate::oci
