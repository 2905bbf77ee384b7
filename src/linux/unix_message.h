// Bytes with descriptors over a Unix socket (SCM_RIGHTS). What comes in is limited by the caller: descriptors past the
// limit are closed, never leaked, and the message is refused.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

constexpr size_t kMaxMessageFds = 253;  // SCM_MAX_FD

// Sends all bytes; the descriptors go with the first. On a stream socket at least one byte must carry descriptors.
// Never raises SIGPIPE. On a non-blocking socket EAGAIN comes only if nothing was sent; a rest is waited for.
SysResult<void> send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds);
SysResult<void> send_message(int socket, std::string_view bytes, std::initializer_list<int> fds = {});

struct ReceivedMessage {
    size_t size = 0;  // bytes; 0 at the end of a stream
    std::vector<UniqueFd> fds;
};
// One recvmsg(2) into `into`. All descriptors received are close-on-exec and owned by the result. EMSGSIZE if more than
// `max_fds` descriptors came or a datagram did not fit: everything that came is then closed. `flags` are MSG_*.
SysResult<ReceivedMessage> receive_message(int socket, std::span<std::byte> into, size_t max_fds, int flags = 0);
// Reads until `into` is full (stream sockets); ECONNRESET if the stream ends before.
SysResult<std::vector<UniqueFd>> receive_exactly(int socket, std::span<std::byte> into, size_t max_fds);

// Who is at the other end, as the kernel saw it at connect() or socketpair().
struct PeerCredentials {
    pid_t pid = 0;
    uid_t uid = 0;
    gid_t gid = 0;
};
SysResult<PeerCredentials> peer_credentials(int socket);

}  // namespace casemate::linux
