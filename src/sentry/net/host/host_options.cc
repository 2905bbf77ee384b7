#include "sentry/net/host/host_options.h"

#include <asm/socket.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>

namespace casemate::sentry {
namespace {

constexpr int kUdpCork = 1, kUdpSegment = 103, kUdpGro = 104;  // <netinet/udp.h>
constexpr int kTcpCmInq = TCP_INQ;                             // TCP_CM_INQ
constexpr uint16_t kName = 16;                                 // IFNAMSIZ, TCP_CA_NAME_MAX

constexpr HostOption number(int level, int name) { return {level, name, true, true, 4, 4}; }
constexpr HostOption byte_or_number(int level, int name) { return {level, name, true, true, 0, 4}; }
constexpr HostOption told(int level, int name) { return {level, name, false, true, 0, 0}; }
constexpr HostOption done(int level, int name, uint16_t least, uint16_t most) {
    return {level, name, true, false, least, most};
}

constexpr HostOption kOptions[] = {
    told(SOL_SOCKET, SO_TYPE),
    told(SOL_SOCKET, SO_DOMAIN),
    told(SOL_SOCKET, SO_PROTOCOL),
    told(SOL_SOCKET, SO_ERROR),
    told(SOL_SOCKET, SO_ACCEPTCONN),
    told(SOL_SOCKET, SO_SNDLOWAT),
    told(SOL_SOCKET, SO_MEMINFO),
    number(SOL_SOCKET, SO_REUSEADDR),
    number(SOL_SOCKET, SO_REUSEPORT),
    number(SOL_SOCKET, SO_KEEPALIVE),
    number(SOL_SOCKET, SO_BROADCAST),
    number(SOL_SOCKET, SO_OOBINLINE),
    number(SOL_SOCKET, SO_DONTROUTE),
    number(SOL_SOCKET, SO_SNDBUF),
    number(SOL_SOCKET, SO_RCVBUF),
    number(SOL_SOCKET, SO_RCVLOWAT),
    {SOL_SOCKET, SO_LINGER, true, true, 8, 8},
    number(SOL_SOCKET, SO_TIMESTAMP_OLD),
    number(SOL_SOCKET, SO_TIMESTAMPNS_OLD),
    number(SOL_SOCKET, SO_TIMESTAMP_NEW),
    number(SOL_SOCKET, SO_TIMESTAMPNS_NEW),
    number(SOL_SOCKET, SO_PRIORITY),
    number(SOL_SOCKET, SO_NO_CHECK),
    number(SOL_SOCKET, SO_RXQ_OVFL),
    number(SOL_SOCKET, SO_PEEK_OFF),
    number(SOL_SOCKET, SO_INCOMING_CPU),
    {SOL_SOCKET, SO_BINDTODEVICE, true, true, 0, kName},
    number(SOL_SOCKET, SO_BINDTOIFINDEX),
    number(SOL_SOCKET, SO_MAX_PACING_RATE),

    byte_or_number(IPPROTO_IP, IP_TOS),
    byte_or_number(IPPROTO_IP, IP_TTL),
    byte_or_number(IPPROTO_IP, IP_MULTICAST_TTL),
    byte_or_number(IPPROTO_IP, IP_MULTICAST_LOOP),
    {IPPROTO_IP, IP_MULTICAST_IF, true, true, 4, 12},
    byte_or_number(IPPROTO_IP, IP_MULTICAST_ALL),
    done(IPPROTO_IP, IP_ADD_MEMBERSHIP, 8, 12),
    done(IPPROTO_IP, IP_DROP_MEMBERSHIP, 8, 12),
    done(IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, 12, 12),
    done(IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP, 12, 12),
    done(IPPROTO_IP, MCAST_JOIN_GROUP, 136, 136),
    done(IPPROTO_IP, MCAST_LEAVE_GROUP, 136, 136),
    byte_or_number(IPPROTO_IP, IP_PKTINFO),
    byte_or_number(IPPROTO_IP, IP_RECVTTL),
    byte_or_number(IPPROTO_IP, IP_RECVTOS),
    byte_or_number(IPPROTO_IP, IP_RECVERR),
    byte_or_number(IPPROTO_IP, IP_RECVORIGDSTADDR),
    byte_or_number(IPPROTO_IP, IP_MTU_DISCOVER),
    byte_or_number(IPPROTO_IP, IP_FREEBIND),
    byte_or_number(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
    number(IPPROTO_IP, IP_UNICAST_IF),
    told(IPPROTO_IP, IP_MTU),

    number(IPPROTO_IPV6, IPV6_V6ONLY),
    number(IPPROTO_IPV6, IPV6_UNICAST_HOPS),
    number(IPPROTO_IPV6, IPV6_MULTICAST_HOPS),
    number(IPPROTO_IPV6, IPV6_MULTICAST_LOOP),
    number(IPPROTO_IPV6, IPV6_MULTICAST_IF),
    number(IPPROTO_IPV6, IPV6_MULTICAST_ALL),
    done(IPPROTO_IPV6, IPV6_ADD_MEMBERSHIP, 20, 20),
    done(IPPROTO_IPV6, IPV6_DROP_MEMBERSHIP, 20, 20),
    done(IPPROTO_IPV6, MCAST_JOIN_GROUP, 136, 136),
    done(IPPROTO_IPV6, MCAST_LEAVE_GROUP, 136, 136),
    number(IPPROTO_IPV6, IPV6_RECVPKTINFO),
    number(IPPROTO_IPV6, IPV6_RECVHOPLIMIT),
    number(IPPROTO_IPV6, IPV6_RECVTCLASS),
    number(IPPROTO_IPV6, IPV6_TCLASS),
    number(IPPROTO_IPV6, IPV6_RECVERR),
    number(IPPROTO_IPV6, IPV6_MTU_DISCOVER),
    number(IPPROTO_IPV6, IPV6_DONTFRAG),
    number(IPPROTO_IPV6, IPV6_UNICAST_IF),
    number(IPPROTO_IPV6, IPV6_ADDR_PREFERENCES),
    told(IPPROTO_IPV6, IPV6_MTU),

    number(IPPROTO_TCP, TCP_NODELAY),
    number(IPPROTO_TCP, TCP_MAXSEG),
    number(IPPROTO_TCP, TCP_CORK),
    number(IPPROTO_TCP, TCP_KEEPIDLE),
    number(IPPROTO_TCP, TCP_KEEPINTVL),
    number(IPPROTO_TCP, TCP_KEEPCNT),
    number(IPPROTO_TCP, TCP_SYNCNT),
    number(IPPROTO_TCP, TCP_LINGER2),
    number(IPPROTO_TCP, TCP_DEFER_ACCEPT),
    number(IPPROTO_TCP, TCP_WINDOW_CLAMP),
    number(IPPROTO_TCP, TCP_QUICKACK),
    number(IPPROTO_TCP, TCP_USER_TIMEOUT),
    number(IPPROTO_TCP, TCP_NOTSENT_LOWAT),
    number(IPPROTO_TCP, TCP_INQ),
    {IPPROTO_TCP, TCP_CONGESTION, true, true, 1, kName},
    told(IPPROTO_TCP, TCP_INFO),

    number(IPPROTO_UDP, kUdpCork),
    number(IPPROTO_UDP, kUdpSegment),
    number(IPPROTO_UDP, kUdpGro),
};

struct Control {
    int level, type;
    size_t size;  // where it may be sent; 0: only received
};
constexpr Control kControls[] = {
    {SOL_SOCKET, SO_TIMESTAMP_OLD, 0},
    {SOL_SOCKET, SO_TIMESTAMPNS_OLD, 0},
    {SOL_SOCKET, SO_TIMESTAMP_NEW, 0},
    {SOL_SOCKET, SO_TIMESTAMPNS_NEW, 0},
    {SOL_SOCKET, SO_RXQ_OVFL, 0},
    {IPPROTO_IP, IP_PKTINFO, sizeof(in_pktinfo)},
    {IPPROTO_IP, IP_TTL, sizeof(int)},
    {IPPROTO_IP, IP_TOS, sizeof(int)},
    {IPPROTO_IP, IP_RECVERR, 0},
    {IPPROTO_IP, IP_ORIGDSTADDR, 0},
    {IPPROTO_IPV6, IPV6_PKTINFO, sizeof(in6_pktinfo)},
    {IPPROTO_IPV6, IPV6_HOPLIMIT, sizeof(int)},
    {IPPROTO_IPV6, IPV6_TCLASS, sizeof(int)},
    {IPPROTO_IPV6, IPV6_DONTFRAG, sizeof(int)},
    {IPPROTO_IPV6, IPV6_RECVERR, 0},
    {IPPROTO_UDP, kUdpSegment, sizeof(uint16_t)},
    {IPPROTO_UDP, kUdpGro, 0},
    {IPPROTO_TCP, kTcpCmInq, 0},
};

}  // namespace

std::span<const HostOption> host_options() { return kOptions; }

const HostOption* find_host_option(int level, int name) {
    const auto* found =
        std::ranges::find_if(kOptions, [&](const HostOption& one) { return one.level == level && one.name == name; });
    return found == std::end(kOptions) ? nullptr : found;
}

size_t host_control_size(int level, int type) {
    for (const Control& one : kControls)
        if (one.level == level && one.type == type) return one.size;
    return 0;
}

bool is_host_control(int level, int type) {
    return std::ranges::any_of(kControls, [&](const Control& one) { return one.level == level && one.type == type; });
}

}  // namespace casemate::sentry
