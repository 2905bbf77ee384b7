// Links and addresses, and the routes that follow from them. Routes, neighbours and lookups are in routes.cc.
#include "sentry/net/interfaces.h"

#include <linux/netlink.h>
#include <net/if.h>

#include <algorithm>

#include "sentry/net/interfaces_change.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kPrefixMetric6 = 256;  // IP6_RT_PRIO_ADDRCONF
constexpr uint32_t kLeastMtu = 68, kMostMtu = 65536;

bool valid_name(std::string_view name) {
    if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..") return false;
    return std::none_of(name.begin(), name.end(), [](unsigned char c) { return c == '/' || c == ':' || c <= ' '; });
}

bool same_network(const InetAddress& a, const InetAddress& b, uint8_t prefix) {
    Route route;
    route.v6 = !a.is_v4();
    route.destination = a;
    route.prefix = prefix;
    return route.matches(b);
}

InetAddress masked(const InetAddress& address, unsigned bits) {
    InetAddress result = address;
    unsigned first = address.is_v4() ? 96 : 0;
    for (unsigned i = first / 8; i < 16; i++) {
        unsigned keep = first + bits > i * 8 ? std::min(first + bits - i * 8, 8u) : 0;
        result.bytes[i] = static_cast<uint8_t>(result.bytes[i] & (0xff00 >> keep));
    }
    return result;
}

bool link_local6(const InetAddress& address) {
    return !address.is_v4() && address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80;
}

// RFC 4291, appendix A.
InetAddress eui64_link_local(const HardwareAddress& mac) {
    InetAddress address;
    address.bytes = {0xfe,   0x80,   0,    0,    0,      0,      0,     0, static_cast<uint8_t>(mac[0] ^ 2),
                     mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    return address;
}

}  // namespace

uint8_t Link::operational_state() const {
    if (!up()) return 2;       // IF_OPER_DOWN
    if (loopback()) return 0;  // IF_OPER_UNKNOWN
    return carrier ? 6 : 3;    // IF_OPER_UP, IF_OPER_LOWERLAYERDOWN
}

Interfaces::Interfaces(bool ready) {
    Link loopback;
    loopback.name = "lo";
    loopback.type = ARPHRD_LOOPBACK;
    loopback.broadcast = {};
    loopback.mtu = 65536;
    loopback.flags = IFF_LOOPBACK;
    MUST(add_link(std::move(loopback)));
    if (ready) MUST(change_link(kLoopback, {.flags = IFF_UP, .flags_mask = IFF_UP}));
}

const Link* Interfaces::link_locked(int index) const {
    auto it = links_.find(index);
    return it == links_.end() ? nullptr : &it->second;
}

SysResult<int> Interfaces::add_link(Link link) {
    Changing changing(*this);
    if (!valid_name(link.name) || link.index < 0) return Errno(EINVAL);
    if (links_.size() >= kMostLinks || next_index_ == INT32_MAX) return Errno(ENFILE);
    for (auto& [index, other] : links_)
        if (other.name == link.name) return Errno(EEXIST);
    if (link.index == 0) {
        while (links_.contains(next_index_)) next_index_++;
        link.index = next_index_++;
    } else if (links_.contains(link.index)) {
        return Errno(EEXIST);
    }
    if (!link.counters) link.counters = make_ref<LinkCounters>();
    bool up = link.up();
    link.flags &= ~static_cast<uint32_t>(IFF_UP | IFF_RUNNING | kLowerUp);
    Link& kept = links_[link.index] = link;
    if (up) {
        kept.flags |= IFF_UP;
        link_up_locked(kept, changing);
    }
    changing.now(kept);
    return link.index;
}

SysResult<void> Interfaces::remove_link(int index) {
    Changing changing(*this);
    const Link* link = link_locked(index);
    if (link == nullptr) return Errno(ENODEV);
    if (link->loopback()) return Errno(EOPNOTSUPP);
    link_down_locked(*link, changing);
    for (size_t i = addresses_.size(); i-- > 0;)
        if (addresses_[i].link == index) {
            changing.gone(addresses_[i]);
            addresses_.erase(addresses_.begin() + static_cast<ptrdiff_t>(i));
        }
    for (size_t i = routes_.size(); i-- > 0;)
        if (routes_[i].link == index) {
            changing.gone(routes_[i]);
            routes_.erase(routes_.begin() + static_cast<ptrdiff_t>(i));
        }
    changing.gone(*link);
    links_.erase(index);
    return {};
}

