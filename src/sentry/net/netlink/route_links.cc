// NETLINK_ROUTE: links and addresses; and which request goes where.
#include <linux/capability.h>
#include <linux/if_link.h>

#include <algorithm>

#include "sentry/net/netlink/route_messages.h"
#include "sentry/net/netlink/route_requests.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

struct Handler {
    uint16_t type;
    SysResult<void> (*run)(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
};
constexpr Handler kHandlers[] = {
    {RTM_GETLINK, get_links},         {RTM_NEWLINK, change_link},     {RTM_SETLINK, change_link},
    {RTM_DELLINK, remove_link},       {RTM_GETADDR, get_addresses},   {RTM_NEWADDR, add_address},
    {RTM_DELADDR, remove_address},    {RTM_GETROUTE, get_routes},     {RTM_NEWROUTE, add_route},
    {RTM_DELROUTE, remove_route},     {RTM_GETNEIGH, get_neighbours}, {RTM_NEWNEIGH, add_neighbour},
    {RTM_DELNEIGH, remove_neighbour}, {RTM_GETRULE, get_rules},       {RTM_GETNEXTHOP, get_nothing},
};

constexpr uint32_t kSkipCounters = RTEXT_FILTER_SKIP_STATS;

// By index, or by name.
SysResult<Link> find_link(const RouteRequest<ifinfomsg>& request) {
    if (request.header.ifi_index < 0) return Errno(EINVAL);
    std::optional<Link> link;
    auto name = TRY(request.attributes.text(IFLA_IFNAME, IFNAMSIZ - 1));
    auto long_name = TRY(request.attributes.text(IFLA_ALT_IFNAME, 127));
    if (request.header.ifi_index > 0)
        link = request.model.link(request.header.ifi_index);
    else if (name)
        link = request.model.find_link(*name);
    else if (long_name)
        link = request.model.find_link(*long_name);
    else
        return Errno(EINVAL);
    if (!link) return Errno(ENODEV);
    return std::move(*link);
}

template <typename T>
SysResult<std::optional<HardwareAddress>> hardware_of(const T& attributes, uint16_t type) {
    auto bytes = attributes.find(type);
    if (!bytes) return std::optional<HardwareAddress>();
    HardwareAddress result;
    if (bytes->size() < result.size()) return Errno(EINVAL);
    memcpy(result.data(), bytes->data(), result.size());
    return std::optional(result);
}

SysResult<LinkAddress> read_address(const RouteRequest<ifaddrmsg>& request) {
    const ifaddrmsg& header = request.header;
    if (header.ifa_family != AF_INET && header.ifa_family != AF_INET6) return Errno(EOPNOTSUPP);
    bool v6 = header.ifa_family == AF_INET6;
    if (header.ifa_prefixlen > (v6 ? 128 : 32)) return Errno(EINVAL);
    auto local = TRY(request.attributes.address(IFA_LOCAL, v6));
    auto address = TRY(request.attributes.address(IFA_ADDRESS, v6));
    // IPv6 may name the one address by either.
    if (v6 && !local) local = address;
    if (!local) return Errno(EINVAL);
    LinkAddress result;
    result.link = static_cast<int>(header.ifa_index);
    result.address = *local;
    result.peer = address.value_or(*local);
    result.prefix = header.ifa_prefixlen;
    result.scope = header.ifa_scope;
    result.flags = TRY(request.attributes.value<uint32_t>(IFA_FLAGS)).value_or(header.ifa_flags);
    result.broadcast = v6 ? std::nullopt : TRY(request.attributes.address(IFA_BROADCAST, v6));
    result.label = TRY(request.attributes.text(IFA_LABEL, IFNAMSIZ - 1)).value_or("");
    result.metric = TRY(request.attributes.value<uint32_t>(IFA_RT_PRIORITY)).value_or(0);
    result.protocol = TRY(request.attributes.value<uint8_t>(IFA_PROTO)).value_or(0);
    if (auto cache = TRY(request.attributes.value<ifa_cacheinfo>(IFA_CACHEINFO))) {
        if (cache->ifa_valid == 0 || cache->ifa_prefered > cache->ifa_valid) return Errno(EINVAL);
        result.valid = cache->ifa_valid;
        result.preferred = cache->ifa_prefered;
    }
    result.flags &= ~static_cast<uint32_t>(IFA_F_SECONDARY | IFA_F_PERMANENT | IFA_F_DEPRECATED | IFA_F_TENTATIVE);
    if (result.valid == ~0u) result.flags |= IFA_F_PERMANENT;
    if (result.preferred == 0) result.flags |= IFA_F_DEPRECATED;
    if (v6) {
        // IPv6 sees for itself how far an address reaches.
        bool link_local = result.address.bytes[0] == 0xfe && (result.address.bytes[1] & 0xc0) == 0x80;
        result.scope = result.address == InetAddress::loopback6() ? RT_SCOPE_HOST
                       : link_local                               ? RT_SCOPE_LINK
                                                                  : RT_SCOPE_UNIVERSE;
    }
    return result;
}

}  // namespace

