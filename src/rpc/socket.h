// Where ttrpc is spoken: Unix sockets (in the file system or abstract), vsock, and sockets that were inherited.
//
//   unix:///run/x.sock, /run/x.sock    a path; longer than sockaddr_un takes: through /proc/self/fd
//   unix:@name                         abstract (containerd's "unix://\0name" too)
//   vsock://CID:PORT                   CID "any" when listening
//   fd://N                             inherited; a connected socket for connect(), a listening one for listen()
//
// All descriptors are close-on-exec.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::rpc {

// `mode`: permissions of the socket file, set before anybody can connect.
Result<UniqueFd> listen_on(std::string_view address, unsigned mode = 0600);
Result<UniqueFd> connect_to(std::string_view address);

Result<UniqueFd> listen_unix(std::string_view path, unsigned mode = 0600);
Result<UniqueFd> connect_unix(std::string_view path);
Result<UniqueFd> listen_vsock(uint32_t cid, uint32_t port);
Result<UniqueFd> connect_vsock(uint32_t cid, uint32_t port);
// Takes over descriptor `fd`, which a parent left open: it must be a stream socket. Sets close-on-exec.
Result<UniqueFd> adopt_inherited(int fd);

}  // namespace casemate::rpc