SysResult<void> Interfaces::change_link(int index, const LinkChange& change) {
    Changing changing(*this);
    auto it = links_.find(index);
    if (it == links_.end()) return Errno(ENODEV);
    Link& link = it->second;
    if (change.name && *change.name != link.name) {
        if (!valid_name(*change.name)) return Errno(EINVAL);
        for (auto& [other_index, other] : links_)
            if (other.name == *change.name) return Errno(EEXIST);
    }
    if (change.alias && change.alias->size() >= 256) return Errno(EINVAL);
    if (change.mtu) {
        uint32_t most = link.loopback() ? INT32_MAX : kMostMtu - 1;
        if (*change.mtu > most || (!link.loopback() && *change.mtu < kLeastMtu)) return Errno(EINVAL);
    }
    if (change.hardware && link.type != ARPHRD_ETHER && link.type != ARPHRD_LOOPBACK) return Errno(EOPNOTSUPP);
    if (change.hardware && link.type == ARPHRD_ETHER &&
        ((*change.hardware)[0] & 1 || *change.hardware == HardwareAddress{}))
        return Errno(EADDRNOTAVAIL);
    // Of the flags, these are the administrator's; the rest says what the device is.
    constexpr uint32_t kSettable = IFF_UP | IFF_DEBUG | IFF_NOTRAILERS | IFF_NOARP | IFF_PROMISC | IFF_ALLMULTI |
                                   IFF_MULTICAST | IFF_DYNAMIC | IFF_PORTSEL | IFF_AUTOMEDIA;
    uint32_t mask = change.flags_mask & kSettable;
    bool was_up = link.up();
    if (change.name && *change.name != link.name) {
        for (LinkAddress& address : addresses_)
            if (address.link == index && address.label == link.name) address.label = *change.name;
        link.name = *change.name;
    }
    if (change.alias) link.alias = *change.alias;
    if (change.mtu) link.mtu = *change.mtu;
    if (change.hardware) link.hardware = *change.hardware;
    if (change.broadcast) link.broadcast = *change.broadcast;
    if (change.queue_length) link.queue_length = *change.queue_length;
    if (change.group) link.group = *change.group;
    if (change.carrier) link.carrier = *change.carrier;
    bool will_be_up = mask & IFF_UP ? change.flags & IFF_UP : was_up;
    if (was_up && !will_be_up) link_down_locked(link, changing);
    link.flags = (link.flags & ~mask) | (change.flags & mask);
    changing.now(link);
    if (!was_up && will_be_up) link_up_locked(link, changing);
    return {};
}

std::vector<Link> Interfaces::links() const {
    std::shared_lock lock(mutex_);
    std::vector<Link> all;
    for (auto& [index, link] : links_) all.push_back(link);
    return all;
}

std::optional<Link> Interfaces::link(int index) const {
    std::shared_lock lock(mutex_);
    const Link* found = link_locked(index);
    return found != nullptr ? std::optional(*found) : std::nullopt;
}

std::optional<Link> Interfaces::find_link(std::string_view name) const {
    std::shared_lock lock(mutex_);
    for (auto& [index, link] : links_)
        if (link.name == name) return link;
    return std::nullopt;
}

