// cgroups v1: one directory per controller's hierarchy (Documentation/admin-guide/cgroup-v1 of the kernel).
#pragma once

#include <string>
#include <string_view>

#include "host/cgroup.h"

namespace casemate::host {

class CgroupV1 final : public Cgroup {
  public:
    explicit CgroupV1(CgroupRecord record) : Cgroup(std::move(record)) {}

    Result<void> apply(const oci::Resources& resources, bool devices) override;
    Result<void> apply_devices(const std::vector<oci::DeviceRule>& rules) override;
    Result<CgroupStats> stats() const override;
    Result<void> freeze() override;
    Result<void> thaw() override;
    Result<bool> is_frozen() const override;
    Result<OomWatch> watch_oom() const override;
    Result<void> kill_all(pid_t except, std::chrono::milliseconds patience) override;
};

// Makes mount_point + path with its parents. A cpuset gets its parent's cpus and memory nodes on each level, without
// which no process could enter.
Result<void> make_cgroup_v1(std::string_view controller, const std::string& mount_point, const std::string& path);

// The rules of linux.resources in cgroup v1's files (cgroup_v1_resources.cc).
Result<void> apply_resources_v1(const CgroupRecord& record, const oci::Resources& resources);
Result<void> apply_devices_v1(const CgroupRecord& record, const std::vector<oci::DeviceRule>& rules);

}  // namespace casemate::host
