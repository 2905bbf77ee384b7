// Interfaces: the links, addresses, routes and neighbours of a network namespace. One model for everybody who looks at
// the network or changes it: ioctls, netlink, /proc/net, /sys/class/net, socket addresses, and the stack that moves
// packets.
//
// Rules are Linux's: an address brings its routes along (table local, and the connected prefix in main), a link that
// goes down takes its routes with it. Thread-safe. Lists come back as copies. Changes come one at a time (as under
// Linux's RTNL); listeners hear of each in order, after it is visible, and may read the model but not change it.
//
// Trusts nothing: values may come from an application; numbers of things are bounded.
// Locks: change_mutex_ (whole changes with their notifications), then mutex_ (the data). Neither is held when a
// caller's code runs, except that listeners run under change_mutex_.
#pragma once

#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <variant>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry {

constexpr uint32_t kLowerUp = 1 << 16;  // IFF_LOWER_UP, which <net/if.h> lacks

using HardwareAddress = std::array<uint8_t, 6>;

// What a link has moved. Whoever moves packets counts, without a lock.
struct LinkCounters final : RefCounted {
    std::atomic<uint64_t> receive_packets{0}, receive_bytes{0}, receive_errors{0}, receive_dropped{0}, multicast{0};
    std::atomic<uint64_t> send_packets{0}, send_bytes{0}, send_errors{0}, send_dropped{0};

    void received(uint64_t bytes, uint64_t packets = 1) {
        receive_packets.fetch_add(packets, std::memory_order_relaxed);
        receive_bytes.fetch_add(bytes, std::memory_order_relaxed);
    }
    void sent(uint64_t bytes, uint64_t packets = 1) {
        send_packets.fetch_add(packets, std::memory_order_relaxed);
        send_bytes.fetch_add(bytes, std::memory_order_relaxed);
    }
};

struct Link {
    int index = 0;
    std::string name;
    uint16_t type = ARPHRD_ETHER;
    HardwareAddress hardware{}, broadcast{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint32_t mtu = 1500;
    uint32_t flags = IFF_BROADCAST | IFF_MULTICAST;  // IFF_*, without RUNNING and LOWER_UP
    bool carrier = true;
    uint32_t queue_length = 1000, group = 0;
    std::string kind;   // "veth"; empty: none told
    std::string alias;  // ifalias
    Ref<LinkCounters> counters;

    bool up() const { return flags & IFF_UP; }
    bool loopback() const { return flags & IFF_LOOPBACK; }
    // With what follows from the carrier.
    uint32_t shown_flags() const { return up() && carrier ? flags | IFF_RUNNING | kLowerUp : flags; }
    // IF_OPER_*
    uint8_t operational_state() const;
};

struct LinkAddress {
    int link = 0;
    InetAddress address, peer;  // the same but on point-to-point links
    uint8_t prefix = 32;
    uint8_t scope = RT_SCOPE_UNIVERSE;
    uint32_t flags = IFA_F_PERMANENT;       // IFA_F_*
    std::optional<InetAddress> broadcast;   // IPv4
    std::string label;                      // IPv4
    uint32_t metric = 0;                    // of the prefix route; 0: the default
    uint32_t valid = ~0u, preferred = ~0u;  // seconds, as given
    uint8_t protocol = 0;                   // IFAPROT_*

    bool v6() const { return !address.is_v4(); }
};

struct Route {
    bool v6 = false;
    uint32_t table = RT_TABLE_MAIN;
    InetAddress destination;  // the any address of the family: default
    uint8_t prefix = 0;       // of the family's 32 or 128 bits
    uint8_t type = RTN_UNICAST, scope = RT_SCOPE_UNIVERSE, protocol = RTPROT_BOOT, tos = 0;
    uint32_t metric = 0;
    int link = 0;                          // 0: none (blackhole and its like)
    std::optional<InetAddress> gateway;    // none: on the link
    std::optional<InetAddress> source;     // preferred
    uint32_t flags = 0;                    // RTNH_F_ONLINK
    uint32_t mtu = 0, advertised_mss = 0;  // 0: the link's

    bool matches(const InetAddress& address) const;
    friend bool operator==(const Route&, const Route&) = default;
};

struct Neighbour {
    int link = 0;
    InetAddress address;
    HardwareAddress hardware{};
    uint16_t state = NUD_PERMANENT;  // NUD_*
    uint8_t flags = 0;               // NTF_*
};

struct InterfaceChange {
    bool removed = false;
    std::variant<Link, LinkAddress, Route, Neighbour> what;
};

// What a change of a link sets; the rest stays.
struct LinkChange {
    uint32_t flags = 0, flags_mask = 0;
    std::optional<std::string> name, alias;
    std::optional<HardwareAddress> hardware, broadcast;
    std::optional<uint32_t> mtu, queue_length, group;
    std::optional<bool> carrier;
};

// Where packets to a destination go.
struct RouteChoice {
    Route route;
    uint8_t type = RTN_UNICAST;  // RTN_LOCAL: it is ours; RTN_BROADCAST, RTN_MULTICAST
    int link = 0;                // out of; the loopback for what is ours
    InetAddress source;          // that packets carry; any: there is none
    std::optional<InetAddress> gateway;
    uint32_t mtu = 0;
    InetAddress next_hop(const InetAddress& destination) const { return gateway ? *gateway : destination; }
};

class Interfaces {
  public:
    static constexpr int kLoopback = 1;
    static constexpr size_t kMostLinks = 1024, kMostAddresses = 4096, kMostRoutes = 16384, kMostNeighbours = 4096;

