// Sending's preparations and receiving of datagrams. Options are in datagram_options.cc.
#include "sentry/net/inet/datagram_socket.h"

#include <linux/errqueue.h>
#include <linux/in6.h>
#include <linux/net_tstamp.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netinet/udp.h>

#include <algorithm>

#include "sentry/kernel/classic_bpf.h"
#include "sentry/net/net_counters.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr int kUdpSegment = 103;  // UDP_SEGMENT

// struct scm_timestamping of <linux/errqueue.h>.
struct Timestamps {
    timespec software, legacy, hardware;
};

timespec timespec_of(Nanoseconds time) { return {time / kSecond, time % kSecond}; }

}  // namespace

DatagramSocket::DatagramSocket(int family, int type, int protocol, Ref<Network> network, uint32_t uid)
    : InetSocket(family, type, protocol, std::move(network), uid), queue_(waiters()), memberships_(this->network()) {}

SysResult<void> DatagramSocket::connect(Task&, const SocketAddress& address, bool) {
    if (address.size < sizeof(sa_family_t)) return Errno(EINVAL);
    if (address.family() == AF_UNSPEC) {
        std::lock_guard lock(mutex_);
        if (!connected_) return {};
        connected_ = false;
        if (bound_by_connect_) {
            ports().release(*this);
            local_.address = any();
        } else {
            ports().set_peer(*this, {bound_address_, local_.port}, {});
        }
        bound_by_connect_ = false;
        return {};
    }
    return connect_to(TRY(parse(address, v6() ? Use::kSend : Use::kConnect)), scope_of(address));
}

SysResult<void> DatagramSocket::connect_to(InetEndpoint peer, int link) {
    InetAddress source;
    {
        std::lock_guard lock(mutex_);
        source = connected_ || bound_locked() ? bound_address_ : any();
    }
    if (peer.address.is_multicast()) {
        Header header = TRY(header_for(peer.address, nullptr));
        if (link == 0) link = header.link;
        if (source.is_any()) source = header.source;
    }
    RouteChoice way = TRY(route(peer.address, source, link));
    std::lock_guard lock(mutex_);
    if (!bound_locked()) {
        TRY(ports().bind(*this, {any(), 0}));
        bound_by_connect_ = true;
    }
    if (!connected_) bound_address_ = local_.address;
    InetAddress local = bound_address_.is_any() ? way.source : bound_address_;
    ports().set_peer(*this, {local, local_.port}, peer);
    connected_ = true;
    take_error();
    return {};
}

