// NETLINK_ROUTE: routes, neighbours and rules.
#include <linux/fib_rules.h>
#include <linux/neighbour.h>

#include <algorithm>

#include "sentry/net/netlink/route_messages.h"
#include "sentry/net/netlink/route_requests.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kBroadcastFlag = 0x10000000, kMulticastFlag = 0x20000000, kLocalFlag = 0x80000000;  // RTCF_*

SysResult<bool> is_v6(uint8_t family) {
    if (family != AF_INET && family != AF_INET6) return Errno(EOPNOTSUPP);
    return family == AF_INET6;
}

SysResult<Route> read_route(const RouteRequest<rtmsg>& request, bool adding, NetlinkReply& reply) {
    const rtmsg& header = request.header;
    const NetlinkAttributes& attributes = request.attributes;
    Route route;
    route.v6 = TRY(is_v6(header.rtm_family));
    if (header.rtm_dst_len > (route.v6 ? 128 : 32)) {
        reply.reason = "Invalid prefix length";
        return Errno(EINVAL);
    }
    // Source routes need rules and a tree of their own.
    if (header.rtm_src_len != 0 || attributes.has(RTA_ENCAP) || attributes.has(RTA_NH_ID) || attributes.has(RTA_VIA))
        return Errno(EOPNOTSUPP);
    if (header.rtm_flags & RTM_F_CLONED) return Errno(EINVAL);
    route.prefix = header.rtm_dst_len;
    route.destination =
        TRY(attributes.address(RTA_DST, route.v6)).value_or(route.v6 ? InetAddress() : InetAddress::v4(0));
    route.table = TRY(attributes.value<uint32_t>(RTA_TABLE)).value_or(header.rtm_table);
    if (route.table == 0) route.table = RT_TABLE_MAIN;
    route.type = header.rtm_type;
    route.scope = header.rtm_scope;
    route.protocol = header.rtm_protocol;
    route.tos = route.v6 ? 0 : header.rtm_tos;
    route.metric = TRY(attributes.value<uint32_t>(RTA_PRIORITY)).value_or(0);
    route.link = TRY(attributes.value<int>(RTA_OIF)).value_or(0);
    route.gateway = TRY(attributes.address(RTA_GATEWAY, route.v6));
    route.source = TRY(attributes.address(RTA_PREFSRC, route.v6));
    route.flags = header.rtm_flags & RTNH_F_ONLINK;
    if (auto metrics = attributes.find(RTA_METRICS)) {
        auto inner = TRY(NetlinkAttributes::parse(*metrics, false));
        route.mtu = TRY(inner.value<uint32_t>(RTAX_MTU)).value_or(0);
        route.advertised_mss = TRY(inner.value<uint32_t>(RTAX_ADVMSS)).value_or(0);
    }
    if (auto several = attributes.find(RTA_MULTIPATH)) {
        // One way only, as `ip route add ... nexthop` with one hop writes it; several would need a balance.
        rtnexthop hop;
        if (several->size() < sizeof(hop)) return Errno(EINVAL);
        memcpy(&hop, several->data(), sizeof(hop));
        if (hop.rtnh_len < sizeof(hop) || hop.rtnh_len > several->size()) return Errno(EINVAL);
        if (static_cast<size_t>(RTNH_ALIGN(hop.rtnh_len)) < several->size()) return Errno(EOPNOTSUPP);
        auto inner = TRY(NetlinkAttributes::parse(several->subspan(sizeof(hop), hop.rtnh_len - sizeof(hop)), false));
        route.link = hop.rtnh_ifindex;
        route.gateway = TRY(inner.address(RTA_GATEWAY, route.v6));
        route.flags |= hop.rtnh_flags & RTNH_F_ONLINK;
    }
    if (route.v6 && route.gateway && route.gateway->is_any6()) route.gateway.reset();
    if (!adding) return route;
    if (route.type == RTN_UNSPEC) route.type = RTN_UNICAST;
    if (route.type > RTN_MAX) return Errno(EINVAL);
    if (route.v6) route.scope = RT_SCOPE_UNIVERSE;
    return route;
}

