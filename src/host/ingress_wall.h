// IngressWall: keeps what comes in by some links from the host's own network stack, while packet sockets on them still
// see it: so a guest kernel can answer for a link's addresses, which stay where they are.
//
// It is a table of nf_tables (family netdev, chains at the links' ingress hooks, behind the packet sockets) that
// belongs to this socket: the kernel removes it with the socket, however the process ends. Linux 5.12 and nf_tables.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::host {

class IngressWall {
  public:
    // In the calling thread's network namespace. An error: this host cannot; nothing is left behind.
    static SysResult<IngressWall> raise(const std::vector<std::string>& links);

  private:
    explicit IngressWall(UniqueFd socket) : socket_(std::move(socket)) {}
    UniqueFd socket_;
};

}  // namespace casemate::host
