// Device rules on cgroups v2, which have no devices controller: a BPF program on the cgroup decides on each open and
// mknod (BPF_PROG_TYPE_CGROUP_DEVICE).
#pragma once

#include <linux/bpf.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "oci/spec.h"

namespace casemate::host {

// Rules in the order of config.json: for each kind of access (read, write, mknod) the last rule that fits decides, as
// v1's devices.allow and devices.deny do it. What no rule fits is left to the parents' programs: allowed.
std::vector<bpf_insn> build_device_program(const std::vector<oci::DeviceRule>& rules);

// Puts the program on the cgroup in place of the one that an earlier call left there.
Result<void> attach_device_program(const std::string& cgroup_directory, const std::vector<oci::DeviceRule>& rules);

}  // namespace casemate::host