SysResult<void> answer_route_request(const NetlinkRequest& request, NetlinkReply& reply) {
    // Less than a family: ignored, as by Linux.
    if (request.payload.size() < sizeof(rtgenmsg)) return {};
    uint16_t type = request.header.nlmsg_type;
    if (type < RTM_BASE || type > RTM_MAX) return Errno(EOPNOTSUPP);
    bool change = (type & 3) != (RTM_GETLINK & 3);
    // The host's interfaces are not the pod's to change.
    if (change && (request.socket.network().host() != nullptr || !request.task.has_capability(CAP_NET_ADMIN)))
        return Errno(EPERM);
    for (const Handler& handler : kHandlers) {
        if (handler.type != type) continue;
        if (!change) return handler.run(request, request.socket.network().interfaces(), reply);
        bool echo = request.header.nlmsg_flags & NLM_F_ECHO;
        NetlinkHub::AsOrigin origin(
            {request.socket.port(), request.header.nlmsg_seq, echo ? &request.socket : nullptr});
        return handler.run(request, request.socket.network().interfaces(), reply);
    }
    return Errno(EOPNOTSUPP);
}

SysResult<void> get_links(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ifinfomsg>::read(base, model));
    base.socket.network().settle_loopback();
    bool brief = TRY(request.attributes.value<uint32_t>(IFLA_EXT_MASK)).value_or(0) & kSkipCounters;
    MessageHead head = request.head();
    if (!base.is_dump()) {
        Link link = TRY(find_link(request));
        reply.messages.push_back(link_message(head, link, brief));
        return {};
    }
    if (base.strict && (request.header.ifi_index != 0 || request.header.ifi_type != 0 ||
                        request.header.ifi_flags != 0 || request.header.ifi_change != 0)) {
        reply.reason = "Invalid values in header for link dump request";
        return Errno(EINVAL);
    }
    reply.dump = true;
    // Filters: a master (there is none here), a kind.
    bool none = TRY(request.attributes.value<uint32_t>(IFLA_MASTER)).value_or(0) != 0;
    std::optional<std::string> kind;
    if (auto info = request.attributes.find(IFLA_LINKINFO)) {
        auto inner = TRY(NetlinkAttributes::parse(*info, false));
        kind = TRY(inner.text(IFLA_INFO_KIND, 63));
    }
    if (none || kind) reply.dump_flags = NLM_F_DUMP_FILTERED;
    if (none) return {};
    for (const Link& link : model.links())
        if (!kind || link.kind == *kind) reply.messages.push_back(link_message(head, link, brief));
    return {};
}

SysResult<void> change_link(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ifinfomsg>::read(base, model));
    const NetlinkAttributes& attributes = request.attributes;
    auto found = find_link(request);
    if (!found.ok()) {
        bool create = base.header.nlmsg_type == RTM_NEWLINK && base.header.nlmsg_flags & NLM_F_CREATE;
        if (found.error().value != ENODEV && base.header.nlmsg_type == RTM_SETLINK) return found.take_error();
        if (!create) return Errno(ENODEV);
        reply.reason = "Unknown device type";
        return Errno(EOPNOTSUPP);
    }
    const Link& link = *found;
    if (base.header.nlmsg_type == RTM_NEWLINK && base.header.nlmsg_flags & NLM_F_EXCL) return Errno(EEXIST);
    for (int type : std::initializer_list<int>{IFLA_NET_NS_PID, IFLA_NET_NS_FD, IFLA_MASTER, IFLA_XDP})
        if (attributes.has(static_cast<uint16_t>(type))) return Errno(link.loopback() ? EINVAL : EOPNOTSUPP);
    LinkChange change;
    auto mtu = TRY(attributes.value<uint32_t>(IFLA_MTU));
    if (mtu && !link.loopback() && (*mtu < 68 || *mtu > 65535)) {
        reply.reason = *mtu < 68 ? "mtu less than device minimum" : "mtu greater than device maximum";
        return Errno(EINVAL);
    }
    change.mtu = mtu;
    change.hardware = TRY(hardware_of(attributes, IFLA_ADDRESS));
    change.broadcast = TRY(hardware_of(attributes, IFLA_BROADCAST));
    change.queue_length = TRY(attributes.value<uint32_t>(IFLA_TXQLEN));
    change.group = TRY(attributes.value<uint32_t>(IFLA_GROUP));
    change.alias = TRY(attributes.text(IFLA_IFALIAS, 255));
    if (request.header.ifi_index > 0) change.name = TRY(attributes.text(IFLA_IFNAME, IFNAMSIZ - 1));
    // Zero: all bits, which iproute2 of old relied upon.
    change.flags = request.header.ifi_flags;
    change.flags_mask = request.header.ifi_change;
    if (change.flags != 0 && change.flags_mask == 0) change.flags_mask = ~0u;
    return model.change_link(link.index, change);
}

