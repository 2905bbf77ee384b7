// The config.json that `casemate spec` writes: a shell on a terminal in a bundle's "rootfs".
#pragma once

#include <string>

namespace casemate::oci {

// `rootless`: for a user without root's rights, whose own ids (those of this process) become root's in a user
// namespace.
std::string default_config(bool rootless);

}  // namespace casemate::oci