// The routes that a link's state and addresses bring, as fib_add_ifaddr and addrconf make them.
std::vector<Route> Interfaces::routes_of_locked(const Link& link) const {
    std::vector<Route> wanted;
    auto add = [&](bool v6, uint8_t type, const InetAddress& destination, uint8_t prefix, uint32_t metric) -> Route& {
        Route route;
        route.v6 = v6;
        route.type = type;
        route.table = type == RTN_UNICAST ? RT_TABLE_MAIN : RT_TABLE_LOCAL;
        route.destination = masked(destination, prefix);
        route.prefix = prefix;
        route.protocol = RTPROT_KERNEL;
        if (!v6) route.scope = type == RTN_LOCAL ? RT_SCOPE_HOST : RT_SCOPE_LINK;
        route.metric = metric;
        route.link = link.index;
        // Two addresses may bring the same route: it is one.
        auto same = std::find_if(wanted.begin(), wanted.end(), [&](const Route& other) {
            return other.v6 == v6 && other.type == type && other.destination == route.destination &&
                   other.prefix == prefix && other.metric == metric;
        });
        if (same != wanted.end()) return *same;
        return wanted.emplace_back(std::move(route));
    };
    for (const LinkAddress& one : addresses_) {
        if (one.link != link.index) continue;
        if (one.v6()) {
            if (!link.up()) continue;
            add(true, RTN_LOCAL, one.address, 128, 0);
            if (one.prefix < 128 && !(one.flags & IFA_F_NOPREFIXROUTE))
                add(true, RTN_UNICAST, one.peer, one.prefix, one.metric != 0 ? one.metric : kPrefixMetric6);
            continue;
        }
        // A secondary address's routes prefer the primary one.
        InetAddress source = one.address;
        if (one.flags & IFA_F_SECONDARY)
            for (const LinkAddress& other : addresses_)
                if (other.link == one.link && !other.v6() && !(other.flags & IFA_F_SECONDARY) &&
                    other.prefix == one.prefix && same_network(other.peer, one.peer, one.prefix))
                    source = other.address;
        auto with_source = [&](Route& route) {
            if (!route.source) route.source = source;
        };
        with_source(add(false, RTN_LOCAL, one.address, 32, 0));
        InetAddress network = masked(one.peer, one.prefix);
        bool connected = !(one.flags & IFA_F_SECONDARY) && (network.as_v4() >> 24) != 0 &&
                         (one.prefix < 32 || network != one.address);
        // What is ours stays ours while the link is down.
        if (connected && link.loopback()) with_source(add(false, RTN_LOCAL, network, one.prefix, 0));
        if (!link.up()) continue;
        if (one.broadcast && one.broadcast->as_v4() != INADDR_BROADCAST)
            with_source(add(false, RTN_BROADCAST, *one.broadcast, 32, 0));
        if (!connected) continue;
        if (!link.loopback() && !(one.flags & IFA_F_NOPREFIXROUTE))
            with_source(add(false, RTN_UNICAST, network, one.prefix, one.metric));
        if (one.prefix < 31) {
            uint32_t last = network.as_v4() | static_cast<uint32_t>((uint64_t{1} << (32 - one.prefix)) - 1);
            with_source(add(false, RTN_BROADCAST, InetAddress::v4(last), 32, 0));
        }
    }
    if (link.up() && !link.loopback() && link.flags & IFF_MULTICAST) {
        InetAddress groups;
        groups.bytes[0] = 0xff;
        add(true, RTN_MULTICAST, groups, 8, kPrefixMetric6);
    }
    return wanted;
}

void Interfaces::replace_derived_locked(const std::vector<Route>& before, const std::vector<Route>& after,
                                        Changing& changing) {
    for (const Route& old : before) {
        if (std::find(after.begin(), after.end(), old) != after.end()) continue;
        auto it = std::find(routes_.begin(), routes_.end(), old);
        if (it == routes_.end()) continue;
        changing.gone(*it);
        routes_.erase(it);
    }
    for (const Route& fresh : after) {
        if (std::find(before.begin(), before.end(), fresh) != before.end()) continue;
        if (insert_route_locked(fresh)) changing.now(fresh);
    }
}

