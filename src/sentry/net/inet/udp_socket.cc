#include "sentry/net/inet/udp_socket.h"

#include <netinet/in.h>
#include <netinet/udp.h>

#include <algorithm>

#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostIpv4 = 65507, kMostIpv6 = 65527;
constexpr int kSendCoverage = 10, kReceiveCoverage = 11;  // UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV

}  // namespace

UdpSocket::UdpSocket(int family, int protocol, Ref<Network> network, uint32_t uid)
    : InetSocket(family, SOCK_DGRAM, protocol, std::move(network), uid), queue_(waiters()) {}

SysResult<bool> UdpSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level != protocol()) return InetSocket::set_family_option(task, level, name, value);
    int number = TRY(option_value<int>(value));
    bool lite = protocol() == IPPROTO_UDPLITE;
    // Checksums never fail here: how much they cover changes nothing.
    if (lite && (name == kSendCoverage || name == kReceiveCoverage)) {
        if (number != 0 && number < 8) number = 8;
        keep_option(level, name, std::min(number, 0xffff));
        return true;
    }
    if (name == UDP_CORK && number == 0) return true;
    return Errno(ENOPROTOOPT);
}

SysResult<OptionBytes> UdpSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if (level != protocol()) return InetSocket::get_family_option(task, level, name, room);
    bool lite = protocol() == IPPROTO_UDPLITE;
    if (name == UDP_CORK || (lite && (name == kSendCoverage || name == kReceiveCoverage)))
        return OptionBytes(option_bytes<int>(option(level, name, 0)));
    return Errno(ENOPROTOOPT);
}

SysResult<void> UdpSocket::set_header(const SentControl* control, Packet& packet) {
    bool v4 = packet.to.address.is_v4();
    if (v4) {
        packet.hop_limit = option(IPPROTO_IP, IP_TTL, 64);
        packet.traffic_class = option(IPPROTO_IP, IP_TOS, 0);
    } else {
        packet.hop_limit = option(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 64);
        packet.traffic_class = option(IPPROTO_IPV6, IPV6_TCLASS, 0);
    }
    if (control == nullptr) return {};
    for (auto& other : control->others) {
        auto number = [&]() -> SysResult<int> {
            int value = 0;
            if (other.data.size() != sizeof(value)) return Errno(EINVAL);
            memcpy(&value, other.data.data(), sizeof(value));
            if (value < -1 || value > 255) return Errno(EINVAL);
            return value;
        };
        if (other.level == IPPROTO_IP && v4) {
            if (other.type == IP_PKTINFO) continue;  // the loopback is the only way
            if (other.type != IP_TTL && other.type != IP_TOS) return Errno(EINVAL);
            int value = TRY(number());
            if (value >= 0) (other.type == IP_TTL ? packet.hop_limit : packet.traffic_class) = value;
        } else if (other.level == IPPROTO_IPV6 && v6()) {
            if (other.type == IPV6_PKTINFO || v4) continue;
            if (other.type != IPV6_HOPLIMIT && other.type != IPV6_TCLASS) return Errno(EINVAL);
            int value = TRY(number());
            if (value >= 0) (other.type == IPV6_HOPLIMIT ? packet.hop_limit : packet.traffic_class) = value;
        } else if (other.level == SOL_SOCKET) {
            return Errno(EINVAL);
        }
    }
    return {};
}

SysResult<void> UdpSocket::connect(Task&, const SocketAddress& address, bool) {
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
    InetEndpoint wanted = TRY(parse(address, v6() ? Use::kSend : Use::kConnect));
    InetEndpoint peer = TRY(route(wanted));
    std::lock_guard lock(mutex_);
    InetAddress source = source_for(peer.address);
    if (!bound_locked()) {
        TRY(ports().bind(*this, {any(), 0}));
        bound_by_connect_ = true;
    }
    if (!connected_) bound_address_ = local_.address;
    InetAddress local = bound_address_.is_any() ? source : bound_address_;
    ports().set_peer(*this, {local, local_.port}, peer);
    connected_ = true;
    take_error();
    return {};
}

SysResult<size_t> UdpSocket::send(Task& task, SendRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    InetEndpoint destination, source;
    bool connected;
    bool given = request.to != nullptr && request.to->size > 0;
    if (given) {
        InetEndpoint wanted = TRY(parse(*request.to, Use::kSend));
        if (wanted.port == 0) return Errno(EINVAL);
        destination = TRY(route(wanted));
    }
    size_t most = given && !destination.address.is_v4() ? kMostIpv6 : kMostIpv4;
    {
        std::lock_guard lock(mutex_);
        connected = connected_ && !given;
        if (!given) {
            if (!connected_) return Errno(EDESTADDRREQ);
            destination = peer_;
        }
        if (request.data.remaining() > most) return Errno(EMSGSIZE);
        if (!bound_locked()) TRY(ports().bind(*this, {any(), 0}));
        source = local_;
        if (source.address.is_any()) source.address = source_for(destination.address);
    }
    if (send_shut_) {
        if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
        return Errno(EPIPE);
    }
    if (int error = take_error(); error != 0) return Errno(error);
    Packet packet = TRY(Packet::copy_from(request.data, request.data.remaining()));
    size_t size = packet.size;
    packet.from = source;
    packet.to = destination;
    packet.arrived = realtime_now();
    TRY(set_header(request.control, packet));
    Ref<InetSocket> found = ports().find(destination, source, true);
    if (!found) {
        if (connected) {
            set_error(ECONNREFUSED);
            waiters()->everything();
        }
        return size;
    }
    auto& target = static_cast<UdpSocket&>(*found);
    if (!target.receive_shut_) static_cast<void>(target.queue_.put(packet, SIZE_MAX, target.options_.receive_buffer));
    return size;
}

