// Cgroups made by systemd: a transient scope unit per pod (the "systemd" cgroup driver of kubelet, CRI-O, Docker).
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "host/cgroup_mounts.h"
#include "host/systemd_limits.h"

namespace casemate::host {

class SystemdScope {
  public:
    // linux.cgroupsPath as "slice:prefix:name", or empty for "system.slice:casemate:<id>" ("user.slice" for a user).
    static Result<SystemdScope> parse(const std::string& cgroups_path, const std::string& id, bool user);

    // "prefix-name.scope"
    const std::string& unit() const { return unit_; }
    const std::string& slice() const { return slice_; }

    // Asks systemd for the scope with `first_process` in it and waits until it is there. Returns its cgroup path below
    // the mount points. An error that says so if systemd does not run here.
    Result<std::string> start(const CgroupMounts& mounts, pid_t first_process) const;
    // Tells a running unit its limits, until it ends. systemd writes them to its cgroup.
    static Result<void> set_limits(const std::string& unit, bool user, const SystemdProperties& limits);
    // Stops the unit, which removes systemd's cgroups; one that is gone is fine.
    static Result<void> stop(const std::string& unit, bool user);

  private:
    std::string slice_, unit_;
    bool user_ = false;
};

// "a-b.slice" lies at "/a.slice/a-b.slice"; "-.slice" is the root, "".
Result<std::string> expand_slice(const std::string& slice);
bool systemd_is_running();

}  // namespace casemate::host
