// Routes and neighbours of the model: changes, lookups, and which address packets come from.
#include <linux/netlink.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "sentry/net/interfaces.h"
#include "sentry/net/interfaces_change.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kTables[] = {RT_TABLE_LOCAL, RT_TABLE_MAIN, RT_TABLE_DEFAULT};  // as the default rules have it
constexpr uint32_t kDefaultMetric6 = 1024;                                         // IP6_RT_PRIO_USER

bool link_local6(const InetAddress& address) { return address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80; }

// What a lookup that ends at such a route answers; 0: it goes on.
int error_of(uint8_t type) {
    switch (type) {
        case RTN_BLACKHOLE:
            return EINVAL;
        case RTN_UNREACHABLE:
            return EHOSTUNREACH;
        case RTN_PROHIBIT:
            return EACCES;
        default:
            return 0;
    }
}

unsigned common_bits(const InetAddress& a, const InetAddress& b) {
    unsigned bits = 0;
    for (size_t i = 0; i < 16; i++) {
        auto differ = static_cast<uint8_t>(a.bytes[i] ^ b.bytes[i]);
        bits += static_cast<unsigned>(std::countl_zero(differ));
        if (differ != 0) break;
    }
    return bits;
}

// How Linux orders its dumps: IPv4 before IPv6, main before local, then by destination; the longer prefix first in
// IPv4's trie, last in IPv6's tree.
bool goes_before(const Route& a, const Route& b) {
    if (a.v6 != b.v6) return !a.v6;
    if (a.table != b.table) return a.table < b.table;
    if (a.destination != b.destination) return a.destination < b.destination;
    if (a.prefix != b.prefix) return a.v6 ? a.prefix < b.prefix : a.prefix > b.prefix;
    if (a.tos != b.tos) return a.tos > b.tos;
    return a.metric < b.metric;
}

bool same_place(const Route& a, const Route& b) {
    return a.v6 == b.v6 && a.table == b.table && a.destination == b.destination && a.prefix == b.prefix &&
           a.tos == b.tos && a.metric == b.metric;
}

}  // namespace

bool Route::matches(const InetAddress& address) const {
    if (address.is_v4() == v6) return false;
    unsigned bits = (v6 ? 0u : 96u) + prefix;
    size_t whole = bits / 8;
    if (memcmp(destination.bytes.data(), address.bytes.data(), whole) != 0) return false;
    unsigned rest = bits % 8;
    return rest == 0 || ((destination.bytes[whole] ^ address.bytes[whole]) >> (8 - rest)) == 0;
}

// False: it is there already.
bool Interfaces::insert_route_locked(const Route& route) {
    auto at = std::upper_bound(routes_.begin(), routes_.end(), route, goes_before);
    if (std::find(routes_.begin(), at, route) != at) return false;
    routes_.insert(at, route);
    return true;
}

const Route* Interfaces::find_route_locked(const InetAddress& destination, uint32_t table, int link) const {
    const Route* best = nullptr;
    for (const Route& route : routes_) {
        if (route.table != table || !route.matches(destination)) continue;
        // What is ours is reached whatever the link.
        if (link != 0 && route.link != link && route.type != RTN_LOCAL) continue;
        if (route.link != 0 && route.type != RTN_LOCAL) {
            const Link* out = link_locked(route.link);
            if (out == nullptr || !out->up()) continue;
        }
        if (best != nullptr &&
            (route.prefix < best->prefix || (route.prefix == best->prefix && route.metric >= best->metric)))
            continue;
        best = &route;
    }
    return best;
}

uint32_t Interfaces::mtu_locked(const Route& route) const {
    if (route.mtu != 0) return route.mtu;
    const Link* link = link_locked(route.link);
    return link != nullptr ? link->mtu : 0;
}

SysResult<RouteChoice> Interfaces::route(const InetAddress& wanted, const InetAddress& source, int link) const {
    InetAddress destination = wanted;
    if (destination.is_any6())
        destination = InetAddress::loopback6();
    else if (destination.is_any())
        destination = source.is_any() ? InetAddress::v4(INADDR_LOOPBACK) : source;
    bool v4 = destination.is_v4();
    bool to_all = v4 && destination.as_v4() == INADDR_BROADCAST;
    std::shared_lock lock(mutex_);
    if (link != 0 && link_locked(link) == nullptr) return Errno(ENODEV);
    RouteChoice choice;
    const Route* found = nullptr;
    for (uint32_t table : kTables) {
        found = find_route_locked(destination, table, link);
        if (found == nullptr || found->type == RTN_THROW) {
            found = nullptr;
            continue;
        }
        if (int error = error_of(found->type); error != 0) return Errno(error);
        break;
    }
    Route on_link;
    if (found == nullptr) {
        // A link was named: an IPv4 destination is taken to be on it, as Linux does.
        const Link* out = link != 0 ? link_locked(link) : nullptr;
        if (out == nullptr || !v4 || !out->up()) return Errno(ENETUNREACH);
        on_link.destination = destination;
        on_link.prefix = 32;
        on_link.link = link;
        on_link.scope = RT_SCOPE_LINK;
        found = &on_link;
    }
    choice.route = *found;
    choice.type = found->type;
    if (choice.type == RTN_UNICAST && to_all) choice.type = RTN_BROADCAST;
    if (choice.type == RTN_UNICAST && destination.is_multicast()) choice.type = RTN_MULTICAST;
    choice.link = choice.type == RTN_LOCAL && v4 ? kLoopback : found->link;
    choice.gateway = found->gateway;
    choice.mtu = choice.type == RTN_LOCAL ? links_.at(kLoopback).mtu : mtu_locked(*found);
    if (!source.is_any())
        choice.source = source;
    else if (found->source)
        choice.source = *found->source;
    else if (choice.type == RTN_LOCAL)
        choice.source = destination;
    else if (v4)
        choice.source = choose_source_locked(found->link, found->gateway.value_or(destination), found->scope);
    else
        choice.source = choose_source6_locked(found->link, destination);
    // An IPv4 address of ours has itself as source, unless its network is the loopback's.
    if (v4 && choice.type == RTN_LOCAL && source.is_any() && found->prefix == 32) choice.source = destination;
    return choice;
}

