#include "sentry/net/interface_ioctl.h"

#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "sentry/kernel/task.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

// struct in6_ifreq, which only the kernel's <linux/ipv6.h> has (it clashes with <netinet/in.h>).
struct Ifreq6 {
    in6_addr address;
    uint32_t prefix;
    int link;
};

sockaddr ipv4(const InetAddress& address) {
    sockaddr_in value{};
    value.sin_family = AF_INET;
    value.sin_addr.s_addr = htonl(address.as_v4());
    sockaddr result;
    memcpy(&result, &value, sizeof(result));
    return result;
}

SysResult<InetAddress> ipv4_of(const sockaddr& address) {
    sockaddr_in value;
    memcpy(&value, &address, sizeof(value));
    if (value.sin_family != AF_INET) return Errno(EINVAL);
    return InetAddress::v4(ntohl(value.sin_addr.s_addr));
}

InetAddress mask_of(unsigned prefix) { return InetAddress::v4(prefix == 0 ? 0 : ~uint32_t{0} << (32 - prefix)); }

SysResult<uint8_t> prefix_of(const InetAddress& mask) {
    uint32_t bits = mask.as_v4();
    if (bits != 0 && (~bits & (~bits + 1)) != 0) return Errno(EINVAL);
    return static_cast<uint8_t>(std::popcount(bits));
}

// The prefix of the old classes, which an address set by ioctl starts with.
uint8_t class_prefix(const InetAddress& address) {
    uint32_t value = address.as_v4();
    if (value == 0) return 0;
    if (value >> 31 == 0) return 8;
    if (value >> 30 == 2) return 16;
    return value >> 29 == 6 ? 24 : 32;
}

std::string_view name_of(ifreq& request) {
    request.ifr_name[IFNAMSIZ - 1] = 0;
    return request.ifr_name;
}

void set_name(ifreq& request, const std::string& name) {
    memset(request.ifr_name, 0, sizeof(request.ifr_name));
    memcpy(request.ifr_name, name.data(), std::min<size_t>(name.size(), IFNAMSIZ - 1));
}

SysResult<int64_t> list_interfaces(Task& task, Interfaces& model, uint64_t argument) {
    auto config = TRY(task.read(UserPtr<ifconf>(argument)));
    // SAFETY: the union holds a guest address, kept as a number.
    auto into = reinterpret_cast<uint64_t>(config.ifc_buf);
    std::vector<LinkAddress> addresses = model.addresses();
    std::stable_sort(addresses.begin(), addresses.end(),
                     [](const LinkAddress& a, const LinkAddress& b) { return a.link < b.link; });
    size_t room = into != 0 && config.ifc_len > 0 ? static_cast<size_t>(config.ifc_len) / sizeof(ifreq) : 0;
    size_t count = 0;
    for (const LinkAddress& address : addresses) {
        if (address.v6()) continue;
        if (into != 0) {
            if (count == room) break;
            ifreq one{};
            set_name(one, address.label);
            one.ifr_addr = ipv4(address.address);
            TRY(task.write(UserPtr<ifreq>(into + count * sizeof(ifreq)), one));
        }
        count++;
    }
    config.ifc_len = static_cast<int>(count * sizeof(ifreq));
    TRY(task.write(UserPtr<ifconf>(argument), config));
    return 0;
}

// The address that a name or label ("eth0:1") stands for.
std::optional<LinkAddress> labelled(Interfaces& model, const Link& link, std::string_view label) {
    for (const LinkAddress& address : model.addresses())
        if (address.link == link.index && !address.v6() && address.label == label) return address;
    return std::nullopt;
}

