#include "oci/engine_support.h"

#include <fmt/core.h>
#include <linux/mount.h>

#include <algorithm>

#include "oci/names.h"

namespace casemate::oci {
namespace {

class Judge {
  public:
    explicit Judge(const EngineCapabilities& engine) : engine_(engine) {}

    // Refuses unless `possible`, or if nothing is asked for.
    Result<void> need(bool asked, bool possible, std::string_view field, std::string_view what) const {
        if (!asked || possible) return {};
        return Error(fmt::format("{}: {} is not supported by the engine {}", field, what, engine_.engine), ENOTSUP);
    }

    Result<void> process(const Process& process) const;
    Result<void> namespaces(const Linux& linux) const;
    Result<void> mounts(const std::vector<Mount>& mounts) const;
    Result<void> devices(const Linux& linux) const;
    Result<void> kernel(const Spec& spec) const;
    Result<void> seccomp(const Seccomp& seccomp) const;
    Result<void> hooks(const Hooks& hooks) const;
    Result<void> propagation(uint64_t flags, std::string_view field) const;

  private:
    Result<void> scheduler(const Scheduler& scheduler) const;
    Result<void> capabilities(const Capabilities& capabilities) const;
    Result<void> mount(const Mount& mount, const std::string& field) const;
    const EngineCapabilities& engine_;
};

template <typename T>
bool has(const std::vector<T>& list, const T& value) {
    return std::ranges::find(list, value) != list.end();
}

Result<void> Judge::scheduler(const Scheduler& scheduler) const {
    TRY(need(true, has(engine_.scheduler_policies, scheduler.policy), "process.scheduler.policy",
             name_of(scheduler_policy_names(), scheduler.policy)));
    for (const auto& flag : scheduler_flag_names())
        TRY(need((scheduler.flags & flag.value) != 0, (engine_.scheduler_flags & flag.value) != 0,
                 "process.scheduler.flags", flag.text));
    return {};
}

Result<void> Judge::capabilities(const Capabilities& capabilities) const {
    uint64_t asked = capabilities.bounding | capabilities.effective | capabilities.inheritable |
                     capabilities.permitted | capabilities.ambient;
    for (const auto& name : capability_names()) {
        uint64_t bit = uint64_t{1} << name.value;
        TRY(need((asked & bit) != 0, (engine_.capabilities & bit) != 0, "process.capabilities", name.text));
    }
    return {};
}

Result<void> Judge::process(const Process& process) const {
    TRY(need(process.terminal, engine_.terminal, "process.terminal", "a terminal"));
    bool confined = !process.apparmor_profile.empty() && process.apparmor_profile != "unconfined";
    TRY(need(confined, engine_.apparmor, "process.apparmorProfile", "AppArmor"));
    TRY(need(!process.selinux_label.empty(), engine_.selinux, "process.selinuxLabel", "SELinux"));
    TRY(need(process.no_new_privileges, engine_.no_new_privileges, "process.noNewPrivileges", "no_new_privs"));
    TRY(need(process.oom_score_adj.has_value(), engine_.oom_score_adj, "process.oomScoreAdj", "an OOM score"));
    TRY(need(process.io_priority.has_value(), engine_.io_priority, "process.ioPriority", "an I/O priority"));
    TRY(need(process.exec_cpu_affinity.has_value(), engine_.exec_cpu_affinity, "process.execCPUAffinity",
             "a CPU affinity"));
    if (process.scheduler) TRY(scheduler(*process.scheduler));
    if (process.capabilities) TRY(capabilities(*process.capabilities));
    for (size_t i = 0; i < process.rlimits.size(); i++)
        TRY(need(true, has(engine_.rlimits, process.rlimits[i].resource), fmt::format("process.rlimits[{}]", i),
                 name_of(rlimit_names(), process.rlimits[i].resource)));
    return {};
}

Result<void> Judge::namespaces(const Linux& linux) const {
    for (size_t i = 0; i < linux.namespaces.size(); i++) {
        const Namespace& entry = linux.namespaces[i];
        std::string field = fmt::format("linux.namespaces[{}]", i);
        auto type = name_of(namespace_names(), entry.type);
        if (entry.path.empty())
            TRY(need(true, engine_.new_namespaces.contains(entry.type), field,
                     fmt::format("a new {} namespace", type)));
        else
            TRY(need(true, engine_.joinable_namespaces.contains(entry.type), field + ".path",
                     fmt::format("joining a {} namespace", type)));
    }
    for (const auto& name : namespace_names())
        TRY(need(linux.find_namespace(name.value) == nullptr, engine_.inherited_namespaces.contains(name.value),
                 "linux.namespaces", fmt::format("the host's {0} namespace (the list has no \"{0}\")", name.text)));
    bool mapped = !linux.uid_mappings.empty() || !linux.gid_mappings.empty();
    TRY(need(mapped, engine_.user_mappings, linux.uid_mappings.empty() ? "linux.gidMappings" : "linux.uidMappings",
             "a user namespace mapping"));
    return need(linux.monotonic_offset || linux.boottime_offset, engine_.time_offsets, "linux.timeOffsets",
                "a clock offset");
}

Result<void> Judge::propagation(uint64_t flags, std::string_view field) const {
    TRY(need((flags & MS_SHARED) != 0, engine_.mount_propagation_shared, field, "mount propagation to the host"));
    TRY(need((flags & MS_SLAVE) != 0, engine_.mount_propagation_slave, field, "mount propagation from the host"));
    return need((flags & MS_UNBINDABLE) != 0, engine_.unbindable_mounts, field, "an unbindable mount");
}

Result<void> Judge::mount(const Mount& mount, const std::string& field) const {
    const MountOptions& options = mount.parsed;
    bool has_type = !options.is_bind() && !mount.type.empty();
    TRY(need(has_type, has(engine_.filesystem_types, mount.type), field + ".type",
             fmt::format("the file system type \"{}\"", mount.type)));
    std::string option_field = field + ".options";
    // The flags one by one, by the option's own name where it was given.
    for (size_t i = 0; i < mount.options.size(); i++) {
        auto alone = parse_mount_options(std::span(&mount.options[i], 1));
        if (!alone.ok()) continue;
        uint64_t flags = alone->flags & ~uint64_t{MS_BIND | MS_REC};
        TRY(need((flags & ~engine_.mount_flags) != 0, false, fmt::format("{}[{}]", option_field, i),
                 fmt::format("the mount option \"{}\"", mount.options[i])));
    }
    TRY(need((options.recursive_set | options.recursive_clear) != 0, engine_.recursive_mount_attributes, option_field,
             "a recursive mount option"));
    TRY(need(options.idmap != IdmapScope::kNone, engine_.idmapped_mounts, field, "an id-mapped mount"));
    TRY(need(options.copy_up, engine_.tmpcopyup, option_field, "the mount option \"tmpcopyup\""));
    for (uint64_t flags : options.propagation) TRY(propagation(flags, option_field));
    return {};
}

Result<void> Judge::mounts(const std::vector<Mount>& mounts) const {
    for (size_t i = 0; i < mounts.size(); i++) TRY(mount(mounts[i], fmt::format("mounts[{}]", i)));
    return {};
}

// Whether every access to every device is allowed: a privileged container. Engines give such a one a node for each
// device that the host has, whether it is used or not.
bool all_devices_allowed(const std::vector<DeviceRule>& rules) {
    bool all = false;
    for (const DeviceRule& rule : rules) {
        if (rule.type == 'a' && !rule.major && !rule.minor)
            all = rule.allow && rule.access.find_first_of("rw") != std::string::npos;
        else if (!rule.allow)
            all = false;
    }
    return all;
}

Result<void> Judge::devices(const Linux& linux) const {
    bool privileged = linux.resources && all_devices_allowed(linux.resources->devices);
    for (size_t i = 0; i < linux.devices.size(); i++) {
        const Device& device = linux.devices[i];
        // The node of a device without a driver can be made as on Linux: opening it says that there is none.
        bool known =
            engine_.all_devices || privileged || device.type == 'p' ||
            std::ranges::any_of(engine_.devices, [&](const DeviceNumber& number) {
                return number.type == device.type && number.major == device.major && number.minor == device.minor;
            });
        if (!known && engine_.has_driver != nullptr)
            known = !engine_.has_driver({device.type, device.major, device.minor});
        TRY(need(true, known, fmt::format("linux.devices[{}]", i),
                 fmt::format("the device {} ({} {}:{})", device.path, device.type, device.major, device.minor)));
    }
    return {};
}

Result<void> Judge::seccomp(const Seccomp& seccomp) const {
    TRY(need(true, engine_.seccomp, "linux.seccomp", "a system call filter"));
    auto action = [&](SeccompAction value, std::string_view field) {
        return need(true, engine_.seccomp_actions.contains(value), field, name_of(seccomp_action_names(), value));
    };
    TRY(action(seccomp.default_action, "linux.seccomp.defaultAction"));
    for (size_t i = 0; i < seccomp.syscalls.size(); i++) {
        // Formatting a field for each of a profile's hundreds of rules is not free; the engine knows most of them.
        if (engine_.seccomp_actions.contains(seccomp.syscalls[i].action)) continue;
        TRY(action(seccomp.syscalls[i].action, fmt::format("linux.seccomp.syscalls[{}].action", i)));
    }
    TRY(need(!seccomp.listener_path.empty(), engine_.seccomp_actions.contains(SeccompAction::kNotify),
             "linux.seccomp.listenerPath", "a socket for notifications"));
    for (const auto& flag : seccomp_flag_names())
        TRY(need((seccomp.flags & flag.value) != 0, (engine_.seccomp_flags & flag.value) != 0, "linux.seccomp.flags",
                 flag.text));
    return {};
}

bool sysctl_is_known(const std::vector<std::string>& known, std::string_view name) {
    return std::ranges::any_of(known, [&](const std::string& entry) {
        return entry == "." || entry == name || (entry.ends_with('.') && name.starts_with(entry));
    });
}

Result<void> Judge::kernel(const Spec& spec) const {
    const Linux& linux = spec.linux;
    TRY(need(!spec.hostname.empty(), engine_.hostname, "hostname", "a host name"));
    TRY(need(!spec.domainname.empty(), engine_.domainname, "domainname", "a domain name"));
    for (const auto& [name, value] : linux.sysctl)
        TRY(need(true, sysctl_is_known(engine_.sysctls, name), "linux.sysctl",
                 fmt::format("the kernel parameter \"{}\"", name)));
    TRY(need(linux.personality == PersonalityDomain::kLinux32, engine_.linux32_personality, "linux.personality.domain",
             "LINUX32"));
    TRY(need(linux.intel_rdt.has_value(), engine_.intel_rdt, "linux.intelRdt", "Intel RDT"));
    return need(!linux.mount_label.empty(), engine_.selinux, "linux.mountLabel", "SELinux");
}

Result<void> Judge::hooks(const Hooks& hooks) const {
    for (const auto& kind : hook_names())
        TRY(need(!hooks_of(hooks, kind.value).empty(), engine_.hooks.contains(kind.value),
                 fmt::format("hooks.{}", kind.text), "this kind of hook"));
    return {};
}

}  // namespace

Result<void> refuse_unsupported(const Spec& spec, const EngineCapabilities& engine) {
    Judge judge(engine);
    if (spec.process) TRY(judge.process(*spec.process));
    TRY(judge.need(spec.root.readonly, engine.read_only_root, "root.readonly", "a read-only root"));
    TRY(judge.mounts(spec.mounts));
    TRY(judge.namespaces(spec.linux));
    TRY(judge.devices(spec.linux));
    TRY(judge.need(!spec.linux.masked_paths.empty(), engine.masked_paths, "linux.maskedPaths", "masking paths"));
    TRY(judge.need(!spec.linux.readonly_paths.empty(), engine.readonly_paths, "linux.readonlyPaths",
                   "making paths read-only"));
    TRY(judge.propagation(spec.linux.rootfs_propagation, "linux.rootfsPropagation"));
    TRY(judge.kernel(spec));
    if (spec.linux.seccomp) TRY(judge.seccomp(*spec.linux.seccomp));
    return judge.hooks(spec.hooks);
}

Result<void> refuse_unsupported(const Process& process, const EngineCapabilities& engine) {
    return Judge(engine).process(process);
}

}  // namespace casemate::oci
