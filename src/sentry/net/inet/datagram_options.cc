// Options that only datagrams have: groups, where to send from, peeking.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

#include "sentry/net/inet/datagram_socket.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

InetAddress v4_of(const in_addr& address) { return InetAddress::v4(ntohl(address.s_addr)); }

SysResult<InetAddress> address_of(const sockaddr_storage& storage, bool v6) {
    if (storage.ss_family != (v6 ? AF_INET6 : AF_INET)) return Errno(EINVAL);
    if (v6) {
        sockaddr_in6 value;
        memcpy(&value, &storage, sizeof(value));
        return InetAddress::v6(value.sin6_addr);
    }
    sockaddr_in value;
    memcpy(&value, &storage, sizeof(value));
    return v4_of(value.sin_addr);
}

}  // namespace

// The link that a group is joined on: by index, by an address of ours, or by the way to the group. ENODEV.
SysResult<int> DatagramSocket::group_link(const InetAddress& group, int index, const InetAddress& address) {
    Interfaces& model = network().interfaces();
    if (index != 0) {
        if (!model.link(index)) return Errno(ENODEV);
        return index;
    }
    if (!address.is_any()) {
        for (const LinkAddress& one : model.addresses())
            if (one.address == address) return one.link;
        return Errno(ENODEV);
    }
    InetAddress none = group.is_v4() ? InetAddress::v4(0) : InetAddress();
    auto way = model.route(group, none);
    if (!way.ok()) return Errno(ENODEV);
    return way->link;
}

SysResult<bool> DatagramSocket::set_group_option(int level, int name, std::span<const std::byte> value) {
    bool v6_level = level == IPPROTO_IPV6;
    InetAddress none = v6_level ? InetAddress() : InetAddress::v4(0);
    InetAddress group, from = none;
    std::optional<InetAddress> source;
    int index = 0;
    bool join = false, block = false, unblock = false;
    if (!v6_level && (name == IP_ADD_MEMBERSHIP || name == IP_DROP_MEMBERSHIP)) {
        join = name == IP_ADD_MEMBERSHIP;
        if (value.size() < sizeof(ip_mreq)) return Errno(EINVAL);
        ip_mreqn request{};
        memcpy(&request, value.data(), std::min(value.size(), sizeof(request)));
        group = v4_of(request.imr_multiaddr);
        from = v4_of(request.imr_address);
        index = request.imr_ifindex;
    } else if (!v6_level && (name == IP_ADD_SOURCE_MEMBERSHIP || name == IP_DROP_SOURCE_MEMBERSHIP ||
                             name == IP_BLOCK_SOURCE || name == IP_UNBLOCK_SOURCE)) {
        auto request = TRY(option_value<ip_mreq_source>(value));
        join = name == IP_ADD_SOURCE_MEMBERSHIP;
        block = name == IP_BLOCK_SOURCE;
        unblock = name == IP_UNBLOCK_SOURCE;
        group = v4_of(request.imr_multiaddr);
        from = v4_of(request.imr_interface);
        source = v4_of(request.imr_sourceaddr);
    } else if (v6_level && (name == IPV6_ADD_MEMBERSHIP || name == IPV6_DROP_MEMBERSHIP)) {
        join = name == IPV6_ADD_MEMBERSHIP;
        auto request = TRY(option_value<ipv6_mreq>(value));
        group = InetAddress::v6(request.ipv6mr_multiaddr);
        index = static_cast<int>(request.ipv6mr_interface);
    } else if (name == MCAST_JOIN_GROUP || name == MCAST_LEAVE_GROUP) {
        join = name == MCAST_JOIN_GROUP;
        auto request = TRY(option_value<group_req>(value));
        group = TRY(address_of(request.gr_group, v6_level));
        index = static_cast<int>(request.gr_interface);
    } else if (name == MCAST_JOIN_SOURCE_GROUP || name == MCAST_LEAVE_SOURCE_GROUP || name == MCAST_BLOCK_SOURCE ||
               name == MCAST_UNBLOCK_SOURCE) {
        auto request = TRY(option_value<group_source_req>(value));
        join = name == MCAST_JOIN_SOURCE_GROUP;
        block = name == MCAST_BLOCK_SOURCE;
        unblock = name == MCAST_UNBLOCK_SOURCE;
        group = TRY(address_of(request.gsr_group, v6_level));
        source = TRY(address_of(request.gsr_source, v6_level));
        index = static_cast<int>(request.gsr_interface);
    } else {
        return false;
    }
    if (!group.is_multicast()) return Errno(join || block || v6_level ? EINVAL : EADDRNOTAVAIL);
    int link;
    if (join || block || unblock) {
        link = TRY(group_link(group, index, from));
    } else {
        auto found = group_link(group, index, from);
        // Any link will do for leaving if none was named; without a group it is the group that is missing.
        if (!found.ok() && (index != 0 || !from.is_any())) return Errno(ENODEV);
        link = found.ok() ? *found : 0;
        if (!found.ok() && !v6_level) return Errno(ENODEV);
    }
    if (block || unblock) {
        TRY(memberships_.block(group, link, *source, block));
        return true;
    }
    TRY(join ? memberships_.join(group, link, source) : memberships_.leave(group, link, source));
    return true;
}

