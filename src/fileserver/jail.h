// The file server's own jail, put on before the first byte of the guest is read: few capabilities, no new privileges,
// a seccomp list in which opening is allowed and nothing that makes processes, sockets or mounts.
#pragma once

#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::fileserver {

// /proc/self/fd as an O_PATH descriptor, and the working directory moved there: xattr calls reach inodes through it. In
// an empty root it comes from a private procfs, of which nothing else can be reached afterwards; the process must still
// have CAP_SYS_ADMIN over its mounts. Call before anything else.
Result<UniqueFd> enter_proc_self_fd();
// The same in the file server's jail: where that shows a procfs, which is the rootless way, the rest of it goes.
Result<UniqueFd> enter_jail();
// RLIMIT_NOFILE up to the hard limit; the number that holds now.
size_t raise_descriptor_limit();
// Drops all capabilities but those that serve files of any owner. What the process does not have is no error
// (rootless).
Result<void> drop_capabilities();
// For all threads.
Result<void> install_filter();

// casemate-share, which serves a directory to a virtual machine. In its jail's empty root the directory lies here.
constexpr const char* kSharePath = "/share";
struct ShareJail {
    UniqueFd self;       // of enter_proc_self_fd()
    UniqueFd directory;  // O_PATH
};
Result<ShareJail> enter_share_jail();
// File calls and one socket.
std::span<const int> share_system_calls();
Result<void> install_share_filter();

}  // namespace casemate::fileserver
