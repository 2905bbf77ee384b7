#include "sentry/net/inet/local_ip.h"

#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

#include <algorithm>
#include <cstring>

#include "sentry/net/inet/ports.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/net_counters.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/taps.h"

namespace casemate::sentry {
namespace {

constexpr size_t kQuoted = 8 + 520;  // UDP header and data in an error

Packet fresh(size_t size) {
    Packet packet;
    packet.data.reset(new (std::nothrow) std::byte[std::max<size_t>(size, 1)]);
    packet.size = packet.data ? size : 0;
    return packet;
}

// A packet that goes to the pod itself.
void count_local(Network& network, uint8_t protocol, const Packet& packet) {
    bool six = !packet.to.address.is_v4();
    network.count_loopback(six, packet.size + (six ? 40 : 20));
    if (protocol != (six ? static_cast<int>(IPPROTO_ICMPV6) : static_cast<int>(IPPROTO_ICMP)) || packet.size == 0)
        return;
    NetCounters::Icmp& counted = network.counters().icmp[six];
    NetCounters::add(counted.in);
    NetCounters::add(counted.out);
    auto type = static_cast<uint8_t>(packet.data[0]);
    if (type == (six ? ICMP6_ECHO_REQUEST : ICMP_ECHO)) {
        NetCounters::add(counted.echos_in);
        NetCounters::add(counted.echos_out);
    } else if (type == (six ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY)) {
        NetCounters::add(counted.replies_in);
        NetCounters::add(counted.replies_out);
    }
}

void answer_echo(Network& network, uint8_t protocol, const Packet& request) {
    bool v4 = protocol == IPPROTO_ICMP;
    Packet reply = request.duplicate();
    if (reply.size < sizeof(icmphdr)) return;
    std::swap(reply.from, reply.to);
    reply.hop_limit = 64;
    reply.arrived = realtime_now();
    reply.data[0] = static_cast<std::byte>(v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY);
    reply.data[2] = reply.data[3] = std::byte{0};
    uint16_t sum = v4 ? internet_checksum({reply.data.get(), reply.size}) : checksum_v6(reply, protocol);
    memcpy(reply.data.get() + 2, &sum, sizeof(sum));
    network.taps().looped(protocol, false, reply);
    count_local(network, protocol, reply);
    deliver_locally(network, protocol, reply);
}

void take_icmp(Network& network, uint8_t protocol, Packet& packet) {
    if (packet.size < sizeof(icmphdr)) return;
    auto type = static_cast<uint8_t>(packet.data[0]);
    bool v4 = protocol == IPPROTO_ICMP;
    if (type == (v4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST)) return answer_echo(network, protocol, packet);
    if (type != (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY)) return;
    // To the ping socket whose identifier it carries.
    uint16_t identifier;
    memcpy(&identifier, packet.data.get() + 4, sizeof(identifier));
    PortTable& table = v4 ? network.ping_ports() : network.ping6_ports();
    packet.to.port = ntohs(identifier);
    if (Ref<InetSocket> found = table.find(packet.to, {packet.from.address, 0}, true, packet.link)) {
        packet.from.port = 0;
        static_cast<DatagramSocket&>(*found).receive_packet(packet);
    }
}

void take_udp(Network& network, Packet& packet) {
    udphdr header;
    if (packet.size < sizeof(header)) return;
    memcpy(&header, packet.data.get(), sizeof(header));
    size_t size = ntohs(header.len);
    if (size < sizeof(header) || size > packet.size) return;
    Packet datagram = fresh(size - sizeof(header));
    if (datagram.size > 0) memcpy(datagram.data.get(), packet.data.get() + sizeof(header), datagram.size);
    datagram.from = {packet.from.address, ntohs(header.source)};
    datagram.to = {packet.to.address, ntohs(header.dest)};
    datagram.hop_limit = packet.hop_limit;
    datagram.traffic_class = packet.traffic_class;
    datagram.link = packet.link;
    datagram.arrived = packet.arrived;
    deliver_datagram(network.udp_ports(), datagram, network.interfaces().local_type(packet.to.address));
}

}  // namespace

iphdr ipv4_header(const Packet& packet, uint8_t protocol, size_t payload) {
    iphdr header{};
    header.version = 4;
    header.ihl = 5;
    header.tos = static_cast<uint8_t>(packet.traffic_class);
    header.tot_len = htons(static_cast<uint16_t>(sizeof(header) + payload));
    header.frag_off = htons(IP_DF);
    header.ttl = static_cast<uint8_t>(packet.hop_limit);
    header.protocol = protocol;
    header.saddr = htonl(packet.from.address.as_v4());
    header.daddr = htonl(packet.to.address.as_v4());
    header.check = internet_checksum(std::as_bytes(std::span(&header, 1)));
    return header;
}

uint16_t internet_checksum(std::span<const std::byte> bytes, uint32_t sum) {
    uint64_t total = sum;
    size_t i = 0;
    for (; i + 1 < bytes.size(); i += 2) {
        uint16_t word;
        memcpy(&word, bytes.data() + i, sizeof(word));
        total += word;
    }
    if (i < bytes.size()) total += static_cast<uint8_t>(bytes[i]);
    while (total >> 16) total = (total & 0xffff) + (total >> 16);
    return static_cast<uint16_t>(~total);
}

uint16_t checksum_v6(const Packet& packet, uint8_t protocol) {
    struct {
        std::array<uint8_t, 16> from, to;
        uint32_t size, protocol;
    } pseudo{packet.from.address.bytes, packet.to.address.bytes, htonl(static_cast<uint32_t>(packet.size)),
             htonl(protocol)};
    auto sum = static_cast<uint16_t>(~internet_checksum(std::as_bytes(std::span(&pseudo, 1))));
    return internet_checksum({packet.data.get(), packet.size}, sum);
}

void deliver_to_raw(Network& network, uint8_t protocol, const Packet& packet) {
    bool v4 = packet.to.address.is_v4();
    bool icmp = protocol == (v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6));
    for (auto& found : network.raw_sockets().find_raw(protocol, packet.to.address, packet.from.address, packet.link)) {
        auto& socket = static_cast<RawSocket&>(*found);
        if (socket.v6() == v4) continue;
        if (icmp && packet.size > 0 && socket.filters(static_cast<uint8_t>(packet.data[0]))) continue;
        if (!socket.takes_group(packet)) continue;
        Packet copy;
        if (v4) {
            iphdr header = ipv4_header(packet, protocol, packet.size);
            copy = fresh(sizeof(header) + packet.size);
            if (copy.size == 0) continue;
            memcpy(copy.data.get(), &header, sizeof(header));
            if (packet.size > 0) memcpy(copy.data.get() + sizeof(header), packet.data.get(), packet.size);
            copy.from.address = packet.from.address;
            copy.to.address = packet.to.address;
            copy.hop_limit = packet.hop_limit;
            copy.traffic_class = packet.traffic_class;
            copy.link = packet.link;
            copy.arrived = packet.arrived;
        } else {
            copy = packet.duplicate();
            copy.from.port = copy.to.port = 0;
        }
        socket.receive_packet(copy);
    }
}

