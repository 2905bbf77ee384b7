#include "sentry/net/netlink/netlink_hub.h"

#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/netlink/route_messages.h"

namespace casemate::sentry {
namespace {

thread_local NetlinkHub::Origin current_origin;

struct Notice {
    uint32_t group;
    NetlinkMessage message;
};

Notice notice_of(const InterfaceChange& change, const NetlinkHub::Origin& origin) {
    MessageHead head{change.removed, 0, origin.sequence, origin.port};
    if (auto* link = std::get_if<Link>(&change.what)) return {RTNLGRP_LINK, link_message(head, *link, false)};
    if (auto* address = std::get_if<LinkAddress>(&change.what))
        return {address->v6() ? RTNLGRP_IPV6_IFADDR : RTNLGRP_IPV4_IFADDR, address_message(head, *address)};
    if (auto* route = std::get_if<Route>(&change.what)) {
        if (!change.removed) head.flags = NLM_F_CREATE | NLM_F_EXCL;
        return {route->v6 ? RTNLGRP_IPV6_ROUTE : RTNLGRP_IPV4_ROUTE, route_message(head, *route)};
    }
    return {RTNLGRP_NEIGH, neighbour_message(head, std::get<Neighbour>(change.what))};
}

}  // namespace

NetlinkHub::AsOrigin::AsOrigin(Origin origin) : before_(current_origin) { current_origin = origin; }
NetlinkHub::AsOrigin::~AsOrigin() { current_origin = before_; }

NetlinkHub::NetlinkHub(Interfaces& interfaces)
    : interfaces_(interfaces),
      listener_(interfaces.add_listener([this](const InterfaceChange& change) { tell(change); })) {}

NetlinkHub::~NetlinkHub() { interfaces_.remove_listener(listener_); }

bool NetlinkHub::claim(NetlinkSocket& socket, uint32_t port) {
    std::lock_guard lock(mutex_);
    return sockets_.try_emplace({socket.protocol(), port}, &socket).second;
}

void NetlinkHub::release(NetlinkSocket& socket) {
    std::lock_guard lock(mutex_);
    auto it = sockets_.find({socket.protocol(), socket.port()});
    if (it != sockets_.end() && it->second == &socket) sockets_.erase(it);
}

Ref<NetlinkSocket> NetlinkHub::find(int protocol, uint32_t port) {
    std::lock_guard lock(mutex_);
    auto it = sockets_.find({protocol, port});
    if (it == sockets_.end() || !it->second->try_ref()) return nullptr;
    return Ref<NetlinkSocket>::adopt(it->second);
}

void NetlinkHub::for_each(const std::function<void(NetlinkSocket&)>& visit) {
    std::vector<Ref<NetlinkSocket>> all;
    {
        std::lock_guard lock(mutex_);
        for (auto& [key, socket] : sockets_)
            if (socket->try_ref()) all.push_back(Ref<NetlinkSocket>::adopt(socket));
    }
    for (auto& socket : all) visit(*socket);
}

void NetlinkHub::broadcast(int protocol, uint32_t group, const NetlinkBytes& bytes, uint32_t sender_port,
                           uint32_t except) {
    for_each([&](NetlinkSocket& socket) {
        if (socket.protocol() != protocol || !socket.listens_to(group)) return;
        if (except != 0 && socket.port() == except) return;
        socket.deliver({bytes, sender_port, group});
    });
}

void NetlinkHub::tell(const InterfaceChange& change) {
    Origin origin = current_origin;
    Notice notice = notice_of(change, origin);
    if (origin.echo != nullptr) origin.echo->deliver({notice.message.bytes(), 0, notice.group});
    broadcast(NETLINK_ROUTE, notice.group, notice.message.bytes(), 0, origin.echo != nullptr ? origin.port : 0);
}

}  // namespace casemate::sentry