SysResult<DatagramSocket::Header> DatagramSocket::header_for(const InetAddress& destination,
                                                             const SentControl* control) {
    Header header;
    bool v4 = destination.is_v4(), group = destination.is_multicast();
    header.source = v4 ? InetAddress::v4(0) : InetAddress();
    if (v4) {
        header.hop_limit = option(IPPROTO_IP, group ? IP_MULTICAST_TTL : IP_TTL, group ? 1 : 64);
        header.traffic_class = option(IPPROTO_IP, IP_TOS, 0);
        if (group) {
            header.link = option(IPPROTO_IP, kMulticastLink, 0);
            header.source = InetAddress::v4(static_cast<uint32_t>(option(IPPROTO_IP, kMulticastSource, 0)));
        } else {
            header.link = option(IPPROTO_IP, kUnicastLink, 0);
        }
    } else {
        header.hop_limit = option(IPPROTO_IPV6, group ? IPV6_MULTICAST_HOPS : IPV6_UNICAST_HOPS, group ? 1 : 64);
        header.traffic_class = option(IPPROTO_IPV6, IPV6_TCLASS, 0);
        header.link = option(IPPROTO_IPV6, group ? IPV6_MULTICAST_IF : kUnicastLink, 0);
    }
    header.segment = option(IPPROTO_UDP, kUdpSegment, 0);
    if (control == nullptr) return header;
    for (auto& other : control->others) {
        auto number = [&](int least) -> SysResult<int> {
            int value = 0;
            if (other.data.size() != sizeof(value)) return Errno(EINVAL);
            memcpy(&value, other.data.data(), sizeof(value));
            if (value < least || value > 255) return Errno(EINVAL);
            return value;
        };
        if (other.level == IPPROTO_IP && !v6()) {
            switch (other.type) {
                case IP_PKTINFO: {
                    in_pktinfo info;
                    if (other.data.size() != sizeof(info)) return Errno(EINVAL);
                    memcpy(&info, other.data.data(), sizeof(info));
                    if (info.ipi_ifindex != 0) header.link = info.ipi_ifindex;
                    header.source = InetAddress::v4(ntohl(info.ipi_spec_dst.s_addr));
                    break;
                }
                case IP_TTL:
                    header.hop_limit = TRY(number(1));
                    break;
                case IP_TOS:
                    if (other.data.size() == 1)
                        header.traffic_class = static_cast<uint8_t>(other.data[0]);
                    else
                        header.traffic_class = TRY(number(0));
                    break;
                case IP_RETOPTS:
                    break;
                default:
                    return Errno(EINVAL);
            }
        } else if (other.level == IPPROTO_IPV6 && v6()) {
            switch (other.type) {
                case IPV6_PKTINFO:
                case IPV6_2292PKTINFO: {
                    in6_pktinfo info;
                    if (other.data.size() < sizeof(info)) return Errno(EINVAL);
                    memcpy(&info, other.data.data(), sizeof(info));
                    if (info.ipi6_ifindex != 0) header.link = static_cast<int>(info.ipi6_ifindex);
                    InetAddress source = InetAddress::v6(info.ipi6_addr);
                    if (!source.is_any()) header.source = source;
                    break;
                }
                case IPV6_HOPLIMIT:
                case IPV6_2292HOPLIMIT:
                case IPV6_TCLASS: {
                    int value = TRY(number(-1));
                    if (value < 0) break;
                    (other.type == IPV6_TCLASS ? header.traffic_class : header.hop_limit) = value;
                    break;
                }
                case IPV6_DONTFRAG:
                    TRY(number(0));
                    break;
                default:
                    return Errno(EINVAL);
            }
        } else if (other.level == IPPROTO_UDP && protocol() == IPPROTO_UDP) {
            uint16_t size;
            if (other.type != kUdpSegment || other.data.size() != sizeof(size)) return Errno(EINVAL);
            memcpy(&size, other.data.data(), sizeof(size));
            header.segment = size;
        } else if (other.level == SOL_SOCKET && other.type != SO_MARK && other.type != SO_PRIORITY) {
            return Errno(EINVAL);
        }
    }
    // Addresses given by hand must be our own.
    if (!header.source.is_any() && option(IPPROTO_IP, IP_FREEBIND, 0) == 0 &&
        network().interfaces().local_type(header.source) != RTN_LOCAL)
        return Errno(EINVAL);
    return header;
}

SysResult<DatagramSocket::Outgoing> DatagramSocket::prepare(const SendRequest& request) {
    Outgoing out;
    bool given = request.to != nullptr && request.to->size > 0;
    int link = 0;
    if (given) {
        out.to = TRY(parse(*request.to, Use::kSend));
        link = scope_of(*request.to);
        if (has_ports() && out.to.port == 0) return Errno(EINVAL);
    } else {
        std::lock_guard lock(mutex_);
        if (!connected_) return Errno(EDESTADDRREQ);
        out.to = peer_;
        out.connected = true;
    }
    out.header = TRY(header_for(out.to.address, request.control));
    if (link != 0) out.header.link = link;
    InetAddress source = out.header.source;
    {
        std::lock_guard lock(mutex_);
        if (source.is_any() && !local_.address.is_multicast() && !local_.address.is_broadcast())
            source = local_.address;
    }
    out.way = TRY(route(out.to.address, source, out.header.link));
    {
        std::lock_guard lock(mutex_);
        if (!bound_locked()) TRY(bind_for_sending());
        out.from = {out.way.source, local_.port};
    }
    return out;
}