void Interfaces::link_down_locked(const Link& link, Changing& changing) {
    Link down = link;
    down.flags &= ~static_cast<uint32_t>(IFF_UP);
    std::vector<Route> before = routes_of_locked(link);
    // IPv6 addresses go with it, IPv4's stay.
    for (size_t i = addresses_.size(); i-- > 0;)
        if (addresses_[i].link == link.index && addresses_[i].v6()) {
            changing.gone(addresses_[i]);
            addresses_.erase(addresses_.begin() + static_cast<ptrdiff_t>(i));
        }
    replace_derived_locked(before, routes_of_locked(down), changing);
    for (size_t i = routes_.size(); i-- > 0;) {
        const Route& route = routes_[i];
        if (route.link != link.index || (!route.v6 && route.scope == RT_SCOPE_HOST)) continue;
        changing.gone(route);
        routes_.erase(routes_.begin() + static_cast<ptrdiff_t>(i));
    }
    for (size_t i = neighbours_.size(); i-- > 0;)
        if (neighbours_[i].link == link.index) {
            changing.gone(neighbours_[i]);
            neighbours_.erase(neighbours_.begin() + static_cast<ptrdiff_t>(i));
        }
}

// `link` has IFF_UP already.
void Interfaces::link_up_locked(const Link& link, Changing& changing) {
    Link down = link;
    down.flags &= ~static_cast<uint32_t>(IFF_UP);
    replace_derived_locked(routes_of_locked(down), routes_of_locked(link), changing);
    auto has = [&](auto fits) {
        return std::any_of(addresses_.begin(), addresses_.end(),
                           [&](const LinkAddress& one) { return one.link == link.index && fits(one); });
    };
    LinkAddress fresh;
    fresh.link = link.index;
    if (link.loopback()) {
        if (!has([](const LinkAddress& one) { return !one.v6(); })) {
            fresh.address = fresh.peer = InetAddress::v4(INADDR_LOOPBACK);
            fresh.prefix = 8;
            fresh.scope = RT_SCOPE_HOST;
            static_cast<void>(insert_address_locked(fresh, changing));
        }
        if (!has([](const LinkAddress& one) { return one.address == InetAddress::loopback6(); })) {
            fresh.address = fresh.peer = InetAddress::loopback6();
            fresh.prefix = 128;
            fresh.scope = RT_SCOPE_HOST;
            fresh.protocol = IFAPROT_KERNEL_LO;
            static_cast<void>(insert_address_locked(fresh, changing));
        }
    } else if (link.type == ARPHRD_ETHER && link.hardware != HardwareAddress{} &&
               !has([](const LinkAddress& one) { return link_local6(one.address); })) {
        fresh.address = fresh.peer = eui64_link_local(link.hardware);
        fresh.prefix = 64;
        fresh.scope = RT_SCOPE_LINK;
        fresh.protocol = IFAPROT_KERNEL_LL;
        static_cast<void>(insert_address_locked(fresh, changing));
    }
}

SysResult<void> Interfaces::insert_address_locked(LinkAddress address, Changing& changing) {
    if (addresses_.size() >= kMostAddresses) return Errno(ENOBUFS);
    const Link& link = *link_locked(address.link);
    if (!address.v6()) {
        if (address.label.empty()) address.label = link.name;
        address.flags &= ~static_cast<uint32_t>(IFA_F_SECONDARY);
        for (const LinkAddress& other : addresses_)
            if (other.link == address.link && !other.v6() && !(other.flags & IFA_F_SECONDARY) &&
                other.prefix == address.prefix && same_network(other.peer, address.peer, address.prefix))
                address.flags |= IFA_F_SECONDARY;
    }
    std::vector<Route> before = routes_of_locked(link);
    // IPv6 keeps those with the larger scope first, and of equals the latest.
    auto at = addresses_.end();
    if (address.v6())
        at = std::find_if(addresses_.begin(), addresses_.end(), [&](const LinkAddress& other) {
            return other.link == address.link && other.v6() && other.scope >= address.scope;
        });
    addresses_.insert(at, address);
    changing.now(address);
    replace_derived_locked(before, routes_of_locked(link), changing);
    return {};
}

