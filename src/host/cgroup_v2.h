// cgroups v2: one directory (Documentation/admin-guide/cgroup-v2.rst of the kernel).
#pragma once

#include <string>

#include "host/cgroup.h"

namespace casemate::host {

class CgroupV2 final : public Cgroup {
  public:
    explicit CgroupV2(CgroupRecord record) : Cgroup(std::move(record)) {}

    Result<void> apply(const oci::Resources& resources, bool devices) override;
    Result<void> apply_devices(const std::vector<oci::DeviceRule>& rules) override;
    Result<CgroupStats> stats() const override;
    Result<void> freeze() override;
    Result<void> thaw() override;
    Result<bool> is_frozen() const override;
    Result<OomWatch> watch_oom() const override;
    Result<void> kill_all(pid_t except, std::chrono::milliseconds patience) override;

  private:
    const std::string& directory() const { return record_.paths.begin()->second; }
    Result<void> set_frozen(bool frozen);
};

// Makes mount_point + path with its parents and hands every controller down that the parents can give. Which of them a
// field needs is found out when it is written.
Result<void> make_cgroup_v2(const std::string& mount_point, const std::string& path);

// The rules of linux.resources in cgroup v2's files (cgroup_v2_resources.cc).
Result<void> apply_resources_v2(const CgroupRecord& record, const oci::Resources& resources);

}  // namespace casemate::host
