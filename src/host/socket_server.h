// Sockets of the host for a sentry in host network mode (--net host): the sentry has a network namespace of its own and
// no call that makes a socket, so casemate-sockets, which lives in the pod's network namespace (the host's), makes them
// by request and passes the descriptors.
//
// One request, one reply, over a SOCK_SEQPACKET pair. Requests are hostile: a sentry that was taken over writes them.
// What it gets: TCP, UDP and ICMP echo sockets, nothing else; and a bind to a port below 1024 where the container has
// CAP_NET_BIND_SERVICE, which this process then keeps as its only capability. The server ends with its peer.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::host {

struct SocketRequest {
    enum Kind : uint32_t {
        kMake = 1,  // family, type (SOCK_STREAM, SOCK_DGRAM) and protocol: answered with a non-blocking descriptor
        kBind = 2,  // comes with a descriptor: bound to the address
    };
    uint32_t kind = 0;
    int32_t family = 0, type = 0, protocol = 0;
    uint32_t address_size = 0;
    uint8_t address[28] = {};  // sockaddr_in, sockaddr_in6
};
struct SocketReply {
    int32_t error = 0;  // errno; 0: done
};

// What may be made: AF_INET and AF_INET6, TCP, UDP, ICMP echo. Both sides ask.
bool is_host_socket(int family, int type, int protocol);

// The calls of the server, after which nothing else is possible.
Result<void> confine_socket_server();
// Until the peer has gone.
void serve_sockets(int channel);

// The other side. Each waits for the answer; one at a time.
SysResult<UniqueFd> ask_for_socket(int channel, int family, int type, int protocol);
SysResult<void> ask_for_bind(int channel, int socket, const void* address, size_t size);

}  // namespace casemate::host