SysResult<void> Interfaces::add_address(LinkAddress address, bool replace) {
    Changing changing(*this);
    const Link* link = link_locked(address.link);
    if (link == nullptr) return Errno(ENODEV);
    if (address.prefix > (address.v6() ? 128 : 32) || address.label.size() >= IFNAMSIZ) return Errno(EINVAL);
    if (address.peer.is_any6()) address.peer = address.address;
    if (address.v6() != !address.peer.is_v4() || (address.v6() && address.address.is_any6())) return Errno(EINVAL);
    if (address.v6() && address.address.is_multicast()) return Errno(EADDRNOTAVAIL);
    for (LinkAddress& other : addresses_) {
        bool same = address.v6() ? other.link == address.link && other.address == address.address
                                 : other.link == address.link && other.address == address.address &&
                                       other.peer == address.peer && other.prefix == address.prefix;
        if (!same) continue;
        if (!replace) return Errno(EEXIST);
        std::vector<Route> before = routes_of_locked(*link);
        constexpr uint32_t kKept = IFA_F_SECONDARY;
        other.flags = (other.flags & kKept) | (address.flags & ~kKept);
        other.metric = address.metric;
        other.valid = address.valid;
        other.preferred = address.preferred;
        other.protocol = address.protocol;
        LinkAddress shown = other;
        changing.now(shown);
        replace_derived_locked(before, routes_of_locked(*link), changing);
        return {};
    }
    return insert_address_locked(std::move(address), changing);
}

void Interfaces::erase_address_locked(size_t at, Changing& changing) {
    LinkAddress gone = addresses_[at];
    const Link& link = *link_locked(gone.link);
    std::vector<Route> before = routes_of_locked(link);
    addresses_.erase(addresses_.begin() + static_cast<ptrdiff_t>(at));
    changing.gone(gone);
    // Without promotion (Linux's default), secondary addresses go with their primary one.
    if (!gone.v6() && !(gone.flags & IFA_F_SECONDARY))
        for (size_t i = addresses_.size(); i-- > 0;) {
            const LinkAddress& other = addresses_[i];
            if (other.link != gone.link || other.v6() || !(other.flags & IFA_F_SECONDARY) ||
                other.prefix != gone.prefix || !same_network(gone.peer, other.peer, gone.prefix))
                continue;
            changing.gone(other);
            addresses_.erase(addresses_.begin() + static_cast<ptrdiff_t>(i));
        }
    replace_derived_locked(before, routes_of_locked(link), changing);
    if (has_address_locked(gone.address)) return;
    // Routes that prefer an address that is no more.
    for (size_t i = routes_.size(); i-- > 0;)
        if (routes_[i].source == gone.address) {
            changing.gone(routes_[i]);
            routes_.erase(routes_.begin() + static_cast<ptrdiff_t>(i));
        }
}

SysResult<void> Interfaces::remove_address(int link, const InetAddress& address, uint8_t prefix) {
    Changing changing(*this);
    if (link_locked(link) == nullptr) return Errno(ENODEV);
    for (size_t i = 0; i < addresses_.size(); i++) {
        const LinkAddress& one = addresses_[i];
        if (one.link != link || one.address != address || one.prefix != prefix) continue;
        erase_address_locked(i, changing);
        return {};
    }
    return Errno(EADDRNOTAVAIL);
}

std::vector<LinkAddress> Interfaces::addresses() const {
    std::shared_lock lock(mutex_);
    return addresses_;
}

std::optional<LinkAddress> Interfaces::primary_address(int link, bool v6) const {
    std::shared_lock lock(mutex_);
    for (const LinkAddress& one : addresses_)
        if (one.link == link && one.v6() == v6 && (v6 || !(one.flags & IFA_F_SECONDARY))) return one;
    return std::nullopt;
}

bool Interfaces::has_address_locked(const InetAddress& address) const {
    return std::any_of(addresses_.begin(), addresses_.end(),
                       [&](const LinkAddress& one) { return one.address == address; });
}

int Interfaces::add_listener(Listener listener) {
    std::lock_guard lock(change_mutex_);
    listeners_[next_listener_] = std::move(listener);
    return next_listener_++;
}

void Interfaces::remove_listener(int id) {
    std::lock_guard lock(change_mutex_);
    listeners_.erase(id);
}

}  // namespace casemate::sentry
