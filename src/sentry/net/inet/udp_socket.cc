#include "sentry/net/inet/udp_socket.h"

#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

#include <algorithm>

#include "sentry/net/inet/local_ip.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/net_counters.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/taps.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostIpv4 = 65507, kMostIpv6 = 65527;
constexpr int kSendCoverage = 10, kReceiveCoverage = 11;        // UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV
constexpr int kSegment = 103, kGro = 104;                       // UDP_SEGMENT, UDP_GRO
constexpr int kNoChecksumSend = 101, kNoChecksumReceive = 102;  // UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX
constexpr size_t kMostSegments = 64;                            // UDP_MAX_SEGMENTS, as it was for long
constexpr size_t kQuotedIpv4 = 520, kQuotedIpv6 = 1184;         // what an ICMP error quotes of a datagram

}  // namespace

UdpSocket::UdpSocket(int family, int protocol, Ref<Network> network, uint32_t uid)
    : DatagramSocket(family, SOCK_DGRAM, protocol, std::move(network), uid) {}

bool deliver_datagram(PortTable& table, Packet& packet, uint8_t kind) {
    if (kind != RTN_MULTICAST && kind != RTN_BROADCAST) {
        Ref<InetSocket> found = table.find(packet.to, packet.from, true, packet.link);
        if (!found) return false;
        static_cast<DatagramSocket&>(*found).receive_packet(packet);
        return true;
    }
    for (auto& found : table.find_all(packet.to, packet.from, packet.link)) {
        auto& socket = static_cast<DatagramSocket&>(*found);
        if (!socket.takes_group(packet)) continue;
        Packet copy = packet.duplicate();
        socket.receive_packet(copy);
    }
    return true;
}

