// The state of one stopped vCPU as bytes, for snapshots.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "virtio/state.h"
#include "vmm/kvm.h"

namespace casemate::vmm {

// Where the host's clocks stood, and how they moved until a restore.
struct ClockShift {
    uint64_t host_tsc_then = 0, host_tsc_now = 0;
    uint64_t elapsed_ns = 0;  // that the guest shall see as passed
};

uint64_t host_tsc();

// `msrs`: what KVM can save, from Kvm::msr_indexes().
Result<void> save_vcpu(KvmVcpu& vcpu, std::span<const uint32_t> msrs, size_t xsave_size, virtio::StateWriter& writer);
// Into a vCPU that has run nothing yet. EBADMSG for a state that is not whole or is of another processor.
Result<void> restore_vcpu(KvmVcpu& vcpu, size_t xsave_size, const ClockShift& shift, virtio::StateReader& reader);

}  // namespace casemate::vmm