uint8_t Interfaces::local_type(const InetAddress& address) const {
    if (address.is_v4() && address.as_v4() == INADDR_BROADCAST) return RTN_BROADCAST;
    if (address.is_multicast()) return RTN_MULTICAST;
    std::shared_lock lock(mutex_);
    const Route* found = find_route_locked(address, RT_TABLE_LOCAL, 0);
    return found != nullptr ? found->type : static_cast<uint8_t>(RTN_UNICAST);
}

// As inet_select_addr: the link's own in the destination's network first, then its first, then any other link's.
InetAddress Interfaces::choose_source_locked(int link, const InetAddress& destination, uint8_t scope) const {
    const LinkAddress* first = nullptr;
    for (const LinkAddress& one : addresses_) {
        if (one.link != link || one.v6() || one.flags & IFA_F_SECONDARY) continue;
        if (one.scope > scope && one.scope != RT_SCOPE_LINK) continue;
        Route network;
        network.destination = one.peer;
        network.prefix = one.prefix;
        if (network.matches(destination)) return one.address;
        if (first == nullptr) first = &one;
    }
    if (first != nullptr) return first->address;
    for (const LinkAddress& one : addresses_)
        if (!one.v6() && one.scope != RT_SCOPE_LINK && one.scope <= scope) return one.address;
    return InetAddress::v4(0);
}

// RFC 6724 in outline: the address itself, a fitting scope, not deprecated, the same link, the longest common prefix.
InetAddress Interfaces::choose_source6_locked(int link, const InetAddress& destination) const {
    auto scope_of = [](const InetAddress& address) -> int {
        if (address.is_multicast()) return address.bytes[1] & 15;
        if (address == InetAddress::loopback6() || link_local6(address)) return 2;
        return 14;
    };
    const LinkAddress* best = nullptr;
    std::array<int, 5> best_score{};
    int wanted = scope_of(destination);
    for (const LinkAddress& one : addresses_) {
        if (!one.v6()) continue;
        const Link* on = link_locked(one.link);
        if (on == nullptr || !on->up()) continue;
        bool same_link = one.link == link;
        if (!same_link && (wanted <= 2 || destination.is_multicast())) continue;
        int scope = scope_of(one.address);
        int fitting = scope >= wanted ? 32 - scope : scope;  // the smallest that is enough, else the largest
        std::array<int, 5> score{
            one.address == destination, fitting, !(one.flags & IFA_F_DEPRECATED), same_link,
            static_cast<int>(std::min<unsigned>(common_bits(one.address, destination), one.prefix))};
        if (best != nullptr && score <= best_score) continue;
        best = &one;
        best_score = score;
    }
    return best != nullptr ? best->address : InetAddress();
}

InetAddress Interfaces::choose_source(int link, const InetAddress& destination) const {
    std::shared_lock lock(mutex_);
    return destination.is_v4() ? choose_source_locked(link, destination, RT_SCOPE_UNIVERSE)
                               : choose_source6_locked(link, destination);
}