SysResult<bool> UdpSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level != protocol() && level != IPPROTO_UDP) return DatagramSocket::set_family_option(task, level, name, value);
    int number = TRY(option_value<int>(value));
    bool lite = protocol() == IPPROTO_UDPLITE;
    // Checksums never fail here: how much they cover changes nothing.
    if (lite && level == protocol() && (name == kSendCoverage || name == kReceiveCoverage)) {
        if (number != 0 && number < 8) number = 8;
        keep_option(level, name, std::min(number, 0xffff));
        return true;
    }
    switch (name) {
        case UDP_CORK: {
            keep_option(IPPROTO_UDP, name, number != 0);
            std::lock_guard lock(cork_mutex_);
            corking_ = number != 0 || corked_out_;
            if (number == 0) TRY(uncork());
            return true;
        }
        case kSegment:
            if (number < 0 || number > 0xffff) return Errno(EINVAL);
            keep_option(IPPROTO_UDP, name, number);
            return true;
        case kGro:
        case kNoChecksumSend:
        case kNoChecksumReceive:
            keep_option(IPPROTO_UDP, name, number != 0);
            return true;
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<OptionBytes> UdpSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level != protocol() && level != IPPROTO_UDP) return DatagramSocket::get_family_option(task, level, name, room);
    bool lite = protocol() == IPPROTO_UDPLITE;
    if (lite && level == protocol() && (name == kSendCoverage || name == kReceiveCoverage))
        return OptionBytes(option_bytes<int>(option(level, name, 0)));
    switch (name) {
        case UDP_CORK:
        case kSegment:
        case kGro:
        case kNoChecksumSend:
        case kNoChecksumReceive:
            return OptionBytes(option_bytes<int>(option(IPPROTO_UDP, name, 0)));
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<void> UdpSocket::transmit(const Outgoing& out, Packet data) {
    Packet packet = make_packet(out, std::move(data));
    // A link that leads elsewhere takes what nobody here is for.
    if (out.way.type != RTN_LOCAL && out.way.link != Interfaces::kLoopback) {
        TRY(send_outside(out, packet));
        bool again = out.to.address.is_v4() ? option(IPPROTO_IP, IP_MULTICAST_LOOP, 1) != 0
                                            : option(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 1) != 0;
        if (out.way.type == RTN_MULTICAST && !again) return {};
    }
    if (out.way.type == RTN_UNICAST) return {};
    bool six = !out.to.address.is_v4(), counts = protocol() == IPPROTO_UDP;
    NetCounters& counters = network().counters();
    // What also went out by a link comes back without the loopback.
    if (out.way.type == RTN_LOCAL || out.way.link == Interfaces::kLoopback) {
        network().taps().looped(static_cast<uint8_t>(protocol()), true, packet);
        network().count_loopback(six, packet.size + sizeof(udphdr) + (six ? 40 : 20));
        if (counts) NetCounters::add(counters.udp[six].out);
    }
    if (protocol() == IPPROTO_UDP) deliver_udp_to_raw(network(), packet);
    QueuedError error;
    bool v4 = out.to.address.is_v4();
    size_t quoted = std::min(packet.size, v4 ? kQuotedIpv4 : kQuotedIpv6);
    bool told = option(v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? static_cast<int>(IP_RECVERR) : IPV6_RECVERR, 0) != 0;
    bool watched = !network().raw_sockets().empty();
    if (told || watched) error.data.assign(packet.data.get(), packet.data.get() + quoted);
    if (deliver_datagram(ports(), packet, out.way.type)) {
        if (counts) NetCounters::add(counters.udp[six].in);
        return {};
    }
    if (counts && out.way.type == RTN_LOCAL) {
        NetCounters::Icmp& messages = counters.icmp[six];
        for (auto* one : {&counters.udp[six].no_port, &messages.in, &messages.out, &messages.unreachable_in,
                          &messages.unreachable_out})
            NetCounters::add(*one);
    }
    if (watched) deliver_port_unreachable(network(), static_cast<uint8_t>(protocol()), packet, error.data);
    error.what.ee_errno = ECONNREFUSED;
    error.what.ee_origin = v4 ? SO_EE_ORIGIN_ICMP : SO_EE_ORIGIN_ICMP6;
    error.what.ee_type = v4 ? ICMP_DEST_UNREACH : ICMP6_DST_UNREACH;
    error.what.ee_code = v4 ? ICMP_PORT_UNREACH : ICMP6_DST_UNREACH_NOPORT;
    error.to = out.to;
    error.offender = out.to.address;
    error.has_offender = true;
    error.link = out.way.link;
    // To whoever has the sender's port: this socket, unless another one shares it.
    hear_error(std::move(error), true);
    return {};
}

SysResult<void> UdpSocket::send_outside(const Outgoing& out, const Packet& packet) {
    Wire* wire = network().wire();
    if (wire == nullptr || protocol() != IPPROTO_UDP) return {};
    bool v4 = out.to.address.is_v4();
    stack::OutPacket frame;
    frame.from = packet.from;
    frame.to = packet.to;
    frame.hop_limit = static_cast<uint8_t>(packet.hop_limit);
    frame.traffic_class = static_cast<uint8_t>(packet.traffic_class);
    frame.link = static_cast<uint32_t>(out.way.link);
    int discover = v4 ? option(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT)
                      : option(IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_WANT);
    frame.dont_fragment = discover == IP_PMTUDISC_DO || discover == IP_PMTUDISC_PROBE;
    frame.checksum = !has(kNoCheck);
    // SAFETY: bytes as bytes.
    frame.payload = {reinterpret_cast<const uint8_t*>(packet.data.get()), packet.size};
    auto sent = wire->stack().send(frame);
    // What the device had no room for is lost, as on Linux without IP_RECVERR.
    if (!sent.ok() && sent.error().value == ENOBUFS) return {};
    return sent;
}

SysResult<void> UdpSocket::uncork() {
    if (!corked_out_) return {};
    Outgoing out = std::move(*corked_out_);
    corked_out_.reset();
    corking_ = option(IPPROTO_UDP, UDP_CORK, 0) != 0;
    Packet data;
    data.size = corked_.size();
    data.data = std::make_unique_for_overwrite<std::byte[]>(corked_.size());
    std::copy(corked_.begin(), corked_.end(), data.data.get());
    corked_.clear();
    corked_.shrink_to_fit();
    return transmit(out, std::move(data));
}

// What is sent with MSG_MORE or under UDP_CORK becomes one datagram.
SysResult<size_t> UdpSocket::send_corked(SendRequest& request, size_t size, bool more) {
    std::lock_guard lock(cork_mutex_);
    if (!corked_out_) corked_out_ = TRY(prepare(request));
    size_t most = corked_out_->to.address.is_v4() ? kMostIpv4 : kMostIpv6;
    if (corked_.size() + size > most) return Errno(EMSGSIZE);
    Packet part = TRY(Packet::copy_from(request.data, size));
    corked_.insert(corked_.end(), part.data.get(), part.data.get() + size);
    corking_ = true;
    if (!more && option(IPPROTO_UDP, UDP_CORK, 0) == 0) TRY(uncork());
    return size;
}

SysResult<Ref<UdpSocket>> UdpSocket::dial(Ref<Network> network, const InetEndpoint& peer) {
    auto socket =
        make_ref<UdpSocket>(peer.address.is_v4() ? AF_INET : AF_INET6, int{IPPROTO_UDP}, std::move(network), 0u);
    auto connected = socket->connect_to(peer, 0);
    if (connected.ok()) return socket;
    socket->closed();
    return connected.take_error();
}

bool UdpSocket::push(std::span<const std::byte> datagram) {
    IoBuffer bytes = IoBuffer::kernel(const_cast<std::byte*>(datagram.data()), datagram.size());
    SendRequest request{bytes};
    auto out = prepare(request);
    auto data = Packet::copy_from(bytes, datagram.size());
    if (out.ok() && data.ok()) static_cast<void>(transmit(*out, std::move(*data)));
    return take_error() == 0;
}

SysResult<size_t> UdpSocket::send(Task& task, SendRequest& request) {
    size_t size = request.data.remaining();
    if (size > 0xffff) return Errno(EMSGSIZE);
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    if (shut_for_sending()) {
        if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
        return Errno(EPIPE);
    }
    if (request.flags & MSG_MORE || corking_) return send_corked(request, size, request.flags & MSG_MORE);
    Outgoing out = TRY(prepare(request));
    auto segment = static_cast<size_t>(out.header.segment);
    if (segment == 0 || size <= segment) {
        if (size > (out.to.address.is_v4() ? kMostIpv4 : kMostIpv6)) return Errno(EMSGSIZE);
        if (int error = take_error(); error != 0) return Errno(error);
        Packet data = TRY(Packet::copy_from(request.data, size));
        TRY(transmit(out, std::move(data)));
    } else {
        if (segment + 28 > out.way.mtu || size > segment * kMostSegments) return Errno(EINVAL);
        for (size_t done = 0; done < size; done += segment) {
            Packet data = TRY(Packet::copy_from(request.data, std::min(segment, size - done)));
            TRY(transmit(out, std::move(data)));
        }
    }
    if (request.flags & MSG_ZEROCOPY && has(kZeroCopy))
        errors_.complete(zero_copies_.fetch_add(1)), waiters()->everything();
    return size;
}

}  // namespace casemate::sentry
