// The id maps of a user namespace: /proc/pid/uid_map and gid_map, by newuidmap and newgidmap where the caller may not
// write them itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/result.h"

namespace casemate::host {

struct IdMapping {
    uint32_t inside = 0;
    uint32_t outside = 0;  // in the caller's user namespace
    uint32_t count = 0;
};

struct IdMaps {
    std::vector<IdMapping> uids, gids;
};

// Maps the ids of process `pid`, which was just cloned with CLONE_NEWUSER and waits. A caller that is not root maps its
// own id directly (setgroups is then denied in the namespace) and more ids through newuidmap and newgidmap, which obey
// /etc/subuid and /etc/subgid.
Result<void> write_id_maps(pid_t pid, const IdMaps& maps);

// Whether `id` exists in the user namespace whose map file ("/proc/self/uid_map") this is. False if unreadable.
bool is_id_mapped(const char* map_file, uint32_t id);

}  // namespace casemate::host