void deliver_udp_to_raw(Network& network, const Packet& datagram) {
    if (network.raw_sockets().empty()) return;
    udphdr header{};
    header.source = htons(datagram.from.port);
    header.dest = htons(datagram.to.port);
    header.len = htons(static_cast<uint16_t>(sizeof(header) + datagram.size));
    Packet whole = fresh(sizeof(header) + datagram.size);
    if (whole.size == 0) return;
    memcpy(whole.data.get(), &header, sizeof(header));
    if (datagram.size > 0) memcpy(whole.data.get() + sizeof(header), datagram.data.get(), datagram.size);
    whole.from = datagram.from;
    whole.to = datagram.to;
    whole.hop_limit = datagram.hop_limit;
    whole.traffic_class = datagram.traffic_class;
    whole.link = datagram.link;
    whole.arrived = datagram.arrived;
    deliver_to_raw(network, IPPROTO_UDP, whole);
}

SysResult<void> send_packet(Network& network, uint8_t protocol, const RouteChoice& way, Packet& packet) {
    if (way.type != RTN_LOCAL && way.link != Interfaces::kLoopback && network.wire() != nullptr) {
        stack::OutPacket out;
        out.from = {packet.from.address, 0};
        out.to = {packet.to.address, 0};
        out.protocol = protocol;
        out.whole = true;
        out.hop_limit = static_cast<uint8_t>(packet.hop_limit);
        out.traffic_class = static_cast<uint8_t>(packet.traffic_class);
        out.link = static_cast<uint32_t>(way.link);
        // SAFETY: bytes as bytes.
        out.payload = {reinterpret_cast<const uint8_t*>(packet.data.get()), packet.size};
        auto sent = network.wire()->stack().send(out);
        if (!sent.ok() && sent.error().value != ENOBUFS) return sent;
    }
    if (way.type == RTN_UNICAST) return {};
    if (way.type == RTN_LOCAL || way.link == Interfaces::kLoopback) {
        network.taps().looped(protocol, false, packet);
        count_local(network, protocol, packet);
    }
    deliver_locally(network, protocol, packet);
    return {};
}