SysResult<void> change_ipv4(Interfaces& model, const Link& link, uint64_t command, ifreq& request) {
    std::string label(name_of(request));
    std::optional<LinkAddress> present = labelled(model, link, label);
    if (command == SIOCSIFFLAGS) {
        // An alias ("eth0:1") that goes down is an address that goes.
        if (!present) return Errno(EADDRNOTAVAIL);
        if (request.ifr_flags & IFF_UP) return {};
        return model.remove_address(link.index, present->address, present->prefix);
    }
    InetAddress value = TRY(ipv4_of(request.ifr_addr));
    if (command != SIOCSIFADDR && !present) return Errno(EADDRNOTAVAIL);
    LinkAddress wanted = present.value_or(LinkAddress{});
    switch (command) {
        case SIOCSIFADDR: {
            if (present && present->address == value) return {};
            wanted = {};
            wanted.link = link.index;
            wanted.label = label;
            wanted.address = wanted.peer = value;
            wanted.prefix = class_prefix(value);
            if (link.loopback()) wanted.scope = RT_SCOPE_HOST;
            if (!(link.flags & IFF_POINTOPOINT) && link.flags & IFF_BROADCAST && wanted.prefix < 31)
                wanted.broadcast = InetAddress::v4(value.as_v4() | ~mask_of(wanted.prefix).as_v4());
            break;
        }
        case SIOCSIFBRDADDR:
            wanted.broadcast = value;
            break;
        case SIOCSIFDSTADDR:
            wanted.peer = value;
            break;
        case SIOCSIFNETMASK: {
            uint8_t prefix = TRY(prefix_of(value));
            if (prefix == wanted.prefix) return {};
            if (wanted.broadcast && prefix < 31)
                wanted.broadcast = InetAddress::v4(wanted.address.as_v4() | ~mask_of(prefix).as_v4());
            wanted.prefix = prefix;
            break;
        }
        default:
            return Errno(EINVAL);
    }
    if (present) TRY(model.remove_address(link.index, present->address, present->prefix));
    if (value.as_v4() == 0 && command == SIOCSIFADDR) return {};
    TRY(model.add_address(wanted));
    if (!link.up() && command == SIOCSIFADDR)
        TRY(model.change_link(link.index, {.flags = IFF_UP, .flags_mask = IFF_UP}));
    return {};
}

SysResult<void> change_route4(Task& task, Interfaces& model, bool add, uint64_t argument) {
    auto entry = TRY(task.read(UserPtr<rtentry>(argument)));
    auto address_of = [](const sockaddr& address) {
        sockaddr_in value;
        memcpy(&value, &address, sizeof(value));
        return InetAddress::v4(ntohl(value.sin_addr.s_addr));
    };
    if (entry.rt_dst.sa_family != AF_INET) return Errno(EAFNOSUPPORT);
    Route route;
    route.destination = address_of(entry.rt_dst);
    route.prefix = 32;
    if (!(entry.rt_flags & RTF_HOST)) {
        if (entry.rt_genmask.sa_family != AF_INET &&
            (entry.rt_genmask.sa_family != 0 || address_of(entry.rt_genmask).as_v4() != 0))
            return Errno(EAFNOSUPPORT);
        route.prefix = TRY(prefix_of(address_of(entry.rt_genmask)));
    }
    if (entry.rt_metric != 0) route.metric = static_cast<uint32_t>(entry.rt_metric - 1);
    if (entry.rt_flags & RTF_REJECT) route.type = RTN_UNREACHABLE, route.scope = RT_SCOPE_HOST;
    if (entry.rt_dev != nullptr) {
        char name[IFNAMSIZ] = {};
        // SAFETY: a guest address, as a number.
        TRY(task.memory().copy_in(reinterpret_cast<GuestAddr>(entry.rt_dev), name, sizeof(name) - 1));
        auto link = model.find_link(name);
        if (!link) return Errno(ENODEV);
        route.link = link->index;
    }
    if (entry.rt_gateway.sa_family == AF_INET && entry.rt_flags & RTF_GATEWAY)
        route.gateway = address_of(entry.rt_gateway);
    if (!route.gateway && route.type == RTN_UNICAST) route.scope = RT_SCOPE_LINK;
    if (entry.rt_flags & RTF_GATEWAY && !route.gateway) return Errno(EINVAL);
    if (add) return model.add_route(route, NLM_F_CREATE | NLM_F_APPEND);
    route.protocol = 0;
    route.scope = RT_SCOPE_NOWHERE;
    return model.remove_route(route);
}

SysResult<void> change_route6(Task& task, Interfaces& model, bool add, uint64_t argument) {
    auto message = TRY(task.read(UserPtr<in6_rtmsg>(argument)));
    if (message.rtmsg_dst_len > 128 || message.rtmsg_ifindex < 0) return Errno(EINVAL);
    Route route;
    route.v6 = true;
    route.destination = InetAddress::v6(message.rtmsg_dst);
    route.prefix = static_cast<uint8_t>(message.rtmsg_dst_len);
    route.metric = message.rtmsg_metric;
    route.link = message.rtmsg_ifindex;
    if (message.rtmsg_flags & RTF_REJECT) route.type = RTN_UNREACHABLE;
    if (message.rtmsg_flags & RTF_GATEWAY) route.gateway = InetAddress::v6(message.rtmsg_gateway);
    if (add) return model.add_route(route, NLM_F_CREATE | NLM_F_EXCL);
    route.protocol = 0;
    route.scope = RT_SCOPE_NOWHERE;
    return model.remove_route(route);
}

