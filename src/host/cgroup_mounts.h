// Where this host's cgroup hierarchies are mounted and where our own process is in them.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace casemate::host {

struct CgroupHierarchy {
    std::string mount_point;  // "/sys/fs/cgroup/memory"
    std::string own_path;     // of our process, below the mount point: "/" or "/process_api/..."
};

struct CgroupMounts {
    // cgroup v1 by controller: "memory", "cpu", ..., and "name=systemd" for the hierarchy without a controller.
    // Controllers that are mounted together ("cpu,cpuacct") share a mount point.
    std::map<std::string, CgroupHierarchy, std::less<>> v1;
    CgroupHierarchy v2;  // mount_point empty: none

    // The host's controllers are those of v2. A v2 hierarchy beside v1 controllers ("hybrid") is not used.
    bool unified() const { return v1.empty() && !v2.mount_point.empty(); }
    std::string controller_names() const;  // "cpu, memory, pids", for messages

    static Result<CgroupMounts> discover();
    // From the texts of /proc/self/mountinfo and /proc/self/cgroup.
    static Result<CgroupMounts> parse(std::string_view mountinfo, std::string_view cgroup);
};

}  // namespace casemate::host
