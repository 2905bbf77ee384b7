#include "sentry/net/family.h"

#include "sentry/net/host/host_socket.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {
namespace {

using Create = SysResult<Ref<Socket>> (*)(Ref<Network> network, Task& task, int domain, int type, int protocol);
struct Family {
    int domain;
    Create create;
};
SysResult<Ref<Socket>> create_any_inet_socket(Ref<Network> network, Task& task, int domain, int type, int protocol) {
    if (network->host() != nullptr) return create_host_socket(std::move(network), task, domain, type, protocol);
    return create_inet_socket(std::move(network), task, domain, type, protocol);
}

// A family that is absent answers what a Linux without it would.
constexpr Family kFamilies[] = {
    {AF_UNIX, create_unix_socket},       {AF_INET, create_any_inet_socket}, {AF_INET6, create_any_inet_socket},
    {AF_NETLINK, create_netlink_socket}, {AF_PACKET, create_packet_socket},
};

constexpr int kMostTypes = 11;  // SOCK_MAX

}  // namespace

SysResult<Ref<Socket>> create_socket(Task& task, int domain, int type, int protocol) {
    if (domain < 0) return Errno(EAFNOSUPPORT);
    if (type < 0 || type >= kMostTypes) return Errno(EINVAL);
    for (const Family& family : kFamilies)
        if (family.domain == domain) return family.create(network_of(task), task, domain, type, protocol);
    return Errno(EAFNOSUPPORT);
}

}  // namespace casemate::sentry