const char* reason_of(int error, const Route& route) {
    if (error == ENETUNREACH && !route.v6) return "Nexthop has invalid gateway";
    if (error == ENETDOWN && !route.v6) return "Device for nexthop is not up";
    if (error == EINVAL && route.source) return "Invalid prefsrc address";
    return nullptr;
}

// RTM_GETROUTE without a dump: which way packets would go.
SysResult<void> find_way(const RouteRequest<rtmsg>& request, NetlinkReply& reply) {
    const rtmsg& header = request.header;
    bool v6 = TRY(is_v6(header.rtm_family));
    uint8_t bits = v6 ? 128 : 32;
    if ((header.rtm_dst_len != 0 && header.rtm_dst_len != bits) ||
        (header.rtm_src_len != 0 && header.rtm_src_len != bits))
        return Errno(EINVAL);
    InetAddress none = v6 ? InetAddress() : InetAddress::v4(0);
    auto to = TRY(request.attributes.address(RTA_DST, v6)).value_or(none);
    auto given_source = TRY(request.attributes.address(RTA_SRC, v6));
    auto out = TRY(request.attributes.value<int>(RTA_OIF)).value_or(0);
    // Coming in by a link and being forwarded: nothing is forwarded here.
    if (TRY(request.attributes.value<int>(RTA_IIF)).value_or(0) != 0) return Errno(EHOSTUNREACH);
    if (given_source && !given_source->is_any() && request.model.local_type(*given_source) != RTN_LOCAL && !v6)
        return Errno(EINVAL);
    RouteChoice way = TRY(request.model.route(to, given_source.value_or(none), out));
    if (v6 ? to.is_any6() : to.is_any()) to = v6 ? InetAddress::loopback6() : InetAddress::v4(INADDR_LOOPBACK);
    MessageHead head = request.head();
    if (header.rtm_flags & RTM_F_FIB_MATCH) {
        reply.messages.push_back(route_message(head, way.route));
        return {};
    }
    NetlinkMessage message(RTM_NEWROUTE, 0, head.sequence, head.port);
    rtmsg info{};
    info.rtm_family = header.rtm_family;
    info.rtm_dst_len = bits;
    info.rtm_type = way.type;
    if (v6) {
        info.rtm_src_len = bits;
        info.rtm_table = static_cast<uint8_t>(way.route.table);
        info.rtm_protocol = way.route.protocol;
        message.put(info);
        message.attribute<uint32_t>(RTA_TABLE, way.route.table);
        message.address(RTA_DST, to);
        message.address(RTA_SRC, given_source.value_or(none));
        message.address(RTA_PREFSRC, way.source);
        message.attribute(RTA_PRIORITY, way.route.metric);
        if (way.gateway) message.address(RTA_GATEWAY, *way.gateway);
        message.attribute(RTA_OIF, way.link);
        message.attribute(RTA_CACHEINFO, rta_cacheinfo{});
        message.attribute<uint8_t>(RTA_PREF, 0);
    } else {
        info.rtm_src_len = given_source ? bits : 0;
        info.rtm_table = RT_TABLE_MAIN;
        info.rtm_flags = RTM_F_CLONED;
        if (way.type == RTN_LOCAL || way.link == Interfaces::kLoopback) info.rtm_flags |= kLocalFlag;
        if (way.type == RTN_BROADCAST) info.rtm_flags |= kBroadcastFlag | kLocalFlag;
        if (way.type == RTN_MULTICAST) info.rtm_flags |= kMulticastFlag | kLocalFlag;
        message.put(info);
        message.attribute<uint32_t>(RTA_TABLE, RT_TABLE_MAIN);
        message.address(RTA_DST, to);
        if (given_source) message.address(RTA_SRC, *given_source);
        message.attribute(RTA_OIF, way.link);
        if (!given_source) message.address(RTA_PREFSRC, way.source);
        if (way.gateway) message.address(RTA_GATEWAY, *way.gateway);
        message.attribute<uint32_t>(RTA_UID, request.base.task.credentials().uid);
        message.attribute(RTA_CACHEINFO, rta_cacheinfo{});
    }
    reply.messages.push_back(std::move(message));
    return {};
}

