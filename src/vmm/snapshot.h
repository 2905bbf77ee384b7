// Snapshots: a paused machine's state in one file and its memory in another, and machines made from them.
//
// The memory file is as large as the guest's memory, with holes where it is zero; a restored machine maps it privately
// and reads a page when the guest first touches it, so many clones share one file, which must not change meanwhile.
// A state file is written by a monitor and is still not trusted: lengths and counts are checked, and KVM checks the
// rest.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "vmm/machine.h"

namespace casemate::vmm {

// Into files that are written from their beginning. The machine is paused, and stays so.
Result<void> save_snapshot(Machine& machine, int state_fd, int memory_fd);

struct Snapshot {
    uint32_t vcpus = 0;
    uint64_t memory = 0;
    std::string machine;  // for Machine::restore()
};
Result<Snapshot> read_snapshot(int state_fd);

}  // namespace casemate::vmm
