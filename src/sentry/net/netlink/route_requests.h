// The requests of NETLINK_ROUTE by what they are about: links, addresses, routes, neighbours, rules.
#pragma once

#include "sentry/net/interfaces.h"
#include "sentry/net/netlink/netlink_socket.h"

namespace casemate::sentry {

// A request with its header and attributes taken apart.
template <typename Header>
struct RouteRequest {
    const NetlinkRequest& base;
    Interfaces& model;
    Header header{};
    NetlinkAttributes attributes;
    uint16_t flags() const { return base.header.nlmsg_flags; }
    bool strict_dump() const { return base.strict && base.is_dump(); }
    MessageHead head() const { return {false, 0, base.header.nlmsg_seq, base.socket.port()}; }

    static SysResult<RouteRequest> read(const NetlinkRequest& base, Interfaces& model) {
        RouteRequest request{base, model, {}, {}};
        // A dump may come with less than the header: just the family.
        size_t size = std::min(base.payload.size(), sizeof(Header));
        bool short_dump = base.is_dump() && !base.strict;
        if (size < sizeof(Header) && !short_dump) return Errno(EINVAL);
        memcpy(&request.header, base.payload.data(), size);
        size_t behind = std::min<size_t>(NLMSG_ALIGN(sizeof(Header)), base.payload.size());
        request.attributes = TRY(NetlinkAttributes::parse(base.payload.subspan(behind), request.strict_dump()));
        return request;
    }
};

SysResult<void> get_links(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> change_link(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> remove_link(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> get_addresses(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> add_address(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> remove_address(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> get_routes(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> add_route(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> remove_route(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> get_neighbours(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> add_neighbour(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> remove_neighbour(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
// What there is none of.
SysResult<void> get_nothing(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);
SysResult<void> get_rules(const NetlinkRequest& request, Interfaces& model, NetlinkReply& reply);

}  // namespace casemate::sentry
