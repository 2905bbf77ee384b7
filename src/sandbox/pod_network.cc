#include "sandbox/pod_network.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <map>

#include "base/log.h"

namespace casemate::sandbox {
namespace {

using host::attribute;
using host::message_body;
using host::RouteMessage;

constexpr int kSocketBuffer = 8 << 20;
constexpr int kIgnoreOutgoing = 23;        // PACKET_IGNORE_OUTGOING
constexpr uint32_t kOffloads = 1 | 2 | 4;  // checksum, TSO4, TSO6
constexpr uint32_t kVirtioHeaderBytes = 10;
constexpr int kMostSeen = 1000;  // links and routes of the host's

std::string address_text(int family, std::string_view bytes) {
    char text[INET6_ADDRSTRLEN] = {};
    if (bytes.size() < (family == AF_INET ? 4u : 16u)) return "";
    return inet_ntop(family, bytes.data(), text, sizeof(text)) != nullptr ? text : "";
}

template <typename T>
T number_of(std::string_view bytes) {
    T value{};
    if (bytes.size() >= sizeof(T)) memcpy(&value, bytes.data(), sizeof(T));
    return value;
}

Result<UniqueFd> open_packet_socket(const std::string& name, int index) {
    // No protocol until it is bound: nothing of other links gets in.
    UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    if (!fd) return sys_error("open a packet socket for " + name);
    int on = 1;
    if (setsockopt(fd.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0)
        return sys_error("let the packet socket of " + name + " carry large frames");
    if (setsockopt(fd.get(), SOL_PACKET, kIgnoreOutgoing, &on, sizeof(on)) != 0)
        return sys_error("let the packet socket of " + name + " ignore its own frames");
    int size = kSocketBuffer;
    for (auto [force, plain] : {std::pair(SO_RCVBUFFORCE, SO_RCVBUF), std::pair(SO_SNDBUFFORCE, SO_SNDBUF)})
        if (setsockopt(fd.get(), SOL_SOCKET, force, &size, sizeof(size)) != 0)
            setsockopt(fd.get(), SOL_SOCKET, plain, &size, sizeof(size));
    sockaddr_ll where{};
    where.sll_family = AF_PACKET;
    where.sll_protocol = htons(ETH_P_ALL);
    where.sll_ifindex = index;
    // SAFETY: the way the C interface takes addresses.
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&where), sizeof(where)) != 0)
        return sys_error("bind a packet socket to " + name);
    // The host has no address of ours left, so it would not listen to the groups that neighbours are asked for by: a
    // macvlan hands nothing over but what somebody listens to.
    packet_mreq groups{};
    groups.mr_ifindex = index;
    groups.mr_type = PACKET_MR_ALLMULTI;
    if (setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &groups, sizeof(groups)) != 0)
        return sys_error("let " + name + " take all groups");
    return fd;
}

// Abstract names belong to the network namespace, and go with the process that has them.
Result<UniqueFd> claim_namespace() {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) return sys_error("socket");
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    constexpr std::string_view kName("\0casemate-pod", 13);
    memcpy(name.sun_path, kName.data(), kName.size());
    // SAFETY: the way the C interface takes addresses.
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&name),
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + kName.size())) == 0)
        return fd;
    if (errno == EADDRINUSE)
        return Error(
            "the network namespace belongs to another pod: containers that share one join that pod by the annotations "
            "of CRI, or get a namespace each",
            EBUSY);
    return sys_error("claim the network namespace");
}

}  // namespace

Result<std::unique_ptr<PodNetwork>> PodNetwork::take() {
    auto network = std::unique_ptr<PodNetwork>(new PodNetwork(TRY(host::RouteSocket::open())));
    network->claim_ = TRY(claim_namespace());
    auto done = network->read(false);
    if (!done.ok()) return done.take_error().with_context("take over the network namespace");
    return network;
}

void show_host_network(guest_api::GuestClient& guest) {
    auto show = [&]() -> Result<void> {
        PodNetwork seen(TRY(host::RouteSocket::open()));
        TRY(seen.read(true));
        auto told = guest.update_network(seen.request_);
        if (!told.ok()) return told.take_error();
        return {};
    };
    // Sockets do not need it.
    auto shown = show();
    if (!shown.ok()) log::warning("the host's links are not seen in the pod: {}", shown.error().message());
}

