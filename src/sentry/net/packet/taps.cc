#include "sentry/net/packet/taps.h"

#include <net/if_arp.h>
#include <netinet/ip.h>
#include <netinet/udp.h>

#include <algorithm>

#include "sentry/net/inet/local_ip.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/packet/packet_socket.h"

namespace casemate::sentry {
namespace {

constexpr uint16_t kEtherIpv4 = 0x0800, kEtherIpv6 = 0x86dd;
constexpr uint16_t kProtocol8022 = 4, kProtocol8023 = 1;  // ETH_P_802_2, ETH_P_802_3
constexpr uint32_t kChecksumNotReady = 1 << 3, kChecksumValid = 1 << 7;

uint32_t checksum_status(const stack::VirtioHeader& header) {
    if (header.flags & stack::VirtioHeader::kNeedsChecksum) return kChecksumNotReady;
    return header.flags & stack::VirtioHeader::kDataValid ? kChecksumValid : 0;
}

uint8_t type_of(std::span<const uint8_t> frame, const std::array<uint8_t, 6>& own) {
    static constexpr std::array<uint8_t, 6> kAll = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (frame[0] & 1) return memcmp(frame.data(), kAll.data(), 6) == 0 ? PACKET_BROADCAST : PACKET_MULTICAST;
    return memcmp(frame.data(), own.data(), 6) == 0 ? PACKET_HOST : PACKET_OTHERHOST;
}

}  // namespace

uint16_t frame_protocol(std::span<const uint8_t> frame) {
    auto type = static_cast<uint16_t>(frame[12] << 8 | frame[13]);
    if (type >= 1536) return type;
    // An old frame without a type: with 802.2's header, or Novell's.
    bool novell = frame.size() >= 16 && frame[14] == 0xff && frame[15] == 0xff;
    return novell ? kProtocol8023 : kProtocol8022;
}

void Taps::add(PacketSocket& socket) {
    std::lock_guard lock(mutex_);
    sockets_.push_back(&socket);
    count_ = sockets_.size();
}

void Taps::remove(PacketSocket& socket) {
    std::lock_guard lock(mutex_);
    std::erase(sockets_, &socket);
    count_ = sockets_.size();
}

std::vector<Ref<PacketSocket>> Taps::sockets() {
    std::vector<Ref<PacketSocket>> all;
    std::lock_guard lock(mutex_);
    for (PacketSocket* socket : sockets_)
        if (socket->try_ref()) all.push_back(Ref<PacketSocket>::adopt(socket));
    return all;
}

void Taps::show(const SeenFrame& frame, const PacketSocket* sender) {
    for (auto& socket : sockets())
        if (socket.get() != sender) socket->see(frame);
}

void Taps::came_in(int link, const std::array<uint8_t, 6>& own, std::span<stack::InFrame> frames) {
    for (stack::InFrame& frame : frames) {
        if (frame.size < stack::kEthernetHeader) continue;
        SeenFrame seen;
        seen.link = link;
        seen.bytes = frame.bytes();
        seen.protocol = frame_protocol(seen.bytes);
        seen.type = type_of(seen.bytes, own);
        seen.status = checksum_status(frame.virtio);
        show(seen, nullptr);
    }
}

void Taps::goes_out(int link, const stack::OutFrame& frame, const PacketSocket* sender) {
    std::vector<uint8_t> whole(frame.head.data(), frame.head.data() + frame.head_size);
    for (size_t i = 0; i < frame.piece_count; i++) {
        const auto* from = static_cast<const uint8_t*>(frame.pieces[i].iov_base);
        whole.insert(whole.end(), from, from + frame.pieces[i].iov_len);
    }
    if (whole.size() < stack::kEthernetHeader) return;
    SeenFrame seen;
    seen.link = link;
    seen.bytes = whole;
    seen.protocol = frame_protocol(seen.bytes);
    seen.type = PACKET_OUTGOING;
    seen.status = checksum_status(frame.virtio);
    show(seen, sender);
}

void Taps::looped(std::span<const uint8_t> frame, const PacketSocket* sender) {
    if (frame.size() < stack::kEthernetHeader) return;
    SeenFrame seen;
    seen.link = Interfaces::kLoopback;
    seen.hardware_type = ARPHRD_LOOPBACK;
    seen.bytes = frame;
    seen.protocol = frame_protocol(frame);
    seen.type = PACKET_OUTGOING;
    show(seen, sender);
    seen.type = PACKET_HOST;
    show(seen, nullptr);
}

void Taps::looped(uint8_t protocol, bool with_udp_header, const Packet& packet) {
    if (!active()) return;
    bool v4 = packet.to.address.is_v4();
    std::vector<uint8_t> frame(stack::kEthernetHeader);
    frame[12] = static_cast<uint8_t>((v4 ? kEtherIpv4 : kEtherIpv6) >> 8);
    frame[13] = static_cast<uint8_t>(v4 ? kEtherIpv4 : kEtherIpv6);
    size_t payload = packet.size + (with_udp_header ? sizeof(udphdr) : 0);
    auto add = [&](const void* bytes, size_t size) {
        const auto* from = static_cast<const uint8_t*>(bytes);
        frame.insert(frame.end(), from, from + size);
    };
    if (v4) {
        iphdr header = ipv4_header(packet, protocol, payload);
        add(&header, sizeof(header));
    } else {
        uint8_t header[8] = {static_cast<uint8_t>(0x60 | packet.traffic_class >> 4),
                             static_cast<uint8_t>(packet.traffic_class << 4),
                             0,
                             0,
                             static_cast<uint8_t>(payload >> 8),
                             static_cast<uint8_t>(payload),
                             protocol,
                             static_cast<uint8_t>(packet.hop_limit)};
        add(header, sizeof(header));
        add(packet.from.address.bytes.data(), 16);
        add(packet.to.address.bytes.data(), 16);
    }
    if (with_udp_header) {
        udphdr udp{};
        udp.source = htons(packet.from.port);
        udp.dest = htons(packet.to.port);
        udp.len = htons(static_cast<uint16_t>(payload));
        add(&udp, sizeof(udp));
    }
    add(packet.data.get(), packet.size);
    looped(frame, nullptr);
}

}  // namespace casemate::sentry
