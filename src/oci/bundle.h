// A bundle directory (runtime-spec 1.2, bundle.md), opened so that what was checked is what is used: everything is
// reached through descriptors.
//
// The bundle's maker is trusted to name host paths by an absolute root.path or mount source, as the specification says,
// but a *relative* path means "in the bundle": a link or ".." that leads out of it is refused.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/spec.h"

namespace casemate::oci {

struct Bundle {
    std::string path;         // absolute, without links
    UniqueFd directory;       // O_PATH
    std::string config;       // the text of its config.json
    Spec spec;                // the same, parsed
    UniqueFd rootfs;          // O_PATH, a directory
    std::string rootfs_path;  // absolute, without links
};

// Reads and validates config.json and finds the root file system. `path` may be relative to the working directory.
Result<Bundle> open_bundle(const std::string& path);

// The text of config.json. `bundle_fd` is borrowed, `O_PATH` suffices.
Result<std::string> read_config(int bundle_fd);

// Only the document, for commands that need no root file system. `bundle_fd` is borrowed, `O_PATH` suffices.
Result<Spec> load_config(int bundle_fd);

// A mount's source as a descriptor (O_PATH): absolute, or relative and then inside the bundle.
Result<UniqueFd> open_in_bundle(int bundle_fd, const std::string& path);

// Reads a whole file of at most `most` bytes that must be a regular one; `what` names it in errors.
Result<std::string> read_regular_file(int fd, size_t most, const std::string& what);

}  // namespace casemate::oci