SysResult<Neighbour> read_neighbour(const RouteRequest<ndmsg>& request, NetlinkReply& reply) {
    const ndmsg& header = request.header;
    if (!request.attributes.has(NDA_DST)) {
        reply.reason = "Network address not specified";
        return Errno(EINVAL);
    }
    if (header.ndm_family != AF_INET && header.ndm_family != AF_INET6) return Errno(EAFNOSUPPORT);
    auto address = TRY(request.attributes.address(NDA_DST, header.ndm_family == AF_INET6));
    if (header.ndm_ifindex != 0 && !request.model.link(header.ndm_ifindex)) return Errno(ENODEV);
    if (header.ndm_ifindex == 0) return Errno(EINVAL);
    Neighbour neighbour;
    neighbour.link = header.ndm_ifindex;
    neighbour.address = *address;
    neighbour.state = header.ndm_state;
    neighbour.flags = header.ndm_flags;
    if (auto hardware = request.attributes.find(NDA_LLADDR)) {
        if (hardware->size() < neighbour.hardware.size()) {
            reply.reason = "Invalid link address";
            return Errno(EINVAL);
        }
        memcpy(neighbour.hardware.data(), hardware->data(), neighbour.hardware.size());
    }
    return neighbour;
}

}  // namespace

SysResult<void> get_routes(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<rtmsg>::read(base, model));
    if (!base.is_dump()) return find_way(request, reply);
    const rtmsg& header = request.header;
    uint32_t table = 0;
    uint8_t protocol = 0, type = 0;
    int link = 0;
    if (base.strict) {
        if (header.rtm_dst_len != 0 || header.rtm_src_len != 0 || header.rtm_tos != 0 || header.rtm_scope != 0) {
            reply.reason = "Invalid values in header for FIB dump request";
            return Errno(EINVAL);
        }
        table = TRY(request.attributes.value<uint32_t>(RTA_TABLE)).value_or(header.rtm_table);
        protocol = header.rtm_protocol;
        type = header.rtm_type;
        link = TRY(request.attributes.value<int>(RTA_OIF)).value_or(0);
        if (link != 0 && !model.link(link)) return Errno(ENODEV);
        if (table != 0 || protocol != 0 || type != 0 || link != 0) reply.dump_flags = NLM_F_DUMP_FILTERED;
    }
    reply.dump = true;
    // Cached routes: there are none.
    if (header.rtm_flags & RTM_F_CLONED) return {};
    MessageHead head = request.head();
    bool found = false;
    for (const Route& route : model.routes()) {
        if (header.rtm_family != AF_UNSPEC && (header.rtm_family == AF_INET6) != route.v6) continue;
        if (table != 0 && route.table == table) found = true;
        if ((table != 0 && route.table != table) || (protocol != 0 && route.protocol != protocol) ||
            (type != 0 && route.type != type) || (link != 0 && route.link != link))
            continue;
        reply.messages.push_back(route_message(head, route));
    }
    bool standard = table == RT_TABLE_MAIN || table == RT_TABLE_LOCAL || table == RT_TABLE_DEFAULT;
    if (table != 0 && !found && !standard && header.rtm_family != AF_UNSPEC) {
        reply.reason = header.rtm_family == AF_INET6 ? "FIB table does not exist" : "ipv4: FIB table does not exist";
        return Errno(ENOENT);
    }
    return {};
}