Result<void> PodNetwork::read(bool only_seen) {
    std::map<int, guest::Interface*> links;
    for (const RouteMessage& message : TRY(routes_.dump(RTM_GETLINK, AF_UNSPEC))) {
        auto link = message_body<ifinfomsg>(message);
        if (only_seen && request_.interfaces_size() >= kMostSeen) break;
        if (!only_seen && ((link.ifi_flags & IFF_LOOPBACK) || !(link.ifi_flags & IFF_UP))) continue;
        std::string name(attribute(message, sizeof(link), IFLA_IFNAME));
        name.resize(strnlen(name.data(), name.size()));
        if (!only_seen && link.ifi_type != ARPHRD_ETHER) {
            log::warning("the link {} is no Ethernet: it stays outside the sandbox", name);
            continue;
        }
        guest::Interface& out = *request_.add_interfaces();
        out.set_name(name);
        out.set_hardware_address(std::string(attribute(message, sizeof(link), IFLA_ADDRESS)));
        out.set_mtu(number_of<uint32_t>(attribute(message, sizeof(link), IFLA_MTU)));
        out.set_up((link.ifi_flags & IFF_UP) != 0);
        links[link.ifi_index] = &out;
        if (only_seen) {
            out.set_index(static_cast<uint32_t>(link.ifi_index));
            out.set_link_kind("host");
            continue;
        }
        out.set_link_kind("packet");
        out.set_virtio_header_bytes(kVirtioHeaderBytes);
        out.set_offloads(kOffloads);
        sockets_.push_back(TRY(open_packet_socket(name, link.ifi_index)));
    }
    if (links.empty()) return {};
    for (const RouteMessage& message : TRY(routes_.dump(RTM_GETADDR, AF_UNSPEC))) {
        auto address = message_body<ifaddrmsg>(message);
        auto link = links.find(static_cast<int>(address.ifa_index));
        if (link == links.end() || (address.ifa_family != AF_INET && address.ifa_family != AF_INET6)) continue;
        std::string_view bytes = attribute(message, sizeof(address), IFA_LOCAL);
        if (bytes.empty()) bytes = attribute(message, sizeof(address), IFA_ADDRESS);
        link->second->add_addresses(
            fmt::format("{}/{}", address_text(address.ifa_family, bytes), address.ifa_prefixlen));
        addresses_.push_back(message);
    }
    for (uint8_t family : {AF_INET, AF_INET6}) {
        for (const RouteMessage& message : TRY(routes_.dump(RTM_GETROUTE, family))) {
            auto route = message_body<rtmsg>(message);
            if (route.rtm_family != family || route.rtm_type != RTN_UNICAST || (route.rtm_flags & RTM_F_CLONED))
                continue;
            uint32_t table = number_of<uint32_t>(attribute(message, sizeof(route), RTA_TABLE));
            if (table != RT_TABLE_MAIN) continue;
            auto link = links.find(number_of<int>(attribute(message, sizeof(route), RTA_OIF)));
            if (link == links.end() || (only_seen && request_.routes_size() >= kMostSeen)) continue;
            route_table_.push_back(message);
            guest::Route& out = *request_.add_routes();
            std::string destination = address_text(family, attribute(message, sizeof(route), RTA_DST));
            if (destination.empty()) destination = family == AF_INET ? "0.0.0.0" : "::";
            out.set_destination(fmt::format("{}/{}", destination, route.rtm_dst_len));
            out.set_gateway(address_text(family, attribute(message, sizeof(route), RTA_GATEWAY)));
            out.set_interface(link->second->name());
            out.set_source(address_text(family, attribute(message, sizeof(route), RTA_PREFSRC)));
            out.set_metric(number_of<uint32_t>(attribute(message, sizeof(route), RTA_PRIORITY)));
            out.set_scope(route.rtm_scope);
            out.set_on_link((route.rtm_flags & RTNH_F_ONLINK) != 0);
        }
    }
    for (const RouteMessage& message : TRY(routes_.dump(RTM_GETNEIGH, AF_UNSPEC))) {
        auto neighbour = message_body<ndmsg>(message);
        auto link = links.find(neighbour.ndm_ifindex);
        if (link == links.end() || !(neighbour.ndm_state & NUD_PERMANENT)) continue;
        std::string address = address_text(neighbour.ndm_family, attribute(message, sizeof(neighbour), NDA_DST));
        if (address.empty()) continue;
        guest::Neighbour& out = *request_.add_neighbours();
        out.set_address(address);
        out.set_hardware_address(std::string(attribute(message, sizeof(neighbour), NDA_LLADDR)));
        out.set_interface(link->second->name());
        out.set_permanent(true);
    }
    return {};
}

Result<void> PodNetwork::take_links() {
    std::vector<std::string> links;
    for (const guest::Interface& interface : request_.interfaces()) links.push_back(interface.name());
    auto wall = host::IngressWall::raise(links);
    // That of a pod that has just ended may still be going.
    for (int attempt = 0; attempt < 50 && !wall.ok() && wall.error().value == EEXIST; ++attempt) {
        usleep(10'000);
        wall = host::IngressWall::raise(links);
    }
    if (wall.ok()) {
        wall_ = std::move(*wall);
        return {};
    }
    log::info("the addresses leave the network namespace while the pod runs: no wall by nf_tables: {}",
              strerrordesc_np(wall.error().value));
    removed_ = true;
    for (const RouteMessage& address : addresses_) {
        auto gone = routes_.request(address, RTM_DELADDR, 0);
        if (!gone.ok() && gone.error().value != EADDRNOTAVAIL) {
            give_back();
            return sys_error("take an address from a link of the network namespace", gone.error().value);
        }
    }
    return {};
}

Result<void> PodNetwork::hand_over(guest_api::GuestClient& guest) {
    if (sockets_.empty()) return {};  // nothing but a loopback
    TRY(take_links());
    for (size_t i = 0; i < sockets_.size(); ++i)
        request_.mutable_interfaces(static_cast<int>(i))->add_queues(TRY(guest.send_stream(sockets_[i].get())));
    sockets_.clear();
    auto told = guest.update_network(request_);
    if (!told.ok()) {
        give_back();
        return told.take_error();
    }
    return {};
}

void PodNetwork::give_back() {
    wall_.reset();
    if (!std::exchange(removed_, false)) return;
    for (const RouteMessage& address : addresses_)
        static_cast<void>(routes_.request(address, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE));
    // Those without a gateway first: the others are reached by them.
    for (bool with_gateway : {false, true})
        for (const RouteMessage& route : route_table_)
            if (attribute(route, sizeof(rtmsg), RTA_GATEWAY).empty() != with_gateway)
                static_cast<void>(routes_.request(route, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE));
}

}  // namespace casemate::sandbox
