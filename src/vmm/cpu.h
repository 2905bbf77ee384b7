// What the guest's processors are told to be: CPUID leaves and the few MSRs whose reset value does not do.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "vmm/kvm.h"

namespace casemate::vmm {

// The leaves of vCPU `id` of `count`: what KVM supports on this host, less what a guest could not use, with the
// topology of one socket of single-threaded cores.
std::vector<kvm_cpuid_entry2> make_cpuid(std::vector<kvm_cpuid_entry2> supported, uint32_t id, uint32_t count,
                                         bool tsc_deadline);

// After set_cpuid(): hosts from Linux 6.13 on know only then which MSRs there are.
SysResult<void> set_boot_msrs(KvmVcpu& vcpu);

}  // namespace casemate::vmm