Packet DatagramSocket::make_packet(const Outgoing& out, Packet data) const {
    data.from = out.from;
    data.to = out.to;
    data.hop_limit = out.header.hop_limit;
    data.traffic_class = out.header.traffic_class;
    data.link = out.way.link;
    data.arrived = realtime_now();
    return data;
}

bool DatagramSocket::takes_group(const Packet& packet) {
    if (!packet.to.address.is_multicast()) return true;
    bool v4 = packet.to.address.is_v4();
    bool all = v4 ? option(IPPROTO_IP, IP_MULTICAST_ALL, 1) != 0 : option(IPPROTO_IPV6, IPV6_MULTICAST_ALL, 1) != 0;
    return memberships_.accepts(packet.to.address, packet.from.address, packet.link, all);
}

// A filter sees UDP from its header on, raw packets as the socket gets them.
bool DatagramSocket::passes(const Filter& program, Packet& packet) {
    std::vector<uint8_t> bytes;
    size_t header = 0;
    if (type() == SOCK_DGRAM && (protocol() == IPPROTO_UDP || protocol() == IPPROTO_UDPLITE)) {
        udphdr udp{};
        header = sizeof(udp);
        udp.source = htons(packet.from.port);
        udp.dest = htons(packet.to.port);
        udp.len = htons(static_cast<uint16_t>(header + packet.size));
        bytes.resize(header);
        memcpy(bytes.data(), &udp, header);
    }
    // SAFETY: bytes as bytes.
    const auto* data = reinterpret_cast<const uint8_t*>(packet.data.get());
    bytes.insert(bytes.end(), data, data + packet.size);
    BpfPacket about{bytes};
    about.network_at = type() == SOCK_RAW && !v6() ? 0 : SIZE_MAX;
    about.protocol = packet.to.address.is_v4() ? ETH_P_IP : ETH_P_IPV6;
    about.link = packet.link;
    size_t kept = run_packet_bpf(program.code, about);
    if (kept == 0) return false;
    packet.size = std::min(packet.size, std::max(kept, header) - header);
    return true;
}

void DatagramSocket::receive_packet(Packet& packet) {
    if (receive_shut_) return;
    if (Ref<Filter> program = filter(); program && !passes(*program, packet)) return;
    packet.drops = drops_.load(std::memory_order_relaxed);
    if (queue_.put(packet, SIZE_MAX, options_.receive_buffer) == PacketQueue::Put::kFull) {
        drops_.fetch_add(1, std::memory_order_relaxed);
        if (protocol() == IPPROTO_UDP) NetCounters::add(network().counters().udp[v6() ? 1 : 0].full);
    }
}

void DatagramSocket::hear_error(QueuedError error, bool hard) {
    bool v4 = error.to.address.is_v4();
    bool asked = v4 ? option(IPPROTO_IP, IP_RECVERR, 0) != 0 : option(IPPROTO_IPV6, IPV6_RECVERR, 0) != 0;
    if (!asked) {
        std::lock_guard lock(mutex_);
        if (!hard || !connected_) return;
    }
    set_error(static_cast<int>(error.what.ee_errno));
    if (asked) errors_.put(std::move(error));
    waiters()->everything();
}

SysResult<size_t> DatagramSocket::receive_error(ReceiveRequest& request) {
    int next = 0;
    std::optional<QueuedError> error = errors_.take(next);
    if (!error) return Errno(EAGAIN);
    if (error->icmp()) {
        take_error();
        if (next != 0) set_error(next);
    }
    size_t part = std::min(error->data.size(), request.data.remaining());
    if (part > 0) {
        size_t copied = TRY(request.data.copy_to(error->data.data(), part));
        if (copied < part) return Errno(EFAULT);
    }
    if (part < error->data.size()) request.out_flags |= MSG_TRUNC;
    request.out_flags |= MSG_ERRQUEUE;
    if (request.from != nullptr && error->icmp()) *request.from = format(error->to, error->link);
    if (request.control == nullptr) return part;
    bool v4 = error->to.address.is_v4() && !(v6() && !error->icmp());
    if (v4) {
        struct {
            sock_extended_err what;
            sockaddr_in offender;
        } told{error->what, {}};
        if (error->has_offender) {
            told.offender.sin_family = AF_INET;
            told.offender.sin_addr.s_addr = htonl(error->offender.as_v4());
        }
        // A dual socket is told in its own family's way.
        if (!v6()) {
            request.control->add(IPPROTO_IP, IP_RECVERR, told);
            return part;
        }
    }
    struct {
        sock_extended_err what;
        sockaddr_in6 offender;
    } told{error->what, {}};
    if (error->has_offender) {
        told.offender.sin6_family = AF_INET6;
        told.offender.sin6_addr = error->offender.as_v6();
    }
    request.control->add(v6() ? IPPROTO_IPV6 : IPPROTO_IP, v6() ? IPV6_RECVERR : IP_RECVERR, told);
    return part;
}

