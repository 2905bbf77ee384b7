// UDP on a port of the loopback, one socket per peer: what accept(2) is for TCP (port_mirror.h).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::sandbox {

// A socket on 127.0.0.1 or ::1 of the calling thread's network namespace, non-blocking. EADDRINUSE: somebody has the
// port.
SysResult<UniqueFd> bind_loopback_datagrams(uint16_t port, bool v6);

struct UdpPeer {
    UniqueFd socket;                 // bound to the same port and connected to the peer: hears nobody else
    std::vector<std::string> first;  // what it sent before the socket was there, in order
};
// Those whose datagrams wait at `listener`, a socket of bind_loopback_datagrams(). What there is no memory or
// descriptor for is lost.
std::vector<UdpPeer> accept_udp_peers(int listener, uint16_t port, bool v6);

}  // namespace casemate::sandbox
