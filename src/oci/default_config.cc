#include "oci/default_config.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "oci/spec.h"

namespace casemate::oci {
namespace {

using nlohmann::ordered_json;

ordered_json mount(const char* destination, const char* type, const char* source, std::vector<std::string> options) {
    ordered_json entry;
    entry["destination"] = destination;
    entry["type"] = type;
    entry["source"] = source;
    if (!options.empty()) entry["options"] = std::move(options);
    return entry;
}

ordered_json process() {
    ordered_json document;
    document["terminal"] = true;
    document["user"] = {{"uid", 0}, {"gid", 0}};
    document["args"] = {"sh"};
    document["env"] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"};
    document["cwd"] = "/";
    for (const char* set : {"bounding", "effective", "permitted"})
        document["capabilities"][set] = {"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"};
    ordered_json limit;
    limit["type"] = "RLIMIT_NOFILE";
    limit["hard"] = 1024;
    limit["soft"] = 1024;
    document["rlimits"] = ordered_json::array({limit});
    document["noNewPrivileges"] = true;
    return document;
}

ordered_json mounts(bool rootless) {
    ordered_json list = ordered_json::array();
    list.push_back(mount("/proc", "proc", "proc", {}));
    list.push_back(mount("/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}));
    std::vector<std::string> terminals = {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"};
    if (!rootless) terminals.push_back("gid=5");
    list.push_back(mount("/dev/pts", "devpts", "devpts", terminals));
    list.push_back(mount("/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}));
    list.push_back(mount("/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}));
    // sysfs can be mounted only by who owns the network namespace.
    if (rootless)
        list.push_back(mount("/sys", "none", "/sys", {"rbind", "nosuid", "noexec", "nodev", "ro"}));
    else
        list.push_back(mount("/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}));
    list.push_back(mount("/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}));
    return list;
}

ordered_json mapping(uint32_t host_id) {
    ordered_json entry;
    entry["containerID"] = 0;
    entry["hostID"] = host_id;
    entry["size"] = 1;
    return ordered_json::array({entry});
}

ordered_json linux_part(bool rootless) {
    ordered_json document;
    if (rootless) {
        document["uidMappings"] = mapping(geteuid());
        document["gidMappings"] = mapping(getegid());
    } else {
        ordered_json rule;
        rule["allow"] = false;
        rule["access"] = "rwm";
        document["resources"]["devices"] = ordered_json::array({rule});
    }
    document["namespaces"] = ordered_json::array();
    for (const char* type : {"pid", "network", "ipc", "uts", "mount", "cgroup", "user"}) {
        std::string_view name = type;
        if (name == (rootless ? "network" : "user")) continue;
        document["namespaces"].push_back({{"type", type}});
    }
    document["maskedPaths"] = {"/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
                               "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                               "/sys/firmware",       "/proc/scsi"};
    document["readonlyPaths"] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    return document;
}

}  // namespace

std::string default_config(bool rootless) {
    ordered_json document;
    document["ociVersion"] = kOciVersion;
    document["process"] = process();
    document["root"] = {{"path", "rootfs"}, {"readonly", true}};
    document["hostname"] = "casemate";
    document["mounts"] = mounts(rootless);
    document["linux"] = linux_part(rootless);
    return document.dump(2);
}

}  // namespace casemate::oci