bool deliver_from_link(Network& network, uint8_t protocol, Packet& packet) {
    bool wanted =
        !network.raw_sockets().find_raw(protocol, packet.to.address, packet.from.address, packet.link).empty();
    if (wanted) deliver_to_raw(network, protocol, packet);
    bool v4 = packet.to.address.is_v4();
    bool icmp = protocol == (v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6));
    if (icmp && packet.size > 0 && static_cast<uint8_t>(packet.data[0]) == (v4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY))
        take_icmp(network, protocol, packet);
    return wanted || icmp;
}

void deliver_locally(Network& network, uint8_t protocol, Packet& packet) {
    deliver_to_raw(network, protocol, packet);
    bool v4 = packet.to.address.is_v4();
    if (protocol == (v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6)))
        take_icmp(network, protocol, packet);
    else if (protocol == IPPROTO_UDP)
        take_udp(network, packet);
}

void deliver_port_unreachable(Network& network, uint8_t protocol, const Packet& about,
                              std::span<const std::byte> data) {
    if (!about.to.address.is_v4() || network.raw_sockets().empty()) return;
    udphdr udp{};
    udp.source = htons(about.from.port);
    udp.dest = htons(about.to.port);
    udp.len = htons(static_cast<uint16_t>(sizeof(udp) + data.size()));
    iphdr quoted = ipv4_header(about, protocol, sizeof(udp) + data.size());
    size_t part = std::min(data.size(), kQuoted - sizeof(udp));
    Packet error = fresh(sizeof(icmphdr) + sizeof(quoted) + sizeof(udp) + part);
    if (error.size == 0) return;
    std::byte* at = error.data.get();
    icmphdr header{};
    header.type = ICMP_DEST_UNREACH;
    header.code = ICMP_PORT_UNREACH;
    memcpy(at, &header, sizeof(header));
    memcpy(at + sizeof(header), &quoted, sizeof(quoted));
    memcpy(at + sizeof(header) + sizeof(quoted), &udp, sizeof(udp));
    if (part > 0) memcpy(at + sizeof(header) + sizeof(quoted) + sizeof(udp), data.data(), part);
    uint16_t sum = internet_checksum({at, error.size});
    memcpy(at + 2, &sum, sizeof(sum));
    error.from.address = about.to.address;
    error.to.address = about.from.address;
    error.traffic_class = 0xc0;
    error.link = about.link;
    error.arrived = about.arrived;
    deliver_to_raw(network, IPPROTO_ICMP, error);
}

}  // namespace casemate::sentry