SysResult<int64_t> change_address6(Task& task, Interfaces& model, bool add, uint64_t argument) {
    auto request = TRY(task.read(UserPtr<Ifreq6>(argument)));
    auto link = model.link(request.link);
    if (!link) return Errno(ENODEV);
    if (request.prefix > 128) return Errno(EINVAL);
    LinkAddress address;
    address.link = request.link;
    address.address = address.peer = InetAddress::v6(request.address);
    address.prefix = static_cast<uint8_t>(request.prefix);
    if (address.address == InetAddress::loopback6()) address.scope = RT_SCOPE_HOST;
    if (address.address.bytes[0] == 0xfe && (address.address.bytes[1] & 0xc0) == 0x80) address.scope = RT_SCOPE_LINK;
    if (add)
        TRY(model.add_address(address));
    else
        TRY(model.remove_address(address.link, address.address, address.prefix));
    return 0;
}

SysResult<int64_t> neighbour_ioctl(Task& task, Interfaces& model, uint64_t command, uint64_t argument) {
    auto request = TRY(task.read(UserPtr<arpreq>(argument)));
    InetAddress address = TRY(ipv4_of(request.arp_pa));
    request.arp_dev[sizeof(request.arp_dev) - 1] = 0;
    int link = 0;
    if (request.arp_dev[0] != 0) {
        auto found = model.find_link(request.arp_dev);
        if (!found) return Errno(ENODEV);
        link = found->index;
    } else if (command != SIOCGARP) {
        link = TRY(model.route(address, InetAddress::v4(0))).link;
    }
    if (command == SIOCGARP) {
        if (link == 0) return Errno(ENODEV);
        auto found = model.find_neighbour(link, address);
        if (!found) return Errno(ENXIO);
        request.arp_ha.sa_family = ARPHRD_ETHER;
        memcpy(request.arp_ha.sa_data, found->hardware.data(), found->hardware.size());
        request.arp_flags = found->state & NUD_PERMANENT ? ATF_PERM | ATF_COM : ATF_COM;
        TRY(task.write(UserPtr<arpreq>(argument), request));
        return 0;
    }
    if (command == SIOCDARP) {
        auto removed = model.remove_neighbour(link, address);
        if (!removed.ok()) return Errno(ENXIO);
        return 0;
    }
    if (!(request.arp_flags & ATF_COM)) return Errno(EINVAL);
    Neighbour neighbour;
    neighbour.link = link;
    neighbour.address = address;
    memcpy(neighbour.hardware.data(), request.arp_ha.sa_data, neighbour.hardware.size());
    neighbour.state = request.arp_flags & ATF_PERM ? NUD_PERMANENT : NUD_STALE;
    TRY(model.set_neighbour(neighbour, NLM_F_CREATE | NLM_F_REPLACE));
    return 0;
}

// What a link has to tell; false: another command.
bool tell_link(const Link& link, uint64_t command, ifreq& request) {
    switch (command) {
        case SIOCGIFINDEX:
            request.ifr_ifindex = link.index;
            return true;
        case SIOCGIFFLAGS:
            request.ifr_flags = static_cast<short>(link.shown_flags());
            return true;
        case SIOCGIFMETRIC:
            request.ifr_metric = 0;
            return true;
        case SIOCGIFMTU:
            request.ifr_mtu = static_cast<int>(link.mtu);
            return true;
        case SIOCGIFHWADDR:
            memset(&request.ifr_hwaddr, 0, sizeof(request.ifr_hwaddr));
            request.ifr_hwaddr.sa_family = link.type;
            memcpy(request.ifr_hwaddr.sa_data, link.hardware.data(), link.hardware.size());
            return true;
        case SIOCGIFTXQLEN:
            request.ifr_qlen = static_cast<int>(link.queue_length);
            return true;
        case SIOCGIFMAP:
            request.ifr_map = {};
            return true;
        default:
            return false;
    }
}

bool is_change(uint64_t command) {
    switch (command) {
        case SIOCSIFFLAGS:
        case SIOCSIFADDR:
        case SIOCSIFDSTADDR:
        case SIOCSIFBRDADDR:
        case SIOCSIFNETMASK:
        case SIOCSIFMTU:
        case SIOCSIFHWADDR:
        case SIOCSIFTXQLEN:
        case SIOCSIFNAME:
        case SIOCDIFADDR:
        case SIOCADDRT:
        case SIOCDELRT:
        case SIOCSARP:
        case SIOCDARP:
            return true;
        default:
            return false;
    }
}

