#include "sentry/net/inet/raw_socket.h"

#include <netinet/icmp6.h>
#include <netinet/ip.h>

#include <algorithm>

#include "sentry/net/inet/local_ip.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr int kSolRaw = 255, kIcmpFilter = 1;    // SOL_RAW, ICMP_FILTER
constexpr int kSolIcmp6 = 58, kIcmp6Filter = 1;  // SOL_ICMPV6, ICMPV6_FILTER
constexpr int kIpv6Checksum = 7;                 // IPV6_CHECKSUM

}  // namespace

RawSocket::RawSocket(int family, int protocol, Ref<Network> network, uint32_t uid)
    : DatagramSocket(family, SOCK_RAW, protocol, std::move(network), uid) {
    if (protocol == IPPROTO_RAW && !v6()) keep_option(IPPROTO_IP, IP_HDRINCL, 1);
    static_cast<void>(ports().bind_raw(*this, any()));
}

SysResult<void> RawSocket::bind(Task&, const SocketAddress& address) {
    InetEndpoint wanted = TRY(parse(address, Use::kBind));
    if (!wanted.address.is_any() && option(IPPROTO_IP, IP_FREEBIND, 0) == 0) {
        uint8_t kind = network().interfaces().local_type(wanted.address);
        if (kind == RTN_UNICAST) return Errno(EADDRNOTAVAIL);
    }
    std::lock_guard lock(mutex_);
    bound_address_ = wanted.address;
    return ports().bind_raw(*this, wanted.address);
}

bool RawSocket::filters(uint8_t type) {
    std::lock_guard lock(filter_mutex_);
    if (!v6()) return type < 32 && filter_[0] & 1u << type;
    return filter_[type / 32] & 1u << (type % 32);
}

SysResult<bool> RawSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    bool v4_filter = level == kSolRaw && name == kIcmpFilter;
    bool v6_filter = level == kSolIcmp6 && name == kIcmp6Filter;
    if (v4_filter || v6_filter) {
        if (v6_filter ? !v6() || protocol() != IPPROTO_ICMPV6 : v6() || protocol() != IPPROTO_ICMP)
            return Errno(EOPNOTSUPP);
        std::array<uint32_t, 8> wanted{};
        memcpy(wanted.data(), value.data(), std::min(value.size(), sizeof(wanted)));
        std::lock_guard lock(filter_mutex_);
        filter_ = wanted;
        return true;
    }
    if ((level == kSolRaw || level == IPPROTO_IPV6) && name == kIpv6Checksum && v6()) {
        int offset = TRY(option_value<int>(value));
        if (protocol() == IPPROTO_ICMPV6 && level == IPPROTO_IPV6) return Errno(EINVAL);
        if (offset > 0 && offset & 1) return Errno(EINVAL);
        keep_option(IPPROTO_IPV6, name, offset < 0 ? 0 : offset + 1);
        return true;
    }
    return DatagramSocket::set_family_option(task, level, name, value);
}

SysResult<OptionBytes> RawSocket::get_family_option(Task& task, int level, int name, size_t room) {
    if ((level == kSolRaw && name == kIcmpFilter && protocol() == IPPROTO_ICMP) ||
        (level == kSolIcmp6 && name == kIcmp6Filter && protocol() == IPPROTO_ICMPV6)) {
        std::lock_guard lock(filter_mutex_);
        auto bytes = option_bytes(filter_);
        if (!v6()) bytes.resize(sizeof(uint32_t));
        return OptionBytes(std::move(bytes));
    }
    if ((level == kSolRaw || level == IPPROTO_IPV6) && name == kIpv6Checksum && v6())
        return OptionBytes(option_bytes<int>(option(IPPROTO_IPV6, name, 0) - 1));
    return DatagramSocket::get_family_option(task, level, name, room);
}

// The application wrote the IPv4 header itself.
SysResult<size_t> RawSocket::send_with_header(SendRequest& request, size_t size) {
    iphdr header;
    if (size < sizeof(header)) return Errno(EINVAL);
    Packet whole = TRY(Packet::copy_from(request.data, size));
    memcpy(&header, whole.data.get(), sizeof(header));
    size_t length = size_t{header.ihl} * 4;
    if (length < sizeof(header) || length > size) return Errno(EINVAL);
    Outgoing out = TRY(prepare(request));
    InetAddress to = InetAddress::v4(ntohl(header.daddr));
    uint32_t from = ntohl(header.saddr);
    Packet body;
    body.size = size - length;
    body.data.reset(new (std::nothrow) std::byte[std::max<size_t>(body.size, 1)]);
    if (!body.data) return Errno(ENOBUFS);
    if (body.size > 0) memcpy(body.data.get(), whole.data.get() + length, body.size);
    Packet packet = make_packet(out, std::move(body));
    packet.to = {to, 0};
    packet.from = {from != 0 ? InetAddress::v4(from) : out.way.source, 0};
    packet.hop_limit = header.ttl;
    packet.traffic_class = header.tos;
    TRY(send_packet(network(), header.protocol, out.way, packet));
    return size;
}

SysResult<size_t> RawSocket::send(Task& task, SendRequest& request) {
    size_t size = request.data.remaining();
    if (size > 0xffff) return Errno(EMSGSIZE);
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    if (shut_for_sending()) {
        if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
        return Errno(EPIPE);
    }
    if (!v6() && option(IPPROTO_IP, IP_HDRINCL, 0) != 0) return send_with_header(request, size);
    Outgoing out = TRY(prepare(request));
    out.from.port = out.to.port = 0;
    if (size > 0xffff - (v6() ? 0 : sizeof(iphdr))) return Errno(EMSGSIZE);
    Packet data = TRY(Packet::copy_from(request.data, size));
    Packet packet = make_packet(out, std::move(data));
    int checksum_at = protocol() == IPPROTO_ICMPV6 ? 2 : option(IPPROTO_IPV6, kIpv6Checksum, 0) - 1;
    if (v6() && checksum_at >= 0) {
        auto at = static_cast<size_t>(checksum_at);
        if (at + 2 > packet.size) return Errno(EINVAL);
        packet.data[at] = packet.data[at + 1] = std::byte{0};
        uint16_t sum = checksum_v6(packet, static_cast<uint8_t>(protocol()));
        memcpy(packet.data.get() + at, &sum, sizeof(sum));
    }
    TRY(send_packet(network(), static_cast<uint8_t>(protocol()), out.way, packet));
    return size;
}

}  // namespace casemate::sentry
