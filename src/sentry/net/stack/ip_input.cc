// From frames to packets: Ethernet, ARP, IPv4 and IPv6 input.
#include <algorithm>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/delivery.h"
#include "sentry/net/stack/link.h"
#include "sentry/net/stack/reassembly.h"

namespace casemate::sentry::stack {

void Stack::input(Link& link, std::span<InFrame> frames) {
    Batch batch;
    for (InFrame& frame : frames) ethernet_input(link, frame, batch);
    for (auto& connection : batch.touched) connection->batch_done();
}

void Stack::ethernet_input(Link& link, InFrame& frame, Batch& batch) {
    Bytes bytes = frame.bytes();
    link.counters->received(bytes.size());
    if (bytes.size() < kEthernetHeader) return;
    bool group = (bytes[0] & 1) != 0;
    if (!group && memcmp(bytes.data(), link.mac.data(), 6) != 0) return;  // somebody else's
    batch.group_frame = group;
    // The sender is the host's kernel or a card that has looked: partial checksums never were on a wire.
    bool checked = frame.virtio.flags & (VirtioHeader::kNeedsChecksum | VirtioHeader::kDataValid);
    switch (load16(bytes.data() + 12)) {
        case kEtherArp:
            return arp_input(link, bytes.subspan(kEthernetHeader));
        case kEtherIpv4:
            return ipv4_input(link, frame, kEthernetHeader, checked, batch);
        case kEtherIpv6:
            return ipv6_input(link, frame, kEthernetHeader, checked, batch);
        default:
            link.counters->receive_dropped.fetch_add(1, std::memory_order_relaxed);
    }
}

void Stack::arp_input(Link& link, Bytes packet) {
    if (packet.size() < 28) return;
    const uint8_t* p = packet.data();
    if (load16(p) != 1 || load16(p + 2) != kEtherIpv4 || p[4] != 6 || p[5] != 4) return;
    uint16_t operation = load16(p + 6);
    MacAddress mac;
    memcpy(mac.data(), p + 8, 6);
    InetAddress sender = load_v4(p + 14), target = load_v4(p + 24);
    if (sender.is_multicast() || sender.is_broadcast()) return;
    bool mine;
    {
        std::shared_lock lock(settings_mutex_);
        mine = std::any_of(settings_.addresses.begin(), settings_.addresses.end(),
                           [&](const AddressSetting& one) { return one.link == link.index && one.address == target; });
    }
    bool request = operation == 1;
    if (!sender.is_any() && !is_local(sender)) link.neighbours.learn(sender, mac, request && mine, !request && mine);
    if (!request || !mine || (mac[0] & 1) || !within_rate(kRateIcmp)) return;
    OutFrame frame;
    uint8_t* out = frame.ip();
    memcpy(out, p, 6);
    store16(out + 6, 2);
    memcpy(out + 8, link.mac.data(), 6);
    store_v4(out + 14, target);
    memcpy(out + 18, mac.data(), 6);
    store_v4(out + 24, sender);
    frame.head_size = kEthernetHeader + 28;
    static_cast<void>(link.send(mac, kEtherArp, frame));
}

void Stack::ipv4_input(Link& link, InFrame& frame, size_t at, bool checked, Batch& batch) {
    counters_.family[0].in_packets.fetch_add(1, std::memory_order_relaxed);
    Bytes bytes = frame.bytes().subspan(at);
    auto bad = [&] { counters_.family[0].in_bad_headers.fetch_add(1, std::memory_order_relaxed); };
    if (bytes.size() < kIpv4Header) return bad();
    const uint8_t* p = bytes.data();
    size_t header = size_t{p[0] & 0xfu} * 4, total = load16(p + 2);
    if (p[0] >> 4 != 4 || header < kIpv4Header || header > bytes.size()) return bad();
    // Segments put together by the host may be longer than the field can say.
    if (total == 0 && frame.virtio.gso_type != VirtioHeader::kNone) total = bytes.size();
    if (total < header || total > bytes.size()) return bad();
    if (checksum(p, header) != 0) return bad();
    Delivery packet{link, frame, load_v4(p + 12), load_v4(p + 16)};
    if (packet.from.is_multicast() || packet.from.is_broadcast() || packet.from.is_loopback() ||
        packet.to.is_loopback())
        return bad();
    bool mine = false;
    {
        std::shared_lock lock(settings_mutex_);
        for (auto& one : settings_.addresses) {
            if (one.address == packet.to) mine = true;
            if (one.address == packet.from) return;  // our own address from outside
            if (one.link == link.index && !one.broadcast.is_any() && one.broadcast == packet.to)
                packet.for_group = true;
        }
    }
    packet.for_group |= packet.to.is_multicast() || packet.to.is_broadcast() || batch.group_frame;
    if (!mine && !packet.to.is_multicast() && !packet.to.is_broadcast() && !packet.for_group) {
        counters_.family[0].in_discards.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    packet.protocol = p[9];
    packet.hop_limit = p[8];
    packet.traffic_class = p[1];
    counters_.marks[0][p[1] & 3].fetch_add(1, std::memory_order_relaxed);
    packet.header = bytes.first(header);
    packet.payload = bytes.subspan(header, total - header);
    packet.checked = checked;
    uint16_t fragment = load16(p + 6);
    if ((fragment & 0x3fff) == 0) return deliver(packet, batch);
    Reassembly::Key key{packet.from, packet.to, load16(p + 4), packet.protocol};
    auto whole = reassembly_->add(key, size_t{fragment & 0x1fffu} * 8, fragment & 0x2000, packet.payload, now());
    if (whole.failed) counters_.family[0].reassembly_failed.fetch_add(1, std::memory_order_relaxed);
    if (whole.bytes.empty()) return;
    counters_.family[0].reassembled.fetch_add(1, std::memory_order_relaxed);
    InFrame joined;
    joined.buffer = FrameBuffer::create(header + whole.bytes.size());
    if (!joined.buffer) return;
    memcpy(joined.buffer->data(), p, header);
    memcpy(joined.buffer->data() + header, whole.bytes.data(), whole.bytes.size());
    joined.size = static_cast<uint32_t>(header + whole.bytes.size());
    Delivery again{link, joined, packet.from, packet.to, packet.protocol, packet.hop_limit, packet.traffic_class};
    again.for_group = packet.for_group;
    again.header = joined.bytes().first(header);
    again.payload = joined.bytes().subspan(header);
    deliver(again, batch);
}

void Stack::ipv6_input(Link& link, InFrame& frame, size_t at, bool checked, Batch& batch) {
    counters_.family[1].in_packets.fetch_add(1, std::memory_order_relaxed);
    Bytes bytes = frame.bytes().subspan(at);
    auto bad = [&] { counters_.family[1].in_bad_headers.fetch_add(1, std::memory_order_relaxed); };
    if (bytes.size() < kIpv6Header || bytes[0] >> 4 != 6) return bad();
    const uint8_t* p = bytes.data();
    size_t length = load16(p + 4);
    if (length == 0 && frame.virtio.gso_type != VirtioHeader::kNone) length = bytes.size() - kIpv6Header;
    if (length > bytes.size() - kIpv6Header) return bad();
    Delivery packet{link, frame, load_v6(p + 8), load_v6(p + 24)};
    // IPv4 addresses in disguise have no business on a wire.
    if (packet.from.is_multicast() || packet.from.is_loopback() || packet.to.is_loopback() || packet.to.is_any() ||
        packet.from.is_v4() || packet.to.is_v4())
        return bad();
    packet.for_group = packet.to.is_multicast();
    if (is_local(packet.from)) return;
    if (!packet.for_group && !is_local(packet.to)) {
        counters_.family[1].in_discards.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    packet.traffic_class = static_cast<uint8_t>((p[0] & 0xf) << 4 | p[1] >> 4);
    counters_.marks[1][packet.traffic_class & 3].fetch_add(1, std::memory_order_relaxed);
    packet.hop_limit = p[7];
    packet.checked = checked;
    uint8_t next = p[6];
    size_t position = kIpv6Header, end = kIpv6Header + length;
    for (int headers = 0;; headers++) {
        if (headers > 8) return bad();
        if (next != 0 && next != 43 && next != 60 && next != 44) break;
        if (position + 8 > end) return bad();
        const uint8_t* extension = p + position;
        if (next == 44) {
            uint16_t fragment = load16(extension + 2);
            uint8_t protocol = extension[0];
            Bytes piece = bytes.subspan(position + 8, end - position - 8);
            if ((fragment & 0xfff9) == 0) {  // a whole one
                position += 8;
                next = protocol;
                continue;
            }
            // What follows must be the transport itself: chains split over fragments are only sent to confuse.
            if (protocol != kTcp && protocol != kUdp && protocol != kIcmp6) return bad();
            Reassembly::Key key{packet.from, packet.to, load32(extension + 4), protocol};
            auto whole = reassembly_->add(key, fragment & 0xfff8u, fragment & 1, piece, now());
            if (whole.failed) counters_.family[1].reassembly_failed.fetch_add(1, std::memory_order_relaxed);
            if (whole.bytes.empty()) return;
            counters_.family[1].reassembled.fetch_add(1, std::memory_order_relaxed);
            InFrame joined;
            joined.buffer = FrameBuffer::create(kIpv6Header + whole.bytes.size());
            if (!joined.buffer) return;
            memcpy(joined.buffer->data(), p, kIpv6Header);
            memcpy(joined.buffer->data() + kIpv6Header, whole.bytes.data(), whole.bytes.size());
            joined.size = static_cast<uint32_t>(kIpv6Header + whole.bytes.size());
            Delivery again{link, joined, packet.from, packet.to, protocol, packet.hop_limit, packet.traffic_class};
            again.for_group = packet.for_group;
            again.header = joined.bytes().first(kIpv6Header);
            again.payload = joined.bytes().subspan(kIpv6Header);
            return deliver(again, batch);
        }
        size_t size = (size_t{extension[1]} + 1) * 8;
        if (position + size > end) return bad();
        if (next == 0 && headers != 0) return bad();
        if (next == 43 && extension[3] != 0) return bad();  // source routes are not followed
        if (next != 43) {
            // Options: unknown ones by the action in their upper bits; all but "skip" drop.
            for (size_t i = 2; i < size;) {
                if (extension[i] == 0) {
                    i++;
                    continue;
                }
                if (i + 2 > size || i + 2 + extension[i + 1] > size) return bad();
                if (extension[i] != 1 && extension[i] != 5 && extension[i] >> 6 != 0) return bad();
                i += 2 + size_t{extension[i + 1]};
            }
        }
        next = extension[0];
        position += size;
    }
    packet.protocol = next;
    packet.header = bytes.first(position);
    packet.payload = bytes.subspan(position, end - position);
    deliver(packet, batch);
}

void Stack::deliver(Delivery& packet, Batch& batch) {
    bool v4 = packet.from.is_v4();
    switch (packet.protocol) {
        case kTcp:
            return tcp_input(packet, batch);
        case kUdp:
            return udp_input(packet);
        case kIcmp:
            if (v4) return icmp_input(packet);
            return;
        case kIcmp6:
            if (!v4) return icmp6_input(packet);
            return;
        default:
            break;
    }
    InPacket raw{{packet.from, 0},     {packet.to, 0},    packet.protocol, packet.hop_limit,
                 packet.traffic_class, packet.link.index, packet.payload,  packet.header};
    if (sockets_.raw_input(raw) || packet.for_group) return;
    if (v4)
        send_icmp_error(packet, 3, 2, 0);  // protocol unreachable
    else
        send_icmp_error(packet, 4, 1, kIpv6Header - 34);  // at the next-header field
}

void Stack::udp_input(Delivery& packet) {
    const uint8_t* p = packet.payload.data();
    if (packet.payload.size() < kUdpHeader) return;
    size_t length = load16(p + 4);
    bool batched = packet.frame.virtio.gso_type == VirtioHeader::kUdpPart && packet.frame.virtio.gso_size > 0;
    if (length == 0 || batched) length = packet.payload.size();
    if (length < kUdpHeader || length > packet.payload.size()) return;
    bool v4 = packet.from.is_v4();
    if (!packet.checked) {
        if (load16(p + 6) == 0) {
            if (!v4) return;
        } else if (checksum_fold(checksum_add(pseudo_header(packet.from, packet.to, kUdp, length), p, length)) !=
                   0xffff) {
            return;
        }
    }
    InPacket up{{packet.from, load16(p)},
                {packet.to, load16(p + 2)},
                kUdp,
                packet.hop_limit,
                packet.traffic_class,
                packet.link.index,
                packet.payload.subspan(kUdpHeader, length - kUdpHeader),
                packet.header};
    counters_.family[v4 ? 0 : 1].udp_in.fetch_add(1, std::memory_order_relaxed);
    bool taken = true;
    if (batched) {
        Bytes rest = up.payload;
        do {
            size_t part = std::min<size_t>(rest.size(), packet.frame.virtio.gso_size);
            up.payload = rest.first(part);
            rest = rest.subspan(part);
            taken = sockets_.udp_input(up);
        } while (taken && !rest.empty());
    } else {
        taken = sockets_.udp_input(up);
    }
    if (taken || packet.for_group) return;
    counters_.family[v4 ? 0 : 1].udp_no_port.fetch_add(1, std::memory_order_relaxed);
    send_icmp_error(packet, v4 ? 3 : 1, v4 ? 3 : 4, 0);
}

}  // namespace casemate::sentry::stack
