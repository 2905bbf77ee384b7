#include "sentry/net/inet/inet_socket.h"

#include <linux/capability.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "sentry/net/inet/ping_socket.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr size_t kShortIpv6Address = 24;  // without sin6_scope_id
constexpr int kProtocols = 256;           // IPPROTO_MAX, without MPTCP

}  // namespace

InetSocket::InetSocket(int family, int type, int protocol, Ref<Network> network, uint32_t uid)
    : Socket(family, type, protocol, std::move(network)), uid_(uid) {
    local_.address = any();
}
InetSocket::~InetSocket() { ports().release(*this); }

PortTable& InetSocket::ports() {
    if (type() == SOCK_RAW) return network().raw_sockets();
    switch (protocol()) {
        case IPPROTO_TCP:
            return network().tcp_ports();
        case IPPROTO_UDPLITE:
            return network().udplite_ports();
        case IPPROTO_ICMP:
            return network().ping_ports();
        case IPPROTO_ICMPV6:
            return network().ping6_ports();
        default:
            return network().udp_ports();
    }
}

SysResult<InetEndpoint> InetSocket::parse(const SocketAddress& address, Use use) {
    sa_family_t given = address.family();
    if (v6() && given == AF_INET6) {
        if (address.size < kShortIpv6Address) return Errno(EINVAL);
        auto value = address.as<sockaddr_in6>();
        InetEndpoint endpoint{InetAddress::v6(value.sin6_addr), ntohs(value.sin6_port)};
        if (endpoint.address.is_v4() && v6_only()) return Errno(use == Use::kBind ? EINVAL : ENETUNREACH);
        return endpoint;
    }
    if (v6() && (given != AF_INET || type() == SOCK_STREAM || use == Use::kBind)) {
        if (address.size < kShortIpv6Address) return Errno(EINVAL);
        return Errno(EAFNOSUPPORT);
    }
    if (address.size < sizeof(sockaddr_in)) return Errno(EINVAL);
    auto value = address.as<sockaddr_in>();
    bool unspecified_fits = (use == Use::kBind && value.sin_addr.s_addr == INADDR_ANY) || use == Use::kSend;
    if (given != AF_INET && !(given == AF_UNSPEC && unspecified_fits)) return Errno(EAFNOSUPPORT);
    if (v6() && v6_only()) return Errno(ENETUNREACH);
    return InetEndpoint{InetAddress::v4(ntohl(value.sin_addr.s_addr)), ntohs(value.sin_port)};
}

int InetSocket::scope_of(const SocketAddress& address) {
    if (address.family() != AF_INET6) return 0;
    auto value = address.as<sockaddr_in6>();
    const in6_addr& bytes = value.sin6_addr;
    bool scoped = IN6_IS_ADDR_LINKLOCAL(&bytes) || IN6_IS_ADDR_MC_LINKLOCAL(&bytes) || IN6_IS_ADDR_MC_NODELOCAL(&bytes);
    return scoped ? static_cast<int>(value.sin6_scope_id) : 0;
}

SocketAddress InetSocket::format(const InetEndpoint& endpoint, int link) const {
    if (v6()) {
        sockaddr_in6 value{};
        value.sin6_family = AF_INET6;
        value.sin6_port = htons(endpoint.port);
        value.sin6_addr = endpoint.address.as_v6();
        if (IN6_IS_ADDR_LINKLOCAL(&value.sin6_addr)) value.sin6_scope_id = static_cast<uint32_t>(link);
        return SocketAddress::of(value);
    }
    sockaddr_in value{};
    value.sin_family = AF_INET;
    value.sin_port = htons(endpoint.port);
    value.sin_addr.s_addr = htonl(endpoint.address.is_v4() ? endpoint.address.as_v4() : 0);
    return SocketAddress::of(value);
}

SysResult<RouteChoice> InetSocket::route(InetAddress& destination, const InetAddress& source, int link) {
    if (destination.is_any6())
        destination = InetAddress::loopback6();
    else if (destination.is_any())
        destination = source.is_v4() && !source.is_any() ? source : InetAddress::v4(INADDR_LOOPBACK);
    if (link == 0) link = options_.bound_device.load(std::memory_order_relaxed);
    // An unspecified address of either family: none is wanted.
    InetAddress from = source.is_any() && destination.is_v4() ? InetAddress::v4(0) : source;
    Interfaces& model = network().interfaces();
    uint64_t generation = model.generation();
    {
        std::lock_guard lock(way_mutex_);
        if (way_.generation == generation && way_.destination == destination && way_.source == from &&
            way_.link == link)
            return way_.choice;
    }
    RouteChoice choice = TRY(model.route(destination, from, link));
    if (choice.type == RTN_BROADCAST && !(type() == SOCK_DGRAM && has(kBroadcast)))
        return Errno(type() == SOCK_STREAM ? ENETUNREACH : EACCES);
    std::lock_guard lock(way_mutex_);
    // What is allowed to broadcast may be forbidden it again.
    if (choice.type != RTN_BROADCAST) way_ = {generation, destination, from, link, choice};
    return choice;
}

