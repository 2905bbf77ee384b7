#include "sentry/net/netlink/route_messages.h"

#include <linux/if_link.h>
#include <linux/in6.h>
#include <linux/neighbour.h>

namespace casemate::sentry {
namespace {

// Newer than Debian's headers.
constexpr uint16_t kIflaGsoIpv4MaxSize = 63, kIflaGroIpv4MaxSize = 64;
constexpr uint32_t kIpv4Settings = 33;  // IPV4_DEVCONF_MAX
constexpr uint8_t kIpv6Ready = 0x80;    // IF_READY
constexpr uint8_t kAddressByEui64 = 0;  // IN6_ADDR_GEN_MODE_EUI64

rtnl_link_stats64 counters_of(const Link& link) {
    rtnl_link_stats64 stats{};
    const LinkCounters& from = *link.counters;
    stats.rx_packets = from.receive_packets;
    stats.rx_bytes = from.receive_bytes;
    stats.rx_errors = from.receive_errors;
    stats.rx_dropped = from.receive_dropped;
    stats.multicast = from.multicast;
    stats.tx_packets = from.send_packets;
    stats.tx_bytes = from.send_bytes;
    stats.tx_errors = from.send_errors;
    stats.tx_dropped = from.send_dropped;
    return stats;
}

// The 32-bit form has the same fields in the same order.
rtnl_link_stats narrow(const rtnl_link_stats64& wide) {
    rtnl_link_stats stats{};
    constexpr size_t kFields = sizeof(stats) / sizeof(uint32_t);
    static_assert(sizeof(wide) >= kFields * sizeof(uint64_t));
    for (size_t i = 0; i < kFields; i++) {
        uint64_t value;
        // SAFETY: both are plain rows of counters.
        memcpy(&value, reinterpret_cast<const char*>(&wide) + i * sizeof(value), sizeof(value));
        auto low = static_cast<uint32_t>(value);
        memcpy(reinterpret_cast<char*>(&stats) + i * sizeof(low), &low, sizeof(low));
    }
    return stats;
}

void add_family_settings(NetlinkMessage& message, const Link& link) {
    size_t all = message.begin_nest(IFLA_AF_SPEC);
    size_t v4 = message.begin_nest(AF_INET);
    uint32_t settings[kIpv4Settings] = {};
    // As Linux's defaults: accept_redirects, secure_redirects, send_redirects, shared_media, source routes.
    for (unsigned index : {4, 5, 6, 7, 9}) settings[index - 1] = 1;
    if (link.loopback())
        for (unsigned index : {15, 16}) settings[index - 1] = 1;  // noxfrm, nopolicy
    message.attribute(IFLA_INET_CONF, settings, sizeof(settings));
    message.end_nest(v4);
    size_t v6 = message.begin_nest(AF_INET6);
    message.attribute<uint32_t>(IFLA_INET6_FLAGS, link.up() ? kIpv6Ready : 0);
    message.attribute(IFLA_INET6_CACHEINFO, ifla_cacheinfo{65535, 0, 30000, 1000});
    message.attribute<uint8_t>(IFLA_INET6_ADDR_GEN_MODE, kAddressByEui64);
    message.end_nest(v6);
    message.end_nest(all);
}

}  // namespace

NetlinkMessage link_message(const MessageHead& head, const Link& link, bool brief) {
    NetlinkMessage message(head.removed ? RTM_DELLINK : RTM_NEWLINK, head.flags, head.sequence, head.port);
    ifinfomsg info{};
    info.ifi_type = link.type;
    info.ifi_index = link.index;
    info.ifi_flags = link.shown_flags();
    message.put(info);
    message.text(IFLA_IFNAME, link.name);
    message.attribute<uint32_t>(IFLA_TXQLEN, link.queue_length);
    message.attribute<uint8_t>(IFLA_OPERSTATE, link.operational_state());
    message.attribute<uint8_t>(IFLA_LINKMODE, 0);
    message.attribute<uint32_t>(IFLA_MTU, link.mtu);
    message.attribute<uint32_t>(IFLA_MIN_MTU, link.loopback() ? 0 : 68);
    message.attribute<uint32_t>(IFLA_MAX_MTU, link.loopback() ? 0 : 65535);
    message.attribute<uint32_t>(IFLA_GROUP, link.group);
    message.attribute<uint32_t>(IFLA_PROMISCUITY, link.flags & IFF_PROMISC ? 1 : 0);
    message.attribute<uint32_t>(IFLA_ALLMULTI, link.flags & IFF_ALLMULTI ? 1 : 0);
    message.attribute<uint32_t>(IFLA_NUM_TX_QUEUES, 1);
    message.attribute<uint32_t>(IFLA_GSO_MAX_SEGS, 65535);
    message.attribute<uint32_t>(IFLA_GSO_MAX_SIZE, 65536);
    message.attribute<uint32_t>(IFLA_GRO_MAX_SIZE, 65536);
    message.attribute<uint32_t>(kIflaGsoIpv4MaxSize, 65536);
    message.attribute<uint32_t>(kIflaGroIpv4MaxSize, 65536);
    message.attribute<uint32_t>(IFLA_TSO_MAX_SIZE, 524280);
    message.attribute<uint32_t>(IFLA_TSO_MAX_SEGS, 65535);
    message.attribute<uint32_t>(IFLA_NUM_RX_QUEUES, 1);
    message.attribute<uint8_t>(IFLA_CARRIER, link.carrier ? 1 : 0);
    message.attribute<uint32_t>(IFLA_CARRIER_CHANGES, 0);
    message.attribute<uint32_t>(IFLA_CARRIER_UP_COUNT, 0);
    message.attribute<uint32_t>(IFLA_CARRIER_DOWN_COUNT, 0);
    message.attribute<uint8_t>(IFLA_PROTO_DOWN, 0);
    message.attribute(IFLA_ADDRESS, link.hardware);
    message.attribute(IFLA_BROADCAST, link.broadcast);
    if (!link.alias.empty()) message.text(IFLA_IFALIAS, link.alias);
    if (!brief) {
        rtnl_link_stats64 stats = counters_of(link);
        message.attribute(IFLA_STATS64, stats);
        message.attribute(IFLA_STATS, narrow(stats));
    }
    message.text(IFLA_QDISC, "noqueue");
    if (!link.kind.empty()) {
        size_t nest = message.begin_nest(IFLA_LINKINFO);
        message.text(IFLA_INFO_KIND, link.kind);
        message.end_nest(nest);
    }
    add_family_settings(message, link);
    return message;
}

NetlinkMessage address_message(const MessageHead& head, const LinkAddress& one) {
    NetlinkMessage message(head.removed ? RTM_DELADDR : RTM_NEWADDR, head.flags, head.sequence, head.port);
    ifaddrmsg info{};
    info.ifa_family = one.v6() ? AF_INET6 : AF_INET;
    info.ifa_prefixlen = one.prefix;
    info.ifa_flags = static_cast<uint8_t>(one.flags);
    info.ifa_scope = one.scope;
    info.ifa_index = static_cast<uint32_t>(one.link);
    message.put(info);
    ifa_cacheinfo cache{one.preferred, one.valid, 0, 0};
    if (one.v6()) {
        if (one.peer != one.address) {
            message.address(IFA_LOCAL, one.address);
            message.address(IFA_ADDRESS, one.peer);
        } else {
            message.address(IFA_ADDRESS, one.address);
        }
        if (one.metric != 0) message.attribute(IFA_RT_PRIORITY, one.metric);
        message.attribute(IFA_CACHEINFO, cache);
        message.attribute(IFA_FLAGS, one.flags);
    } else {
        message.address(IFA_ADDRESS, one.peer);
        message.address(IFA_LOCAL, one.address);
        if (one.broadcast) message.address(IFA_BROADCAST, *one.broadcast);
        if (!one.label.empty()) message.text(IFA_LABEL, one.label);
        message.attribute(IFA_FLAGS, one.flags);
        if (one.metric != 0) message.attribute(IFA_RT_PRIORITY, one.metric);
        message.attribute(IFA_CACHEINFO, cache);
    }
    if (one.protocol != 0) message.attribute(IFA_PROTO, one.protocol);
    return message;
}

NetlinkMessage route_message(const MessageHead& head, const Route& route) {
    NetlinkMessage message(head.removed ? RTM_DELROUTE : RTM_NEWROUTE, head.flags, head.sequence, head.port);
    rtmsg info{};
    info.rtm_family = route.v6 ? AF_INET6 : AF_INET;
    info.rtm_dst_len = route.prefix;
    info.rtm_tos = route.tos;
    info.rtm_table = static_cast<uint8_t>(route.table < 256 ? route.table : RT_TABLE_COMPAT);
    info.rtm_protocol = route.protocol;
    info.rtm_scope = route.scope;
    info.rtm_type = route.type;
    info.rtm_flags = route.flags & RTNH_F_ONLINK;
    message.put(info);
    message.attribute(RTA_TABLE, route.table);
    if (route.prefix > 0) message.address(RTA_DST, route.destination);
    if (!route.v6 && route.metric != 0) message.attribute(RTA_PRIORITY, route.metric);
    if (route.mtu != 0 || route.advertised_mss != 0) {
        size_t nest = message.begin_nest(RTA_METRICS);
        if (route.mtu != 0) message.attribute(RTAX_MTU, route.mtu);
        if (route.advertised_mss != 0) message.attribute(RTAX_ADVMSS, route.advertised_mss);
        message.end_nest(nest);
    }
    if (route.source) message.address(RTA_PREFSRC, *route.source);
    if (route.v6) message.attribute(RTA_PRIORITY, route.metric);
    if (route.gateway) message.address(RTA_GATEWAY, *route.gateway);
    if (route.link != 0) message.attribute(RTA_OIF, route.link);
    if (route.v6) {
        message.attribute(RTA_CACHEINFO, rta_cacheinfo{});
        message.attribute<uint8_t>(RTA_PREF, 0);
    }
    return message;
}

NetlinkMessage neighbour_message(const MessageHead& head, const Neighbour& neighbour) {
    NetlinkMessage message(head.removed ? RTM_DELNEIGH : RTM_NEWNEIGH, head.flags, head.sequence, head.port);
    ndmsg info{};
    info.ndm_family = neighbour.address.is_v4() ? AF_INET : AF_INET6;
    info.ndm_ifindex = neighbour.link;
    info.ndm_state = neighbour.state;
    info.ndm_flags = neighbour.flags;
    info.ndm_type = neighbour.address.is_multicast() ? RTN_MULTICAST : RTN_UNICAST;
    message.put(info);
    message.address(NDA_DST, neighbour.address);
    if (neighbour.state & (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_PROBE | NUD_STALE | NUD_DELAY))
        message.attribute(NDA_LLADDR, neighbour.hardware);
    message.attribute<uint32_t>(NDA_PROBES, 0);
    message.attribute(NDA_CACHEINFO, nda_cacheinfo{});
    return message;
}

}  // namespace casemate::sentry
