// From packets to frames: IPv4 and IPv6 headers, fragments.
#include <algorithm>

#include "sentry/net/stack/link.h"

namespace casemate::sentry::stack {
namespace {

void fill_v4(uint8_t* p, const InetAddress& from, const InetAddress& to, uint8_t protocol, uint8_t hop_limit,
             uint8_t traffic_class, size_t total, uint16_t id, uint16_t fragment) {
    p[0] = 0x45;
    p[1] = traffic_class;
    store16(p + 2, static_cast<uint32_t>(total));
    store16(p + 4, id);
    store16(p + 6, fragment);
    p[8] = hop_limit;
    p[9] = protocol;
    p[10] = p[11] = 0;
    store_v4(p + 12, from);
    store_v4(p + 16, to);
    store16(p + 10, checksum(p, kIpv4Header));
}

void fill_v6(uint8_t* p, const InetAddress& from, const InetAddress& to, uint8_t next, uint8_t hop_limit,
             uint8_t traffic_class, size_t length) {
    store32(p, 6u << 28 | uint32_t{traffic_class} << 20);
    store16(p + 4, static_cast<uint32_t>(length));
    p[6] = next;
    p[7] = hop_limit;
    store_v6(p + 8, from);
    store_v6(p + 24, to);
}

constexpr uint16_t kDontFragment = 0x4000, kMoreFragments = 0x2000;

}  // namespace

SysResult<void> Stack::send_ip(const Egress& egress, const InetAddress& from, const InetAddress& to, uint8_t protocol,
                               uint8_t hop_limit, uint8_t traffic_class, OutFrame& frame) {
    counters_.family[to.is_v4() ? 0 : 1].out_packets.fetch_add(1, std::memory_order_relaxed);
    size_t total = frame.head_size - kEthernetHeader + frame.payload_size;
    if (to.is_v4()) {
        auto id = static_cast<uint16_t>(next_id_.fetch_add(1, std::memory_order_relaxed));
        fill_v4(frame.ip(), from, to, protocol, hop_limit, traffic_class, total, id, kDontFragment);
        return egress.link->send_to(egress.next_hop, kEtherIpv4, frame);
    }
    fill_v6(frame.ip(), from, to, protocol, hop_limit, traffic_class, total - kIpv6Header);
    return egress.link->send_to(egress.next_hop, kEtherIpv6, frame);
}

SysResult<void> Stack::send(const OutPacket& packet) {
    auto found = route(packet.to.address, packet.from.address, packet.link);
    if (!found.ok()) {
        counters_.family[packet.to.address.is_v4() ? 0 : 1].out_no_routes.fetch_add(1, std::memory_order_relaxed);
        return found.take_error();
    }
    Egress& egress = *found;
    bool v4 = packet.to.address.is_v4();
    uint32_t mtu = path_mtu(packet.to.address, egress.mtu);
    size_t ip = v4 ? kIpv4Header : kIpv6Header;
    bool udp = packet.protocol == kUdp && !packet.whole;
    size_t transport = udp ? kUdpHeader : 0;
    size_t whole = transport + packet.payload.size();
    if (whole + (v4 ? ip : 0) > 65535) return Errno(EMSGSIZE);
    uint8_t head[kUdpHeader];
    uint64_t pseudo = pseudo_header(egress.source, packet.to.address, packet.protocol, whole);
    bool fits = ip + whole <= mtu;
    if (udp) {
        counters_.family[v4 ? 0 : 1].udp_out.fetch_add(1, std::memory_order_relaxed);
        store16(head, packet.from.port);
        store16(head + 2, packet.to.port);
        store16(head + 4, static_cast<uint32_t>(whole));
        store16(head + 6, 0);
    }
    if (!fits && packet.dont_fragment) return Errno(EMSGSIZE);
    std::vector<uint8_t> changed;  // the payload with its checksum filled in
    Bytes payload = packet.payload;
    bool offload = false;
    if (udp) {
        if (packet.checksum || !v4) {
            if (fits) {
                offload = true;
                store16(head + 6, checksum_fold(pseudo));
            } else {
                auto sum = static_cast<uint16_t>(~checksum_fold(
                    checksum_add(checksum_add(pseudo, head, kUdpHeader), payload.data(), payload.size())));
                store16(head + 6, sum == 0 ? 0xffff : sum);
            }
        }
    } else if (packet.checksum_at >= 0 && static_cast<size_t>(packet.checksum_at) + 2 <= payload.size()) {
        changed.assign(payload.begin(), payload.end());
        uint8_t* field = changed.data() + packet.checksum_at;
        store16(field, 0);
        store16(field, static_cast<uint16_t>(~checksum_fold(checksum_add(pseudo, changed.data(), changed.size()))));
        payload = changed;
    }
    if (!fits) return send_fragments(egress, packet, {head, transport}, payload);
    OutFrame frame;
    memcpy(frame.ip() + ip, head, transport);
    frame.head_size = kEthernetHeader + ip + transport;
    frame.add(payload.data(), payload.size());
    if (offload) {
        frame.virtio.flags = VirtioHeader::kNeedsChecksum;
        frame.virtio.csum_start = static_cast<uint16_t>(kEthernetHeader + ip);
        frame.virtio.csum_offset = 6;
    }
    return send_ip(egress, egress.source, packet.to.address, packet.protocol, packet.hop_limit, packet.traffic_class,
                   frame);
}

SysResult<void> Stack::send_fragments(const Egress& egress, const OutPacket& packet, Bytes transport, Bytes payload) {
    bool v4 = packet.to.address.is_v4();
    uint32_t mtu = path_mtu(packet.to.address, egress.mtu);
    size_t ip = v4 ? kIpv4Header : kIpv6Header + 8;
    if (mtu < ip + 8) return Errno(EMSGSIZE);
    size_t most = (mtu - ip) & ~size_t{7};
    std::vector<uint8_t> whole(transport.begin(), transport.end());
    whole.insert(whole.end(), payload.begin(), payload.end());
    uint32_t id = next_id_.fetch_add(1, std::memory_order_relaxed);
    for (size_t at = 0; at < whole.size();) {
        size_t part = std::min(most, whole.size() - at);
        bool more = at + part < whole.size();
        OutFrame frame;
        frame.head_size = kEthernetHeader + ip;
        frame.add(whole.data() + at, part);
        counters_.family[v4 ? 0 : 1].out_packets.fetch_add(1, std::memory_order_relaxed);
        if (v4) {
            auto fragment = static_cast<uint16_t>(at / 8 | (more ? kMoreFragments : 0));
            fill_v4(frame.ip(), egress.source, packet.to.address, packet.protocol, packet.hop_limit,
                    packet.traffic_class, ip + part, static_cast<uint16_t>(id), fragment);
        } else {
            fill_v6(frame.ip(), egress.source, packet.to.address, 44, packet.hop_limit, packet.traffic_class, 8 + part);
            uint8_t* extension = frame.ip() + kIpv6Header;
            extension[0] = packet.protocol;
            extension[1] = 0;
            store16(extension + 2, static_cast<uint32_t>(at | (more ? 1 : 0)));
            store32(extension + 4, id);
        }
        TRY(egress.link->send_to(egress.next_hop, v4 ? kEtherIpv4 : kEtherIpv6, frame));
        at += part;
    }
    return {};
}

}  // namespace casemate::sentry::stack
