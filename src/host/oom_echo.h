// Tells a cgroup's watchers of an out-of-memory kill that happened under a guest kernel.
//
// Supervisors (containerd's runc shim, conmon) take the host kernel's word for it: the event and the count of OOM kills
// of the container's cgroup. Nothing but the host's own OOM killer makes these, and the guest's processes are not in
// that cgroup. So a process without a purpose goes in there, takes more than is left, and is killed in their stead.
#pragma once

#include "base/result.h"
#include "host/cgroup.h"

namespace casemate::host {

// For a cgroup in which hardly anything lives (an anchor process): its limit is lowered to what is used for the moment.
// Takes some milliseconds, a second at most. An error: no kill was seen.
Result<void> echo_oom(const Cgroup& cgroup);

}  // namespace casemate::host