SysResult<void> remove_link(const NetlinkRequest& base, Interfaces& model, NetlinkReply&) {
    auto request = TRY(RouteRequest<ifinfomsg>::read(base, model));
    Link link = TRY(find_link(request));
    return model.remove_link(link.index);
}

SysResult<void> get_addresses(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ifaddrmsg>::read(base, model));
    MessageHead head = request.head();
    const ifaddrmsg& header = request.header;
    std::vector<LinkAddress> addresses = model.addresses();
    // By link, each family of its own, as Linux walks them.
    std::stable_sort(addresses.begin(), addresses.end(), [](const LinkAddress& a, const LinkAddress& b) {
        return std::pair(a.v6(), a.link) < std::pair(b.v6(), b.link);
    });
    if (!base.is_dump()) {
        if (header.ifa_family != AF_INET6) return Errno(EOPNOTSUPP);
        auto wanted = TRY(request.attributes.address(IFA_ADDRESS, true));
        if (!wanted) wanted = TRY(request.attributes.address(IFA_LOCAL, true));
        if (!wanted) return Errno(EINVAL);
        for (const LinkAddress& one : addresses) {
            if (one.address != *wanted || (header.ifa_index != 0 && static_cast<int>(header.ifa_index) != one.link))
                continue;
            reply.messages.push_back(address_message(head, one));
            return {};
        }
        return Errno(EADDRNOTAVAIL);
    }
    int link = 0;
    if (base.strict) {
        if (header.ifa_prefixlen != 0 || header.ifa_flags != 0 || header.ifa_scope != 0) {
            reply.reason = "ipv4: Invalid values in header for address dump request";
            return Errno(EINVAL);
        }
        link = static_cast<int>(header.ifa_index);
        if (link != 0) {
            reply.dump_flags = NLM_F_DUMP_FILTERED;
            if (!model.link(link)) return Errno(ENODEV);
        }
    }
    reply.dump = true;
    for (const LinkAddress& one : addresses) {
        if (header.ifa_family != AF_UNSPEC && (header.ifa_family == AF_INET6) != one.v6()) continue;
        if (link != 0 && one.link != link) continue;
        reply.messages.push_back(address_message(head, one));
    }
    return {};
}

SysResult<void> add_address(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ifaddrmsg>::read(base, model));
    LinkAddress address = TRY(read_address(request));
    bool replace = base.header.nlmsg_flags & NLM_F_REPLACE && !(base.header.nlmsg_flags & NLM_F_EXCL);
    auto done = model.add_address(address, replace);
    if (!done.ok() && done.error().value == EEXIST)
        reply.reason = address.v6() ? "ipv6: address already assigned" : "ipv4: Address already assigned";
    return done;
}

SysResult<void> remove_address(const NetlinkRequest& base, Interfaces& model, NetlinkReply& reply) {
    auto request = TRY(RouteRequest<ifaddrmsg>::read(base, model));
    const ifaddrmsg& header = request.header;
    if (header.ifa_family != AF_INET && header.ifa_family != AF_INET6) return Errno(EOPNOTSUPP);
    bool v6 = header.ifa_family == AF_INET6;
    auto local = TRY(request.attributes.address(IFA_LOCAL, v6));
    auto address = TRY(request.attributes.address(IFA_ADDRESS, v6));
    auto label = TRY(request.attributes.text(IFA_LABEL, IFNAMSIZ - 1));
    if (!model.link(static_cast<int>(header.ifa_index))) return Errno(ENODEV);
    if (v6 && !local && !address) return Errno(EINVAL);
    for (const LinkAddress& one : model.addresses()) {
        if (one.v6() != v6 || one.link != static_cast<int>(header.ifa_index)) continue;
        if (v6 ? one.address != (local ? *local : *address) : local && one.address != *local) continue;
        if (label && one.label != *label) continue;
        // In IPv4 an address without a prefix may stand for any.
        if (one.prefix != header.ifa_prefixlen && (v6 || address)) continue;
        return model.remove_address(one.link, one.address, one.prefix);
    }
    reply.reason = v6 ? "ipv6: address not found" : "ipv4: Address not found";
    return Errno(EADDRNOTAVAIL);
}

}  // namespace casemate::sentry
