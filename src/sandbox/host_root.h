// The host's own root as a container's root: `casemate do`.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::sandbox {

// A detached, read-only copy of the caller's mount tree, without what the host's kernel shows of itself (proc, sysfs,
// devices, cgroups, ...): a guest that unmounts its own /proc must find an empty folder, not the host's.
// Moves this process into a mount namespace of its own.
Result<UniqueFd> clone_host_root();

}  // namespace casemate::sandbox