SysResult<bool> DatagramSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level == SOL_SOCKET && name == SO_PEEK_OFF) {
        peek_offset_ = TRY(option_value<int>(value));
        return true;
    }
    if (level == IPPROTO_IPV6 && !v6()) return Errno(ENOPROTOOPT);
    if (level != IPPROTO_IP && level != IPPROTO_IPV6) return InetSocket::set_family_option(task, level, name, value);
    if (TRY(set_group_option(level, name, value))) return true;
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF) {
        // An address, or an index (and an address to come from).
        ip_mreqn request{};
        if (value.size() >= sizeof(ip_mreqn))
            memcpy(&request, value.data(), sizeof(request));
        else if (value.size() >= sizeof(ip_mreq))
            memcpy(&request, value.data(), sizeof(ip_mreq));
        else if (value.size() >= sizeof(in_addr))
            memcpy(&request.imr_address, value.data(), sizeof(in_addr));
        else
            return Errno(EINVAL);
        InetAddress from = v4_of(request.imr_address);
        int link = request.imr_ifindex;
        if (link == 0 && !from.is_any()) {
            auto found = group_link(from, 0, from);
            if (!found.ok()) return Errno(EADDRNOTAVAIL);
            link = *found;
        } else if (link != 0 && !network().interfaces().link(link)) {
            return Errno(EADDRNOTAVAIL);
        }
        keep_option(level, kMulticastLink, link);
        keep_option(level, kMulticastSource, static_cast<int>(from.as_v4()));
        return true;
    }
    if (level == IPPROTO_IPV6 && name == IPV6_MULTICAST_IF) {
        int link = TRY(option_value<int>(value));
        if (link != 0 && !network().interfaces().link(link)) return Errno(ENODEV);
        keep_option(level, name, link);
        return true;
    }
    int unicast = level == IPPROTO_IP ? IP_UNICAST_IF : IPV6_UNICAST_IF;
    if (name == unicast) {
        // In network order, as nothing else is.
        int link = static_cast<int>(ntohl(static_cast<uint32_t>(TRY(option_value<int>(value)))));
        if (link != 0 && !network().interfaces().link(link)) return Errno(EADDRNOTAVAIL);
        keep_option(level, kUnicastLink, link);
        return true;
    }
    bool errors = level == IPPROTO_IP ? name == IP_RECVERR : name == IPV6_RECVERR;
    bool done = TRY(InetSocket::set_family_option(task, level, name, value));
    if (errors && option(level, name, 0) == 0) errors_.clear();
    return done;
}

SysResult<OptionBytes> DatagramSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level == SOL_SOCKET && name == SO_PEEK_OFF) return OptionBytes(option_bytes<int>(peek_offset_));
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF)
        return OptionBytes(option_bytes(htonl(static_cast<uint32_t>(option(level, kMulticastSource, 0)))));
    if (level == IPPROTO_IPV6 && name == IPV6_MULTICAST_IF && v6())
        return OptionBytes(option_bytes<int>(option(level, name, 0)));
    if ((level == IPPROTO_IP && name == IP_UNICAST_IF) || (level == IPPROTO_IPV6 && name == IPV6_UNICAST_IF && v6()))
        return OptionBytes(option_bytes(htonl(static_cast<uint32_t>(option(level, kUnicastLink, 0)))));
    return InetSocket::get_family_option(task, level, name, room);
}

}  // namespace casemate::sentry