void UdpSocket::describe(const Packet& packet, ReceiveRequest& request) {
    if (request.from != nullptr) *request.from = format(packet.from);
    if (request.control == nullptr) return;
    ReceivedControl& control = *request.control;
    if (has(kTimestampNs))
        control.add(SOL_SOCKET, SCM_TIMESTAMPNS, timespec{packet.arrived / kSecond, packet.arrived % kSecond});
    else if (has(kTimestamp))
        control.add(SOL_SOCKET, SCM_TIMESTAMP, timeval{packet.arrived / kSecond, packet.arrived % kSecond / 1000});
    if (packet.to.address.is_v4() && option(IPPROTO_IP, IP_PKTINFO, 0) != 0) {
        in_pktinfo info{};
        info.ipi_ifindex = 1;
        info.ipi_spec_dst.s_addr = info.ipi_addr.s_addr = htonl(packet.to.address.as_v4());
        control.add(IPPROTO_IP, IP_PKTINFO, info);
    }
    if (packet.to.address.is_v4() && option(IPPROTO_IP, IP_RECVTTL, 0) != 0)
        control.add(IPPROTO_IP, IP_TTL, packet.hop_limit);
    if (packet.to.address.is_v4() && option(IPPROTO_IP, IP_RECVTOS, 0) != 0)
        control.add(IPPROTO_IP, IP_TOS, static_cast<uint8_t>(packet.traffic_class));
    if (v6() && option(IPPROTO_IPV6, IPV6_RECVPKTINFO, 0) != 0) {
        in6_pktinfo info{};
        info.ipi6_ifindex = 1;
        info.ipi6_addr = packet.to.address.as_v6();
        control.add(IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
    if (v6() && option(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0) != 0)
        control.add(IPPROTO_IPV6, IPV6_HOPLIMIT, packet.hop_limit);
    if (v6() && option(IPPROTO_IPV6, IPV6_RECVTCLASS, 0) != 0)
        control.add(IPPROTO_IPV6, IPV6_TCLASS, packet.traffic_class);
}

SysResult<size_t> UdpSocket::receive(Task& task, ReceiveRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    if (request.flags & MSG_ERRQUEUE) return Errno(EAGAIN);
    auto hand_out = [&](Packet& packet) -> SysResult<size_t> {
        size_t part = std::min(packet.size, request.data.remaining());
        if (part > 0) {
            size_t copied = TRY(request.data.copy_to(packet.data.get(), part));
            if (copied < part) return Errno(EFAULT);
        }
        if (part < packet.size) request.out_flags |= MSG_TRUNC;
        describe(packet, request);
        return request.flags & MSG_TRUNC ? packet.size : part;
    };
    return block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
                 options_.receive_timeout, [&]() -> std::optional<SysResult<size_t>> {
                     if (int error = take_error(); error != 0) return SysResult<size_t>(Errno(error));
                     std::optional<SysResult<size_t>> answer;
                     if (request.flags & MSG_PEEK)
                         queue_.peek([&](Packet& packet) { answer = hand_out(packet); });
                     else if (std::optional<Packet> taken = queue_.take(); taken)
                         answer = hand_out(*taken);
                     if (answer) return answer;
                     if (receive_shut_) return SysResult<size_t>(size_t{0});
                     return std::nullopt;
                 });
}

SysResult<void> UdpSocket::shutdown(int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
    {
        std::lock_guard lock(mutex_);
        if (!connected_) return Errno(ENOTCONN);
    }
    if (how != SHUT_WR) receive_shut_ = true;
    if (how != SHUT_RD) send_shut_ = true;
    waiters()->everything();
    return {};
}

SysResult<SocketAddress> UdpSocket::peer_address() {
    std::lock_guard lock(mutex_);
    if (!connected_) return Errno(ENOTCONN);
    return format(peer_);
}

uint32_t UdpSocket::poll_events() {
    uint32_t events = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    if (pending_error() != 0) events |= EPOLLERR;
    if (receive_shut_ && send_shut_) events |= EPOLLHUP;
    if (receive_shut_) events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (queue_.count() > 0) events |= EPOLLIN | EPOLLRDNORM;
    return events;
}

void UdpSocket::closed() {
    {
        std::lock_guard lock(mutex_);
        ports().release(*this);
    }
    queue_.close_reader();
    waiters()->everything();
}

InetSocket::Status UdpSocket::status() {
    Status status;
    std::lock_guard lock(mutex_);
    status.local = local_;
    status.peer.address = any();
    if (connected_) status.peer = peer_;
    status.state = connected_ ? 1 : 7;  // as TCP_ESTABLISHED and TCP_CLOSE
    status.receiving = queue_.bytes();
    return status;
}

}  // namespace casemate::sentry