    // With a loopback: down and bare as in a new namespace of Linux's, or (`ready`) up with its addresses.
    explicit Interfaces(bool ready);

    // Links. Index 0: the next free one; counters are made if there are none. The index. EEXIST, EINVAL, ENFILE.
    SysResult<int> add_link(Link link);
    SysResult<void> remove_link(int index);  // ENODEV; the loopback: EOPNOTSUPP
    // ENODEV, EINVAL, EEXIST (name), EBUSY (name of a link that is up), EOPNOTSUPP.
    SysResult<void> change_link(int index, const LinkChange& change);
    std::vector<Link> links() const;
    std::optional<Link> link(int index) const;
    std::optional<Link> find_link(std::string_view name) const;

    // Addresses. ENODEV, EEXIST, EINVAL, ENOBUFS; `replace`: a present one takes the new flags and lifetimes.
    SysResult<void> add_address(LinkAddress address, bool replace = false);
    // By link, address and prefix; EADDRNOTAVAIL.
    SysResult<void> remove_address(int link, const InetAddress& address, uint8_t prefix);
    std::vector<LinkAddress> addresses() const;
    // The first of this link that is not secondary.
    std::optional<LinkAddress> primary_address(int link, bool v6) const;

    // Routes. `how`: NLM_F_{CREATE,EXCL,REPLACE,APPEND}. EEXIST, ENOENT, ENODEV, ENETDOWN, ENETUNREACH (the gateway is
    // out of reach), EINVAL, ENOBUFS.
    SysResult<void> add_route(Route route, unsigned how);
    // The first that fits `like`, whose zero fields (type, scope RT_SCOPE_NOWHERE, protocol, metric, link) are
    // wildcards; ESRCH.
    SysResult<void> remove_route(const Route& like);
    std::vector<Route> routes() const;

    // Neighbours. `how` as above. EEXIST, ENOENT, ENODEV, ENOBUFS.
    SysResult<void> set_neighbour(const Neighbour& neighbour, unsigned how);
    SysResult<void> remove_neighbour(int link, const InetAddress& address);  // ENOENT
    std::vector<Neighbour> neighbours() const;
    std::optional<Neighbour> find_neighbour(int link, const InetAddress& address) const;

    // Where to: the longest prefix of table local, then main, then default; of equals the lowest metric. `source` (any:
    // to be chosen) and `link` (0: any) restrict it. ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL by the kind of route.
    SysResult<RouteChoice> route(const InetAddress& destination, const InetAddress& source, int link = 0) const;
    // The type that table local has for an address: RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST; RTN_UNICAST: not ours.
    uint8_t local_type(const InetAddress& address) const;
    // An address of the link, else of any, for packets to `destination`; any: none.
    InetAddress choose_source(int link, const InetAddress& destination) const;

    // Rises with every change: whoever keeps a RouteChoice looks whether it is still good.
    uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

    using Listener = std::function<void(const InterfaceChange&)>;
    int add_listener(Listener listener);
    void remove_listener(int id);  // it is not running when this returns; not from within a listener

  private:
    class Changing;

    const Link* link_locked(int index) const;
    std::vector<Route> routes_of_locked(const Link& link) const;
    void replace_derived_locked(const std::vector<Route>& before, const std::vector<Route>& after, Changing& changing);
    bool insert_route_locked(const Route& route);
    void link_down_locked(const Link& link, Changing& changing);
    void link_up_locked(const Link& link, Changing& changing);
    SysResult<void> insert_address_locked(LinkAddress address, Changing& changing);
    void erase_address_locked(size_t at, Changing& changing);
    const Route* find_route_locked(const InetAddress& destination, uint32_t table, int link) const;
    InetAddress choose_source_locked(int link, const InetAddress& destination, uint8_t scope) const;
    InetAddress choose_source6_locked(int link, const InetAddress& destination) const;
    bool has_address_locked(const InetAddress& address) const;
    uint32_t mtu_locked(const Route& route) const;

    std::mutex change_mutex_;
    std::map<int, Listener> listeners_;  // guarded by change_mutex_
    int next_listener_ = 1;              // guarded by change_mutex_
    std::atomic<uint64_t> generation_{1};

    mutable std::shared_mutex mutex_;
    std::map<int, Link> links_;           // guarded by mutex_, as is all below
    std::vector<LinkAddress> addresses_;  // in the order they came
    std::vector<Route> routes_;           // in the order Linux dumps them
    std::vector<Neighbour> neighbours_;
    int next_index_ = 1;
};

}  // namespace casemate::sentry