SysResult<void> InetSocket::bind(Task& task, const SocketAddress& address) {
    InetEndpoint wanted = TRY(parse(address, Use::kBind));
    const InetAddress& where = wanted.address;
    if (!where.is_any() && option(IPPROTO_IP, IP_FREEBIND, 0) == 0) {
        uint8_t kind = network().interfaces().local_type(where);
        bool group = type() != SOCK_STREAM && (kind == RTN_MULTICAST || kind == RTN_BROADCAST);
        if (kind != RTN_LOCAL && !group) return Errno(EADDRNOTAVAIL);
    }
    if (wanted.port != 0 && wanted.port < network().settings().unprivileged_port_start &&
        !task.has_capability(CAP_NET_BIND_SERVICE))
        return Errno(EACCES);
    std::lock_guard lock(mutex_);
    if (bound_) return Errno(EINVAL);
    bool was_v6_only = v6_only();
    // A socket with an IPv6 address of its own has nothing to do with IPv4 any more.
    if (v6() && !where.is_any() && !where.is_v4()) v6_only_ = true;
    auto bound = ports().bind(*this, wanted);
    if (!bound.ok()) {
        v6_only_ = was_v6_only;
        return bound.take_error();
    }
    return {};
}

SysResult<SocketAddress> InetSocket::local_address() {
    std::lock_guard lock(mutex_);
    InetEndpoint local = local_;
    if (!bound_) local.address = any();
    return format(local);
}

int InetSocket::option(int level, int name, int fallback) {
    std::lock_guard lock(kept_mutex_);
    auto it = kept_.find({level, name});
    return it == kept_.end() ? fallback : it->second;
}
void InetSocket::inherit_kept(InetSocket& from) {
    decltype(kept_) copy;
    decltype(ip_options_) options;
    {
        std::lock_guard lock(from.kept_mutex_);
        copy = from.kept_;
        options = from.ip_options_;
    }
    std::lock_guard lock(kept_mutex_);
    kept_ = std::move(copy);
    ip_options_ = std::move(options);
}
void InetSocket::keep_option(int level, int name, int value) {
    std::lock_guard lock(kept_mutex_);
    kept_[{level, name}] = value;
}

SysResult<Ref<Socket>> create_inet_socket(Ref<Network> network, Task& task, int domain, int type, int protocol) {
    uint32_t uid = task.credentials().fsuid;
    if (protocol < 0 || protocol >= kProtocols) return Errno(EINVAL);
    bool ping = protocol == (domain == AF_INET ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6));
    switch (type) {
        case SOCK_STREAM:
            if (protocol != 0 && protocol != IPPROTO_TCP) return Errno(EPROTONOSUPPORT);
            return Ref<Socket>(make_ref<TcpSocket>(domain, std::move(network), uid));
        case SOCK_DGRAM:
            if (ping) {
                auto allowed = network->settings().ping_groups();
                bool in_range = false;
                auto look = [&](uint32_t group) {
                    in_range = in_range || (group >= allowed.first && group <= allowed.second);
                };
                look(task.credentials().fsgid);
                for (uint32_t group : task.credentials().groups) look(group);
                if (!in_range) return Errno(EACCES);
                return Ref<Socket>(make_ref<PingSocket>(domain, std::move(network), uid));
            }
            if (protocol == 0) protocol = IPPROTO_UDP;
            if (protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE) return Errno(EPROTONOSUPPORT);
            return Ref<Socket>(make_ref<UdpSocket>(domain, protocol, std::move(network), uid));
        case SOCK_RAW:
            if (protocol == 0) return Errno(EPROTONOSUPPORT);
            if (!task.has_capability(CAP_NET_RAW)) return Errno(EPERM);
            return Ref<Socket>(make_ref<RawSocket>(domain, protocol, std::move(network), uid));
        default:
            return Errno(ESOCKTNOSUPPORT);
    }
}

}  // namespace casemate::sentry
