// The cgroup of a pod or container on its way from config.json to the processes that live in it, and back at deletion.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "host/cgroup.h"
#include "oci/spec.h"
#include "sandbox/launch.h"
#include "sandbox/record.pb.h"

namespace casemate::sandbox {

// Makes the cgroup that `spec` names, as `options` has it, and applies its resources but the device rules.
Result<std::unique_ptr<host::Cgroup>> create_cgroup(const oci::Spec& spec, const LaunchOptions& options,
                                                    pid_t first_process);
// `resources` as the host's cgroup gets them: with room for what a pod takes beside its programs' memory and tasks,
// which the guest kernel holds to the limits themselves.
oci::Resources with_overhead(oci::Resources resources);
// The device rules, exactly as they are listed. To be called once the processes in the cgroup have opened what they
// need of the host's devices (/dev/null, /dev/kvm): from then on they, and a guest kernel that was taken over, have
// what the container was given. Without root there is no right to set them, as in runc.
Result<void> apply_device_rules(host::Cgroup& cgroup, const oci::Spec& spec);
// Null if the record has none.
std::unique_ptr<host::Cgroup> open_cgroup(const v1::Record& record);
void save_cgroup(const host::Cgroup& cgroup, v1::Record& record);

// Moves processes into a cgroup beside other work: the first move waits several milliseconds for the kernel.
class CgroupMove {
  public:
    CgroupMove() = default;
    ~CgroupMove() { (void)finish(); }
    void start(host::Cgroup& cgroup, std::vector<pid_t> processes);
    Result<void> finish();

  private:
    std::thread thread_;
    Result<void> result_;
};

}  // namespace casemate::sandbox