SysResult<void> Interfaces::add_route(Route route, unsigned how) {
    Changing changing(*this);
    if (route.prefix > (route.v6 ? 128 : 32) || route.destination.is_v4() == route.v6) return Errno(EINVAL);
    // No bits behind the prefix: IPv4 refuses them, IPv6 drops them.
    InetAddress bare = route.destination;
    unsigned bits = (route.v6 ? 0u : 96u) + route.prefix;
    for (unsigned i = 0; i < 16; i++) {
        unsigned keep = bits > i * 8 ? std::min(bits - i * 8, 8u) : 0;
        bare.bytes[i] = static_cast<uint8_t>(bare.bytes[i] & (0xff00 >> keep));
    }
    if (bare != route.destination) {
        if (!route.v6) return Errno(EINVAL);
        route.destination = bare;
    }
    bool refusing = error_of(route.type) != 0 || route.type == RTN_THROW;
    if (route.v6 && route.metric == 0) route.metric = kDefaultMetric6;
    if (route.source && !has_address_locked(*route.source)) return Errno(EINVAL);
    if (refusing) {
        if (route.gateway) return Errno(EINVAL);
        route.link = route.v6 ? kLoopback : 0;
    } else {
        if (route.gateway && route.gateway->is_v4() == route.v6) return Errno(EINVAL);
        if (route.link == 0 && !route.gateway) return Errno(ENODEV);
        if (route.gateway && !(route.flags & RTNH_F_ONLINK)) {
            const Route* way = nullptr;
            bool direct_link = route.v6 && link_local6(*route.gateway);
            if (direct_link && route.link == 0) return Errno(EINVAL);
            if (!direct_link) {
                way = find_route_locked(*route.gateway, RT_TABLE_LOCAL, route.link);
                if (way == nullptr) way = find_route_locked(*route.gateway, RT_TABLE_MAIN, route.link);
                bool fits = way != nullptr && (way->type == RTN_UNICAST || way->type == RTN_LOCAL) && !way->gateway;
                if (!fits || (route.v6 && way->link == kLoopback)) return Errno(route.v6 ? EHOSTUNREACH : ENETUNREACH);
                if (route.link == 0) route.link = way->link;
            }
        }
        const Link* link = link_locked(route.link);
        if (link == nullptr) return Errno(ENODEV);
        if (!link->up()) return Errno(ENETDOWN);
    }
    auto same = std::find_if(routes_.begin(), routes_.end(), [&](const Route& one) { return same_place(one, route); });
    if (same != routes_.end()) {
        if (how & NLM_F_EXCL) return Errno(EEXIST);
        if (how & NLM_F_REPLACE) {
            *same = route;
            changing.now(route);
            return {};
        }
        if (std::find(routes_.begin(), routes_.end(), route) != routes_.end()) return Errno(EEXIST);
        if (!(how & NLM_F_APPEND) && !route.v6 && !(how & NLM_F_CREATE)) return Errno(EEXIST);
    } else if (!(how & NLM_F_CREATE)) {
        return Errno(ENOENT);
    }
    if (routes_.size() >= kMostRoutes) return Errno(ENOBUFS);
    insert_route_locked(route);
    changing.now(route);
    return {};
}

SysResult<void> Interfaces::remove_route(const Route& like) {
    Changing changing(*this);
    for (size_t i = 0; i < routes_.size(); i++) {
        const Route& one = routes_[i];
        if (one.v6 != like.v6 || one.table != like.table || one.destination != like.destination ||
            one.prefix != like.prefix)
            continue;
        if (like.tos != 0 && one.tos != like.tos) continue;
        if (like.type != 0 && one.type != like.type) continue;
        if (like.scope != RT_SCOPE_NOWHERE && !like.v6 && one.scope != like.scope) continue;
        if (like.protocol != 0 && one.protocol != like.protocol) continue;
        if (like.metric != 0 && one.metric != like.metric) continue;
        if (like.link != 0 && one.link != like.link) continue;
        if (like.gateway && one.gateway != like.gateway) continue;
        if (like.source && one.source != like.source) continue;
        changing.gone(one);
        routes_.erase(routes_.begin() + static_cast<ptrdiff_t>(i));
        return {};
    }
    return Errno(ESRCH);
}

std::vector<Route> Interfaces::routes() const {
    std::shared_lock lock(mutex_);
    return routes_;
}

SysResult<void> Interfaces::set_neighbour(const Neighbour& neighbour, unsigned how) {
    Changing changing(*this);
    if (link_locked(neighbour.link) == nullptr) return Errno(ENODEV);
    for (Neighbour& one : neighbours_) {
        if (one.link != neighbour.link || one.address != neighbour.address) continue;
        if (how & NLM_F_EXCL) return Errno(EEXIST);
        one = neighbour;
        changing.now(neighbour);
        return {};
    }
    if (!(how & NLM_F_CREATE)) return Errno(ENOENT);
    if (neighbours_.size() >= kMostNeighbours) return Errno(ENOBUFS);
    neighbours_.push_back(neighbour);
    changing.now(neighbour);
    return {};
}

SysResult<void> Interfaces::remove_neighbour(int link, const InetAddress& address) {
    Changing changing(*this);
    auto it = std::find_if(neighbours_.begin(), neighbours_.end(),
                           [&](const Neighbour& one) { return one.link == link && one.address == address; });
    if (it == neighbours_.end()) return Errno(ENOENT);
    changing.gone(*it);
    neighbours_.erase(it);
    return {};
}

std::vector<Neighbour> Interfaces::neighbours() const {
    std::shared_lock lock(mutex_);
    return neighbours_;
}

std::optional<Neighbour> Interfaces::find_neighbour(int link, const InetAddress& address) const {
    std::shared_lock lock(mutex_);
    for (const Neighbour& one : neighbours_)
        if (one.link == link && one.address == address) return one;
    return std::nullopt;
}

}  // namespace casemate::sentry