SysResult<void> change_link(Interfaces& model, const Link& link, uint64_t command, const ifreq& request) {
    LinkChange change;
    switch (command) {
        case SIOCSIFFLAGS:
            change.flags = static_cast<uint16_t>(request.ifr_flags);
            change.flags_mask = 0xffff;
            break;
        case SIOCSIFMTU:
            if (request.ifr_mtu < 0) return Errno(EINVAL);
            change.mtu = static_cast<uint32_t>(request.ifr_mtu);
            break;
        case SIOCSIFHWADDR:
            if (request.ifr_hwaddr.sa_family != link.type) return Errno(EINVAL);
            change.hardware.emplace();
            memcpy(change.hardware->data(), request.ifr_hwaddr.sa_data, change.hardware->size());
            break;
        case SIOCSIFTXQLEN:
            if (request.ifr_qlen < 0) return Errno(EINVAL);
            change.queue_length = static_cast<uint32_t>(request.ifr_qlen);
            break;
        case SIOCSIFNAME:
            change.name = std::string(request.ifr_newname, strnlen(request.ifr_newname, IFNAMSIZ - 1));
            break;
        default:
            return Errno(ENOTTY);
    }
    return model.change_link(link.index, change);
}

}  // namespace

SysResult<int64_t> interface_ioctl(Task& task, Network& network, int family, uint64_t command, uint64_t argument) {
    Interfaces& model = network.interfaces();
    bool v4 = family == AF_INET, v6 = family == AF_INET6;
    bool change = is_change(command);
    // Addresses and routes are for sockets of their family; the rest is for all.
    switch (command) {
        case SIOCGIFCONF:
            return list_interfaces(task, model, argument);
        case SIOCADDRT:
        case SIOCDELRT:
        case SIOCSIFADDR:
        case SIOCDIFADDR:
            if (!v4 && !v6) return Errno(ENOTTY);
            break;
        case SIOCGIFADDR:
        case SIOCGIFNETMASK:
        case SIOCGIFBRDADDR:
        case SIOCGIFDSTADDR:
        case SIOCSIFDSTADDR:
        case SIOCSIFBRDADDR:
        case SIOCSIFNETMASK:
        case SIOCGARP:
        case SIOCSARP:
        case SIOCDARP:
            if (!v4) return Errno(ENOTTY);
            break;
        case SIOCGIFNAME:
        case SIOCGIFINDEX:
        case SIOCGIFFLAGS:
        case SIOCGIFMTU:
        case SIOCGIFMETRIC:
        case SIOCGIFHWADDR:
        case SIOCGIFTXQLEN:
        case SIOCGIFMAP:
            break;
        case SIOCETHTOOL:
            return Errno(EOPNOTSUPP);
        default:
            if (!change) return Errno(ENOTTY);
    }
    // The host's interfaces are not the pod's to change.
    if (change && (network.host() != nullptr || !task.has_capability(CAP_NET_ADMIN))) return Errno(EPERM);
    if (command == SIOCADDRT || command == SIOCDELRT) {
        bool add = command == SIOCADDRT;
        TRY(v4 ? change_route4(task, model, add, argument) : change_route6(task, model, add, argument));
        return 0;
    }
    if (command == SIOCGARP || command == SIOCSARP || command == SIOCDARP)
        return neighbour_ioctl(task, model, command, argument);
    if (v6 && (command == SIOCSIFADDR || command == SIOCDIFADDR))
        return change_address6(task, model, command == SIOCSIFADDR, argument);
    if (command == SIOCDIFADDR) return Errno(EINVAL);
    auto request = TRY(task.read(UserPtr<ifreq>(argument)));
    if (command == SIOCGIFNAME) {
        auto link = model.link(request.ifr_ifindex);
        if (!link) return Errno(ENODEV);
        set_name(request, link->name);
        TRY(task.write(UserPtr<ifreq>(argument), request));
        return 0;
    }
    std::string label(name_of(request));
    std::string_view device = std::string_view(label).substr(0, label.find(':'));
    auto link = model.find_link(device);
    if (!link) return Errno(ENODEV);
    if (change) {
        bool alias = device.size() < label.size();
        bool address = command == SIOCSIFADDR || command == SIOCSIFDSTADDR || command == SIOCSIFBRDADDR ||
                       command == SIOCSIFNETMASK || (command == SIOCSIFFLAGS && alias && v4);
        TRY(address ? change_ipv4(model, *link, command, request) : change_link(model, *link, command, request));
        return 0;
    }
    if (!tell_link(*link, command, request)) {
        auto address = labelled(model, *link, label);
        if (!address && device.size() == label.size()) address = model.primary_address(link->index, false);
        if (!address) return Errno(EADDRNOTAVAIL);
        switch (command) {
            case SIOCGIFADDR:
                request.ifr_addr = ipv4(address->address);
                break;
            case SIOCGIFDSTADDR:
                request.ifr_addr = ipv4(address->peer);
                break;
            case SIOCGIFNETMASK:
                request.ifr_addr = ipv4(mask_of(address->prefix));
                break;
            default:
                request.ifr_addr = ipv4(address->broadcast.value_or(InetAddress::v4(0)));
        }
    }
    TRY(task.write(UserPtr<ifreq>(argument), request));
    return 0;
}

}  // namespace casemate::sentry
