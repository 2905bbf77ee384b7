#include "sentry/net/inet/ping_socket.h"

#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>

#include "sentry/net/inet/local_ip.h"
#include "sentry/net/network.h"

namespace casemate::sentry {

PingSocket::PingSocket(int family, Ref<Network> network, uint32_t uid)
    : DatagramSocket(family, SOCK_DGRAM, family == AF_INET6 ? static_cast<int>(IPPROTO_ICMPV6) : IPPROTO_ICMP,
                     std::move(network), uid) {}

SysResult<size_t> PingSocket::send(Task&, SendRequest& request) {
    size_t size = request.data.remaining();
    if (size > 0xffff) return Errno(EMSGSIZE);
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    if (size < sizeof(icmphdr)) return Errno(EINVAL);
    Packet data = TRY(Packet::copy_from(request.data, size));
    auto wanted = static_cast<std::byte>(v6() ? ICMP6_ECHO_REQUEST : ICMP_ECHO);
    if (data.data[0] != wanted || data.data[1] != std::byte{0}) return Errno(EINVAL);
    Outgoing out = TRY(prepare(request));
    if (v6() == out.to.address.is_v4()) return Errno(v6() ? EINVAL : EAFNOSUPPORT);
    Packet packet = make_packet(out, std::move(data));
    uint16_t identifier = htons(out.from.port);
    packet.data[2] = packet.data[3] = std::byte{0};
    memcpy(packet.data.get() + 4, &identifier, sizeof(identifier));
    auto protocol_byte = static_cast<uint8_t>(protocol());
    uint16_t sum = v6() ? checksum_v6(packet, protocol_byte) : internet_checksum({packet.data.get(), packet.size});
    memcpy(packet.data.get() + 2, &sum, sizeof(sum));
    packet.from.port = packet.to.port = 0;
    TRY(send_packet(network(), protocol_byte, out.way, packet));
    return size;
}

}  // namespace casemate::sentry
