// The mount option strings of config.json (runtime-spec 1.2, config.md "Linux mount options") as kernel flags.
//
// One table serves the parser and `casemate features`. Options are applied in order; a later one overrides an earlier
// one ("ro","rw" is writable). What the table does not know is a file system's own option and goes to `data`.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace casemate::oci {

enum class IdmapScope {
    kNone,
    kMount,      // "idmap"
    kRecursive,  // "ridmap": the mounts below, too
};

struct MountOptions {
    uint64_t flags = 0;                 // MS_* to set, MS_BIND, MS_REC and MS_REMOUNT among them
    uint64_t cleared_flags = 0;         // MS_* asked to be off ("rw", "exec"): matters where a bind mount inherits them
    uint64_t recursive_set = 0;         // MOUNT_ATTR_* for mount_setattr(AT_RECURSIVE): "rro", "rnosuid"
    uint64_t recursive_clear = 0;       // MOUNT_ATTR__ATIME is here whenever an access time mode is set or cleared
    std::vector<uint64_t> propagation;  // MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, perhaps | MS_REC; in order
    IdmapScope idmap = IdmapScope::kNone;
    bool copy_up = false;  // "tmpcopyup": the tmpfs starts with what the image has at the mount point
    std::string data;      // options of the file system itself, joined by commas: mount(2)'s last argument

    bool is_bind() const;
    bool is_read_only() const;  // MS_RDONLY, or recursively so
};

// The error names the option's index: "options[2]: ...".
Result<MountOptions> parse_mount_options(std::span<const std::string> options);

// The propagation word of `linux.rootfsPropagation` and of mount options: "rslave" -> MS_SLAVE | MS_REC; 0 if unknown.
uint64_t propagation_flags(std::string_view word);

// MOUNT_ATTR_* that the mount flags (MS_*) stand for, for mount_setattr(2) and fsmount(2).
uint64_t mount_attributes(uint64_t mount_flags);

// Every option that the table knows, in alphabetical order: for `casemate features`.
std::vector<std::string_view> known_mount_options();

}  // namespace casemate::oci
