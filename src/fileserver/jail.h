// The file server's own jail, put on before the first byte of the guest is read: few capabilities, no new privileges,
// a seccomp list in which opening is allowed and nothing that makes processes, sockets or mounts.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::fileserver {

// /proc/self/fd as an O_PATH descriptor, and the working directory moved there: xattr calls reach inodes through it. In
// an empty root a private procfs is made if the process still may. Call before anything else.
Result<UniqueFd> enter_proc_self_fd();
// RLIMIT_NOFILE up to the hard limit; the number that holds now.
size_t raise_descriptor_limit();
// Drops all capabilities but those that serve files of any owner. What the process does not have is no error
// (rootless).
Result<void> drop_capabilities();
// For all threads.
Result<void> install_filter();
// Of casemate-share, which serves a directory to a virtual machine: file calls and one socket.
Result<void> install_share_filter();

}  // namespace casemate::fileserver
