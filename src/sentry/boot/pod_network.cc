// The guest API's network requests: links that the sandbox host hands over, onto the namespace's model and stack.
#include <arpa/inet.h>
#include <fmt/core.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>

#include "sentry/boot/pod.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/network.h"

namespace casemate::sentry {

using guest_api::wrong_state;

namespace {

constexpr size_t kMostInterfaces = 64, kMostHostInterfaces = 1000;

std::optional<InetAddress> parse_address(const std::string& text) {
    in_addr v4;
    if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return InetAddress::v4(ntohl(v4.s_addr));
    in6_addr v6;
    if (inet_pton(AF_INET6, text.c_str(), &v6) == 1) return InetAddress::v6(v6);
    return std::nullopt;
}

struct Prefix {
    InetAddress address;
    uint8_t bits;
};
std::optional<Prefix> parse_prefix(const std::string& text) {
    size_t slash = text.find('/');
    if (slash == std::string::npos) return std::nullopt;
    auto address = parse_address(text.substr(0, slash));
    char* end = nullptr;
    unsigned long bits = strtoul(text.c_str() + slash + 1, &end, 10);
    if (!address || *end != 0 || bits > (address->is_v4() ? 32u : 128u)) return std::nullopt;
    return Prefix{*address, static_cast<uint8_t>(bits)};
}

std::string address_text(const InetAddress& address) {
    char text[INET6_ADDRSTRLEN] = {};
    if (address.is_v4()) {
        in_addr v4{htonl(address.as_v4())};
        return inet_ntop(AF_INET, &v4, text, sizeof(text));
    }
    in6_addr v6 = address.as_v6();
    return inet_ntop(AF_INET6, &v6, text, sizeof(text));
}

std::optional<HardwareAddress> parse_hardware(const std::string& bytes) {
    HardwareAddress address;
    if (bytes.size() != address.size()) return std::nullopt;
    memcpy(address.data(), bytes.data(), bytes.size());
    return address;
}

// The IPv4 broadcast address of a prefix, as `ip address add ... broadcast +` makes it.
std::optional<InetAddress> broadcast_of(const Prefix& prefix) {
    if (!prefix.address.is_v4() || prefix.bits >= 31) return std::nullopt;
    return InetAddress::v4(prefix.address.as_v4() | 0xffffffffu >> prefix.bits);
}

}  // namespace

Network& Pod::network() {
    std::lock_guard lock(namespaces_->network->mutex);
    // SAFETY: make_pod_network() has put it there.
    return static_cast<Network&>(*namespaces_->network->state);
}

void Pod::update_network(v1::UpdateNetworkRequest request, RequestStreams streams,
                         Answer<v1::UpdateNetworkReply> answer) {
    if (!created_) return static_cast<void>(answer.fail(wrong_state("CreateSandbox comes first")));
    Network& net = network();
    Interfaces& model = net.interfaces();
    std::vector<int> added;
    auto undo = [&] {
        for (int index : added) static_cast<void>(model.remove_link(index));
    };
    auto refuse = [&](Errno error, std::string what, std::string field) {
        undo();
        answer.fail(boot_error(error, std::move(what), std::move(field)));
    };
    auto index_of = [&](const std::string& name) {
        auto link = model.find_link(name);
        return link ? link->index : 0;
    };
    bool of_host = net.host() != nullptr;
    if (static_cast<size_t>(request.interfaces_size()) > (of_host ? kMostHostInterfaces : kMostInterfaces))
        return refuse(Errno(E2BIG), "too many interfaces", "interfaces");
    for (const std::string& name : request.remove_interfaces())
        if (index_of(name) == 0) return refuse(Errno(ENODEV), "remove " + name, "remove_interfaces");
    for (const std::string& name : request.remove_interfaces())
        if (auto gone = model.remove_link(index_of(name)); !gone.ok())
            return refuse(gone.error(), "remove " + name, "remove_interfaces");
    for (int i = 0; i < request.interfaces_size(); i++) {
        const v1::Interface& wanted = request.interfaces(i);
        std::string field = fmt::format("interfaces[{}]", i);
        int index = index_of(wanted.name());
        if (wanted.queues_size() > 0) {
            if (index != 0) return refuse(Errno(EEXIST), "make " + wanted.name(), field);
            if (wanted.queues_size() != 1 || wanted.link_kind() != "packet" ||
                (wanted.virtio_header_bytes() != 0 && wanted.virtio_header_bytes() != sizeof(stack::VirtioHeader)))
                return refuse(Errno(ENOTSUP), "make " + wanted.name() + " of this kind", field + ".link_kind");
            auto hardware = parse_hardware(wanted.hardware_address());
            if (!hardware) return refuse(Errno(EINVAL), "make " + wanted.name(), field + ".hardware_address");
            auto socket = streams.take(wanted.queues(0));
            if (!socket) return refuse(Errno(EINVAL), "make " + wanted.name(), field + ".queues");
            Link link;
            link.name = wanted.name();
            link.hardware = *hardware;
            link.mtu = wanted.mtu();
            link.kind = "veth";
            if (wanted.up()) link.flags |= IFF_UP;
            auto made = net.make_wire(kernel_.timers())
                            .add_link(std::move(link), std::move(socket), wanted.virtio_header_bytes() != 0);
            if (!made.ok()) return refuse(made.error(), "make " + wanted.name(), field);
            index = *made;
            added.push_back(index);
        } else if (index == 0 && of_host && wanted.link_kind() == "host") {
            Link link;
            link.index = static_cast<int>(wanted.index());
            link.name = wanted.name();
            if (auto hardware = parse_hardware(wanted.hardware_address())) {
                link.hardware = *hardware;
            } else {
                link.type = ARPHRD_NONE;
                link.flags = IFF_NOARP | IFF_MULTICAST;
            }
            link.mtu = wanted.mtu();
            link.carrier = wanted.up();
            if (wanted.up()) link.flags |= IFF_UP;
            auto made = model.add_link(std::move(link));
            if (!made.ok()) return refuse(made.error(), "show " + wanted.name(), field);
            index = *made;
            added.push_back(index);
        } else if (index == 0) {
            return refuse(Errno(ENODEV), "change " + wanted.name(), field);
        } else {
            LinkChange change;
            change.flags_mask = IFF_UP;
            change.flags = wanted.up() ? IFF_UP : 0;
            if (wanted.mtu() != 0) change.mtu = wanted.mtu();
            if (auto done = model.change_link(index, change); !done.ok())
                return refuse(done.error(), "change " + wanted.name(), field);
        }
        for (const std::string& text : wanted.addresses()) {
            auto prefix = parse_prefix(text);
            if (!prefix) return refuse(Errno(EINVAL), "the address " + text, field + ".addresses");
            LinkAddress address;
            address.link = index;
            address.address = address.peer = prefix->address;
            address.prefix = prefix->bits;
            address.broadcast = broadcast_of(*prefix);
            if (prefix->address.is_v4()) address.label = wanted.name();
            if (stack::is_link_local(prefix->address)) address.scope = RT_SCOPE_LINK;
            auto done = model.add_address(address, true);
            if (!done.ok()) return refuse(done.error(), "add the address " + text, field + ".addresses");
        }
    }
    auto route_of = [&](const v1::Route& wanted, int index, const std::string& field) -> std::optional<Route> {
        auto destination = parse_prefix(wanted.destination());
        if (!destination) {
            refuse(Errno(EINVAL), "the destination " + wanted.destination(), field + ".destination");
            return std::nullopt;
        }
        Route route;
        route.v6 = !destination->address.is_v4();
        route.destination = destination->address;
        route.prefix = destination->bits;
        route.link = index;
        if (!wanted.gateway().empty()) route.gateway = parse_address(wanted.gateway());
        if (!wanted.source().empty()) route.source = parse_address(wanted.source());
        route.metric = wanted.metric();
        route.scope = route.v6 ? static_cast<uint8_t>(RT_SCOPE_UNIVERSE) : static_cast<uint8_t>(wanted.scope());
        route.mtu = wanted.mtu();
        if (wanted.on_link()) route.flags |= RTNH_F_ONLINK;
        return route;
    };
    // Where routes of a new link are told, those that its addresses brought and nobody tells are not wanted (CNI's ptp
    // reaches even its own network by the gateway).
    for (const Route& brought : model.routes()) {
        if (brought.table != RT_TABLE_MAIN || !std::ranges::count(added, brought.link)) continue;
        bool any = false, told = false;
        for (int i = 0; i < request.routes_size() && !told; i++) {
            const v1::Route& wanted = request.routes(i);
            auto destination = parse_prefix(wanted.destination());
            if (!destination || index_of(wanted.interface()) != brought.link) continue;
            any = true;
            told = destination->address == brought.destination && destination->bits == brought.prefix &&
                   wanted.gateway().empty();
        }
        if (any && !told) static_cast<void>(model.remove_route(brought));
    }
    // Those without a gateway first: the others are reached by them.
    for (bool with_gateway : {false, true}) {
        for (int i = 0; i < request.routes_size(); i++) {
            const v1::Route& wanted = request.routes(i);
            if (wanted.gateway().empty() == with_gateway) continue;
            std::string field = fmt::format("routes[{}]", i);
            int index = index_of(wanted.interface());
            if (index == 0) return refuse(Errno(ENODEV), "a route by " + wanted.interface(), field + ".interface");
            auto route = route_of(wanted, index, field);
            if (!route) return;
            auto done = model.add_route(*route, NLM_F_CREATE | NLM_F_EXCL);
            if (!done.ok() && done.error().value != EEXIST)  // an address has brought it
                return refuse(done.error(), "add the route to " + wanted.destination(), field);
        }
    }
    for (int i = 0; i < request.remove_routes_size(); i++) {
        const v1::Route& wanted = request.remove_routes(i);
        auto route = route_of(wanted, index_of(wanted.interface()), fmt::format("remove_routes[{}]", i));
        if (!route) return;
        route->type = 0;
        route->scope = RT_SCOPE_NOWHERE;
        route->protocol = 0;
        if (auto done = model.remove_route(*route); !done.ok())
            return refuse(done.error(), "remove the route to " + wanted.destination(),
                          fmt::format("remove_routes[{}]", i));
    }
    for (int i = 0; i < request.neighbours_size(); i++) {
        const v1::Neighbour& wanted = request.neighbours(i);
        auto address = parse_address(wanted.address());
        auto hardware = parse_hardware(wanted.hardware_address());
        std::string field = fmt::format("neighbours[{}]", i);
        if (!address || !hardware) return refuse(Errno(EINVAL), "the neighbour " + wanted.address(), field);
        Neighbour neighbour;
        neighbour.link = index_of(wanted.interface());
        neighbour.address = *address;
        neighbour.hardware = *hardware;
        neighbour.state = wanted.permanent() ? NUD_PERMANENT : NUD_STALE;
        if (auto done = model.set_neighbour(neighbour, NLM_F_CREATE | NLM_F_REPLACE); !done.ok())
            return refuse(done.error(), "add the neighbour " + wanted.address(), field);
    }
    for (const v1::Neighbour& wanted : request.remove_neighbours())
        if (auto address = parse_address(wanted.address()))
            static_cast<void>(model.remove_neighbour(index_of(wanted.interface()), *address));
    answer.ok();
}

void Pod::get_network(v1::GetNetworkRequest, Answer<v1::GetNetworkReply> answer) {
    if (!created_) return static_cast<void>(answer.fail(wrong_state("CreateSandbox comes first")));
    Interfaces& model = network().interfaces();
    v1::GetNetworkReply reply;
    std::map<int, std::string> names;
    for (const Link& link : model.links()) {
        v1::Interface& out = *reply.add_interfaces();
        names[link.index] = link.name;
        out.set_name(link.name);
        if (!link.loopback()) out.set_hardware_address(std::string(link.hardware.begin(), link.hardware.end()));
        out.set_mtu(link.mtu);
        out.set_up(link.up());
        for (const LinkAddress& address : model.addresses())
            if (address.link == link.index)
                out.add_addresses(fmt::format("{}/{}", address_text(address.address), address.prefix));
    }
    for (const Route& route : model.routes()) {
        if (route.table != RT_TABLE_MAIN) continue;
        v1::Route& out = *reply.add_routes();
        out.set_destination(fmt::format("{}/{}", address_text(route.destination), route.prefix));
        if (route.gateway) out.set_gateway(address_text(*route.gateway));
        if (route.source) out.set_source(address_text(*route.source));
        out.set_interface(names[route.link]);
        out.set_metric(route.metric);
        out.set_scope(route.scope);
        out.set_mtu(route.mtu);
        out.set_on_link(route.flags & RTNH_F_ONLINK);
    }
    for (const Neighbour& neighbour : model.neighbours()) {
        v1::Neighbour& out = *reply.add_neighbours();
        out.set_address(address_text(neighbour.address));
        out.set_hardware_address(std::string(neighbour.hardware.begin(), neighbour.hardware.end()));
        out.set_interface(names[neighbour.link]);
        out.set_permanent(neighbour.state & NUD_PERMANENT);
    }
    answer.ok(reply);
}

}  // namespace casemate::sentry
