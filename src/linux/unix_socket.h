// Unix sockets by path, of any path length, and pairs. All close-on-exec.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

struct SocketPair {
    UniqueFd first, second;
};
// `type` is SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK if wanted.
SysResult<SocketPair> create_socket_pair(int type = SOCK_STREAM);

// Paths longer than sun_path's 107 bytes go through /proc/self/fd of their directory.
// The socket file gets `mode` before anybody can connect; a file that lies there already is EADDRINUSE.
SysResult<UniqueFd> listen_unix(const std::string& path, int type = SOCK_STREAM, mode_t mode = 0600, int backlog = 64);
SysResult<UniqueFd> connect_unix(const std::string& path, int type = SOCK_STREAM);
SysResult<UniqueFd> accept_unix(int listener, bool nonblocking = false);

}  // namespace casemate::linux