void DatagramSocket::describe_v4(const Packet& packet, ReceivedControl& control) {
    auto on = [&](int name) { return option(IPPROTO_IP, name, 0) != 0; };
    if (on(IP_PKTINFO)) {
        in_pktinfo info{};
        info.ipi_ifindex = packet.link;
        InetAddress own = packet.to.address;
        if (own.is_multicast() || network().interfaces().local_type(own) == RTN_BROADCAST)
            own = packet.from.address.is_loopback()
                      ? packet.from.address
                      : network().interfaces().choose_source(packet.link, packet.from.address);
        info.ipi_spec_dst.s_addr = htonl(own.as_v4());
        info.ipi_addr.s_addr = htonl(packet.to.address.as_v4());
        control.add(IPPROTO_IP, IP_PKTINFO, info);
    }
    if (on(IP_RECVTTL)) control.add(IPPROTO_IP, IP_TTL, packet.hop_limit);
    if (on(IP_RECVTOS)) control.add(IPPROTO_IP, IP_TOS, static_cast<uint8_t>(packet.traffic_class));
    if (on(IP_RECVORIGDSTADDR)) {
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_port = htons(packet.to.port);
        to.sin_addr.s_addr = htonl(packet.to.address.as_v4());
        control.add(IPPROTO_IP, IP_ORIGDSTADDR, to);
    }
}

void DatagramSocket::describe_v6(const Packet& packet, ReceivedControl& control) {
    auto on = [&](int name) { return option(IPPROTO_IPV6, name, 0) != 0; };
    in6_pktinfo info{};
    info.ipi6_ifindex = static_cast<unsigned>(packet.link);
    info.ipi6_addr = packet.to.address.as_v6();
    if (on(IPV6_RECVPKTINFO)) control.add(IPPROTO_IPV6, IPV6_PKTINFO, info);
    if (packet.to.address.is_v4()) return;
    if (on(IPV6_RECVHOPLIMIT)) control.add(IPPROTO_IPV6, IPV6_HOPLIMIT, packet.hop_limit);
    if (on(IPV6_RECVTCLASS)) control.add(IPPROTO_IPV6, IPV6_TCLASS, packet.traffic_class);
    if (on(IPV6_2292PKTINFO)) control.add(IPPROTO_IPV6, IPV6_2292PKTINFO, info);
    if (on(IPV6_2292HOPLIMIT)) control.add(IPPROTO_IPV6, IPV6_2292HOPLIMIT, packet.hop_limit);
    if (on(IPV6_RECVORIGDSTADDR)) {
        sockaddr_in6 to{};
        to.sin6_family = AF_INET6;
        to.sin6_port = htons(packet.to.port);
        to.sin6_addr = packet.to.address.as_v6();
        control.add(IPPROTO_IPV6, IPV6_ORIGDSTADDR, to);
    }
}

