// ICMP, ICMPv6 and neighbour discovery: echo, errors in both directions.
#include <netinet/in.h>

#include <algorithm>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/delivery.h"
#include "sentry/net/stack/half_open.h"
#include "sentry/net/stack/link.h"

namespace casemate::sentry::stack {
namespace {

constexpr uint8_t kEchoReply = 0, kUnreachable = 3, kEcho = 8, kTimeExceeded = 11, kParameter = 12;
constexpr uint8_t kUnreachable6 = 1, kTooBig6 = 2, kTimeExceeded6 = 3, kParameter6 = 4, kEcho6 = 128, kEchoReply6 = 129;
constexpr uint8_t kSolicitation = 135, kAdvertisement = 136;

// As Linux maps the codes of "destination unreachable".
int error_of(uint8_t code) {
    switch (code) {
        case 0:  // network
        case 6:
        case 11:
            return ENETUNREACH;
        case 2:
            return ENOPROTOOPT;
        case 3:
            return ECONNREFUSED;
        default:
            return EHOSTUNREACH;
    }
}

int error_of6(uint8_t code) {
    switch (code) {
        case 0:
            return ENETUNREACH;
        case 1:
        case 5:
        case 6:
            return EACCES;
        case 4:
            return ECONNREFUSED;
        default:
            return EHOSTUNREACH;
    }
}

void count_icmp(FamilyCounters& counted, uint8_t type, uint8_t echo, uint8_t reply, uint8_t unreachable) {
    counted.icmp_in.fetch_add(1, std::memory_order_relaxed);
    if (type == echo) counted.echos_in.fetch_add(1, std::memory_order_relaxed);
    if (type == reply) counted.replies_in.fetch_add(1, std::memory_order_relaxed);
    if (type == unreachable) counted.unreachable_in.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

void Stack::icmp_input(Delivery& packet) {
    Bytes icmp = packet.payload;
    if (icmp.size() < 8 || (!packet.checked && checksum(icmp.data(), icmp.size()) != 0)) return;
    count_icmp(counters_.family[0], icmp[0], kEcho, kEchoReply, kUnreachable);
    InPacket raw{{packet.from, 0},     {packet.to, 0},    kIcmp, packet.hop_limit,
                 packet.traffic_class, packet.link.index, icmp,  packet.header};
    switch (icmp[0]) {
        case kEcho: {
            if (packet.for_group || !within_rate(kRateIcmp)) break;
            std::vector<uint8_t> reply(icmp.begin(), icmp.end());
            reply[0] = kEchoReply;
            store16(reply.data() + 2, 0);
            store16(reply.data() + 2, checksum(reply.data(), reply.size()));
            OutPacket out{{packet.to, 0}, {packet.from, 0}, kIcmp, 64, packet.traffic_class, packet.link.index};
            out.payload = reply;
            counters_.family[0].icmp_out.fetch_add(1, std::memory_order_relaxed);
            static_cast<void>(send(out));
            break;
        }
        case kUnreachable:
            if (icmp[1] == 4)
                icmp_error_input(icmp.subspan(8), false, EMSGSIZE, load16(icmp.data() + 6));
            else
                icmp_error_input(icmp.subspan(8), false, error_of(icmp[1]), 0);
            break;
        case kTimeExceeded:
            icmp_error_input(icmp.subspan(8), false, EHOSTUNREACH, 0);
            break;
        case kParameter:
            icmp_error_input(icmp.subspan(8), false, EPROTO, 0);
            break;
        default:
            break;
    }
    static_cast<void>(sockets_.raw_input(raw));
}

void Stack::icmp6_input(Delivery& packet) {
    Bytes icmp = packet.payload;
    if (icmp.size() < 8) return;
    uint64_t pseudo = pseudo_header(packet.from, packet.to, kIcmp6, icmp.size());
    if (!packet.checked && checksum_fold(checksum_add(pseudo, icmp.data(), icmp.size())) != 0xffff) return;
    count_icmp(counters_.family[1], icmp[0], kEcho6, kEchoReply6, kUnreachable6);
    InPacket raw{{packet.from, 0},     {packet.to, 0},    kIcmp6, packet.hop_limit,
                 packet.traffic_class, packet.link.index, icmp,   packet.header};
    switch (icmp[0]) {
        case kEcho6: {
            if (packet.from.is_any() || !within_rate(kRateIcmp)) break;
            std::vector<uint8_t> reply(icmp.begin(), icmp.end());
            reply[0] = kEchoReply6;
            // An echo to a group is answered from the link's own address.
            InetAddress from = packet.to.is_multicast() ? InetAddress() : packet.to;
            OutPacket out{{from, 0}, {packet.from, 0}, kIcmp6, 64, packet.traffic_class, packet.link.index};
            out.checksum_at = 2;
            out.payload = reply;
            counters_.family[1].icmp_out.fetch_add(1, std::memory_order_relaxed);
            static_cast<void>(send(out));
            break;
        }
        case kUnreachable6:
            icmp_error_input(icmp.subspan(8), true, error_of6(icmp[1]), 0);
            break;
        case kTooBig6:
            icmp_error_input(icmp.subspan(8), true, EMSGSIZE, load32(icmp.data() + 4));
            break;
        case kTimeExceeded6:
            icmp_error_input(icmp.subspan(8), true, EHOSTUNREACH, 0);
            break;
        case kParameter6:
            icmp_error_input(icmp.subspan(8), true, EPROTO, 0);
            break;
        case kSolicitation:
        case kAdvertisement:
            ndp_input(packet);
            break;
        default:
            break;
    }
    static_cast<void>(sockets_.raw_input(raw));
}

// RFC 4861 7.1: hop limit 255 says that it comes from this link.
void Stack::ndp_input(Delivery& packet) {
    Bytes icmp = packet.payload;
    if (packet.hop_limit != 255 || icmp[1] != 0 || icmp.size() < 24) return;
    InetAddress target = load_v6(icmp.data() + 8);
    if (target.is_multicast() || target.is_v4()) return;
    std::optional<MacAddress> mac;
    uint8_t wanted = icmp[0] == kSolicitation ? 1 : 2;
    for (size_t at = 24; at < icmp.size();) {
        if (at + 2 > icmp.size() || icmp[at + 1] == 0) return;
        size_t size = size_t{icmp[at + 1]} * 8;
        if (at + size > icmp.size()) return;
        if (icmp[at] == wanted && size == 8) {
            mac.emplace();
            memcpy(mac->data(), icmp.data() + at + 2, 6);
        }
        at += size;
    }
    if (icmp[0] == kAdvertisement) {
        bool solicited = icmp[4] & 0x40, override_known = icmp[4] & 0x20;
        if (mac && !is_local(target))
            packet.link.neighbours.learn(target, *mac, false, solicited && !packet.for_group, override_known);
        return;
    }
    bool mine;
    {
        std::shared_lock lock(settings_mutex_);
        mine = std::any_of(settings_.addresses.begin(), settings_.addresses.end(), [&](const AddressSetting& one) {
            return one.link == packet.link.index && one.address == target;
        });
    }
    if (!mine || !within_rate(kRateIcmp)) return;
    bool probe = packet.from.is_any();  // somebody wants this address for itself
    if (!probe && mac) packet.link.neighbours.learn(packet.from, *mac, true, false);
    uint8_t reply[32] = {};
    reply[0] = kAdvertisement;
    reply[4] = probe ? 0x20 : 0x60;
    store_v6(reply + 8, target);
    reply[24] = 2;
    reply[25] = 1;
    memcpy(reply + 26, packet.link.mac.data(), 6);
    InetAddress to = packet.from;
    if (probe) to.bytes = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    OutPacket out{{target, 0}, {to, 0}, kIcmp6, 255, 0, packet.link.index};
    out.checksum_at = 2;
    out.payload = reply;
    static_cast<void>(send(out));
}

// An error about a packet of ours, whose start it quotes. Anybody can send one: a connection believes it only if the
// quoted sequence number is under way, and even then never dies of it once established.
void Stack::icmp_error_input(Bytes quoted, bool v6, int error, uint32_t mtu) {
    size_t header = kIpv6Header;
    uint8_t protocol;
    InetAddress from, to;
    if (v6) {
        if (quoted.size() < kIpv6Header + 8) return;
        protocol = quoted[6];
        from = load_v6(quoted.data() + 8);
        to = load_v6(quoted.data() + 24);
    } else {
        if (quoted.size() < kIpv4Header + 8) return;
        header = size_t{quoted[0] & 0xfu} * 4;
        if (quoted[0] >> 4 != 4 || header < kIpv4Header || quoted.size() < header + 8) return;
        if ((load16(quoted.data() + 6) & 0x1fff) != 0) return;
        protocol = quoted[9];
        from = load_v4(quoted.data() + 12);
        to = load_v4(quoted.data() + 16);
    }
    if (!is_local(from)) return;
    const uint8_t* transport = quoted.data() + header;
    InetEndpoint local{from, load16(transport)}, peer{to, load16(transport + 2)};
    if (protocol == kTcp) {
        Ref<Connection> connection = find_connection({local, peer});
        if (!connection || !connection->in_flight(load32(transport + 4))) return;
        if (error == EMSGSIZE) {
            learn_path_mtu(to, mtu);
            connection->path_changed();
        } else {
            connection->soft_error(error);
        }
        return;
    }
    if (error == EMSGSIZE) learn_path_mtu(to, mtu);
    if (protocol == kUdp) sockets_.udp_error(local, peer, error);
}

void Stack::send_icmp_error(const Delivery& packet, uint8_t type, uint8_t code, uint32_t word) {
    if (packet.for_group || packet.from.is_any() || !within_rate(kRateIcmp)) return;
    bool v4 = packet.from.is_v4();
    // As much of the packet as allowed: RFC 1812, RFC 4443.
    size_t most = (v4 ? 576 - kIpv4Header : 1280 - kIpv6Header) - 8;
    std::vector<uint8_t> message(8, 0);
    message[0] = type;
    message[1] = code;
    store32(message.data() + 4, word);
    Bytes parts[] = {packet.header, packet.payload};
    for (Bytes part : parts) {
        size_t room = most - (message.size() - 8);
        message.insert(message.end(), part.begin(), part.begin() + static_cast<ptrdiff_t>(std::min(part.size(), room)));
    }
    OutPacket out{{packet.to, 0}, {packet.from, 0}, v4 ? kIcmp : kIcmp6, 64, 0, packet.link.index};
    if (v4)
        store16(message.data() + 2, checksum(message.data(), message.size()));
    else
        out.checksum_at = 2;
    out.payload = message;
    FamilyCounters& counted = counters_.family[v4 ? 0 : 1];
    counted.icmp_out.fetch_add(1, std::memory_order_relaxed);
    if (type == (v4 ? kUnreachable : kUnreachable6)) counted.unreachable_out.fetch_add(1, std::memory_order_relaxed);
    static_cast<void>(send(out));
}

}  // namespace casemate::sentry::stack