SysResult<void> add_route(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<rtmsg>::read(base, model));
    Route route = TRY(read_route(request, true, reply));
    auto done = model.add_route(route, base.header.nlmsg_flags);
    if (!done.ok()) reply.reason = reason_of(done.error().value, route);
    return done;
}

SysResult<void> remove_route(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<rtmsg>::read(base, model));
    Route like = TRY(read_route(request, false, reply));
    return model.remove_route(like);
}

SysResult<void> get_neighbours(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ndmsg>::read(base, model));
    MessageHead head = request.head();
    if (!base.is_dump()) {
        Neighbour wanted = TRY(read_neighbour(request, reply));
        for (const Neighbour& one : base.socket.network().neighbours()) {
            if (one.link != wanted.link || one.address != wanted.address) continue;
            reply.messages.push_back(neighbour_message(head, one));
            return {};
        }
        return Errno(ENOENT);
    }
    const ndmsg& header = request.header;
    int link = 0;
    if (base.strict) {
        if (header.ndm_ifindex != 0 || header.ndm_state != 0 || header.ndm_type != 0) {
            reply.reason = "Invalid values in header for neighbor dump request";
            return Errno(EINVAL);
        }
        link = TRY(request.attributes.value<int>(NDA_IFINDEX)).value_or(0);
        if (link != 0) reply.dump_flags = NLM_F_DUMP_FILTERED;
    }
    reply.dump = true;
    for (const Neighbour& one : base.socket.network().neighbours()) {
        if (header.ndm_family != AF_UNSPEC && (header.ndm_family == AF_INET) != one.address.is_v4()) continue;
        if (link != 0 && one.link != link) continue;
        reply.messages.push_back(neighbour_message(head, one));
    }
    return {};
}

SysResult<void> add_neighbour(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ndmsg>::read(base, model));
    Neighbour neighbour = TRY(read_neighbour(request, reply));
    return model.set_neighbour(neighbour, base.header.nlmsg_flags);
}

SysResult<void> remove_neighbour(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ndmsg>::read(base, model));
    Neighbour neighbour = TRY(read_neighbour(request, reply));
    return model.remove_neighbour(neighbour.link, neighbour.address);
}

SysResult<void> get_nothing(const NetlinkRequest& base, Interfaces&, NetlinkReply& reply) {
    if (!base.is_dump()) return Errno(ENOENT);
    reply.dump = true;
    return {};
}

// The rules of a Linux without others; they cannot be changed (RTM_NEWRULE: EOPNOTSUPP).
SysResult<void> get_rules(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<fib_rule_hdr>::read(base, model));
    if (!base.is_dump()) return Errno(EOPNOTSUPP);
    reply.dump = true;
    struct Rule {
        uint8_t family;
        uint32_t priority, table;
    };
    static constexpr Rule kRules[] = {{AF_INET, 0, RT_TABLE_LOCAL},
                                      {AF_INET, 32766, RT_TABLE_MAIN},
                                      {AF_INET, 32767, RT_TABLE_DEFAULT},
                                      {AF_INET6, 0, RT_TABLE_LOCAL},
                                      {AF_INET6, 32766, RT_TABLE_MAIN}};
    for (const Rule& rule : kRules) {
        if (request.header.family != AF_UNSPEC && request.header.family != rule.family) continue;
        NetlinkMessage message(RTM_NEWRULE, 0, base.header.nlmsg_seq, base.socket.port());
        fib_rule_hdr header{};
        header.family = rule.family;
        header.table = static_cast<uint8_t>(rule.table);
        header.action = FR_ACT_TO_TBL;
        message.put(header);
        message.attribute(FRA_TABLE, rule.table);
        message.attribute<uint32_t>(FRA_SUPPRESS_PREFIXLEN, ~0u);
        message.attribute<uint8_t>(FRA_PROTOCOL, RTPROT_KERNEL);
        if (rule.priority != 0) message.attribute(FRA_PRIORITY, rule.priority);
        reply.messages.push_back(std::move(message));
    }
    return {};
}

}  // namespace casemate::sentry