void DatagramSocket::describe(const Packet& packet, ReceiveRequest& request) {
    if (request.from != nullptr) *request.from = format(packet.from, packet.link);
    if (request.control == nullptr) return;
    ReceivedControl& control = *request.control;
    if (has(kTimestampNs))
        control.add(SOL_SOCKET, SCM_TIMESTAMPNS, timespec_of(packet.arrived));
    else if (has(kTimestamp))
        control.add(SOL_SOCKET, SCM_TIMESTAMP, timeval{packet.arrived / kSecond, packet.arrived % kSecond / 1000});
    constexpr uint32_t kSoftware = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    if ((options_.timestamping & kSoftware) == kSoftware)
        control.add(SOL_SOCKET, SCM_TIMESTAMPING, Timestamps{timespec_of(packet.arrived), {}, {}});
    if (has(kTellDrops) && packet.drops != 0) control.add(SOL_SOCKET, SO_RXQ_OVFL, packet.drops);
    if (!asks_for_control()) return;
    if (packet.to.address.is_v4()) describe_v4(packet, control);
    if (v6()) describe_v6(packet, control);
}

SysResult<size_t> DatagramSocket::receive(Task& task, ReceiveRequest& request) {
    if (request.flags & MSG_ERRQUEUE) return receive_error(request);
    bool peek = request.flags & MSG_PEEK;
    int offset = peek_offset_.load(std::memory_order_relaxed);
    auto hand_out = [&](Packet& packet, size_t skip) -> SysResult<size_t> {
        size_t part = std::min(packet.size - skip, request.data.remaining());
        if (part > 0) {
            size_t copied = TRY(request.data.copy_to(packet.data.get() + skip, part));
            if (copied < part) return Errno(EFAULT);
        }
        if (part < packet.size - skip) request.out_flags |= MSG_TRUNC;
        describe(packet, request);
        // SO_PEEK_OFF: peeks go on where the last one ended, reads move everything back.
        if (offset >= 0)
            peek_offset_ = peek ? offset + static_cast<int>(part) : std::max(offset - static_cast<int>(part), 0);
        return request.flags & MSG_TRUNC ? packet.size - skip : part;
    };
    return block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
                 options_.receive_timeout, [&]() -> std::optional<SysResult<size_t>> {
                     if (int error = take_error(); error != 0) return SysResult<size_t>(Errno(error));
                     std::optional<SysResult<size_t>> answer;
                     if (peek)
                         queue_.peek_at(static_cast<size_t>(std::max(offset, 0)),
                                        [&](Packet& packet, size_t skip) { answer = hand_out(packet, skip); });
                     else if (std::optional<Packet> taken = queue_.take(); taken)
                         answer = hand_out(*taken, 0);
                     if (answer) return answer;
                     if (receive_shut_) return SysResult<size_t>(size_t{0});
                     return std::nullopt;
                 });
}

SysResult<void> DatagramSocket::shutdown(int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
    // Refused without a peer, but done all the same: it wakes those who wait.
    if (how != SHUT_WR) receive_shut_ = true;
    if (how != SHUT_RD) send_shut_ = true;
    waiters()->everything();
    std::lock_guard lock(mutex_);
    if (!connected_) return Errno(ENOTCONN);
    return {};
}

SysResult<SocketAddress> DatagramSocket::peer_address() {
    std::lock_guard lock(mutex_);
    if (!connected_) return Errno(ENOTCONN);
    return format(peer_);
}

uint32_t DatagramSocket::poll_events() {
    uint32_t events = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    if (pending_error() != 0) events |= EPOLLERR;
    if (!errors_.empty()) events |= has(kSelectErrors) ? EPOLLERR | EPOLLPRI : unsigned{EPOLLERR};
    if (receive_shut_ && send_shut_) events |= EPOLLHUP;
    if (receive_shut_) events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (queue_.count() > 0) events |= EPOLLIN | EPOLLRDNORM;
    return events;
}

void DatagramSocket::closed() {
    {
        std::lock_guard lock(mutex_);
        ports().release(*this);
    }
    memberships_.leave_all();
    queue_.close_reader();
    waiters()->everything();
}

InetSocket::Status DatagramSocket::status() {
    Status status;
    std::lock_guard lock(mutex_);
    status.local = local_;
    status.peer.address = any();
    if (connected_) status.peer = peer_;
    status.state = connected_ ? 1 : 7;  // as TCP_ESTABLISHED and TCP_CLOSE
    status.receiving = queue_.bytes();
    status.drops = drops_;
    return status;
}

}  // namespace casemate::sentry
