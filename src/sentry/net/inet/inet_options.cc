// Options of the levels IPPROTO_IP and IPPROTO_IPV6 that all internet sockets have, as a table. Groups are in
// datagram_options.cc. What only changes packets on a wire is kept for whoever makes them.
#include <linux/capability.h>
#include <netinet/in.h>

#include <algorithm>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

// Newer than Debian's headers.
constexpr int kIpLocalPortRange = 51;    // IP_LOCAL_PORT_RANGE
constexpr int kIpRecvErrRfc4884 = 26;    // IP_RECVERR_RFC4884
constexpr int kIpv6RecvErrRfc4884 = 31;  // IPV6_RECVERR_RFC4884
constexpr size_t kMostIpOptions = 40;

enum : unsigned {
    kSwitch = 1,    // any number but 0 is 1
    kExact = 2,     // only 0 and 1 are numbers
    kControl = 4,   // asks for control messages
    kDatagram = 8,  // not for TCP: EINVAL, or ENOPROTOOPT for IPv6
    kRaw = 16,      // raw sockets only
    kPrivileged = 32,
    kUnset = 64,  // -1 is the default again
};
struct Number {
    int name;
    int least, most;
    int fallback;
    unsigned kind = 0;
};

constexpr int kAnything = INT32_MAX;
constexpr Number kIpNumbers[] = {
    {IP_TOS, 0, 255, 0},
    {IP_TTL, 1, 255, 64, kUnset},
    {IP_HDRINCL, 0, 1, 0, kSwitch | kRaw},
    {IP_RECVOPTS, 0, 1, 0, kSwitch},
    {IP_RETOPTS, 0, 1, 0, kSwitch},
    {IP_MTU_DISCOVER, 0, 5, 1},
    {IP_RECVERR, 0, 1, 0, kSwitch},
    {IP_RECVTTL, 0, 1, 0, kSwitch | kControl},
    {IP_RECVTOS, 0, 1, 0, kSwitch | kControl},
    {IP_PKTINFO, 0, 1, 0, kSwitch | kControl},
    {IP_PASSSEC, 0, 1, 0, kSwitch},
    {IP_TRANSPARENT, 0, 1, 0, kSwitch | kPrivileged},
    {IP_RECVORIGDSTADDR, 0, 1, 0, kSwitch | kControl},
    {IP_FREEBIND, 0, 1, 0, kSwitch},
    {IP_NODEFRAG, 0, 1, 0, kSwitch | kRaw},
    {IP_BIND_ADDRESS_NO_PORT, 0, 1, 0, kSwitch},
    {IP_RECVFRAGSIZE, 0, 1, 0, kSwitch | kDatagram},
    {IP_CHECKSUM, 0, 1, 0, kSwitch},
    {IP_MULTICAST_TTL, 0, 255, 1, kDatagram | kUnset},
    {IP_MULTICAST_LOOP, 0, 1, 1, kSwitch},
    {IP_MULTICAST_ALL, 0, 1, 1, kExact},
    {IP_MINTTL, 0, 255, 0},
    {kIpRecvErrRfc4884, 0, 1, 0, kExact},
    {kIpLocalPortRange, 0, kAnything, 0},
};
constexpr Number kIpv6Numbers[] = {
    {IPV6_UNICAST_HOPS, 0, 255, 64, kUnset},
    {IPV6_MULTICAST_HOPS, 0, 255, 1, kDatagram | kUnset},
    {IPV6_MULTICAST_LOOP, 0, 1, 1, kExact},
    {IPV6_MULTICAST_ALL, 0, 1, 1, kSwitch},
    {IPV6_MTU_DISCOVER, 0, 5, 1},
    {IPV6_RECVERR, 0, 1, 0, kSwitch},
    {IPV6_RECVPKTINFO, 0, 1, 0, kSwitch | kControl},
    {IPV6_2292PKTINFO, 0, 1, 0, kSwitch | kControl},
    {IPV6_RECVHOPLIMIT, 0, 1, 0, kSwitch | kControl},
    {IPV6_2292HOPLIMIT, 0, 1, 0, kSwitch | kControl},
    {IPV6_RECVRTHDR, 0, 1, 0, kSwitch},
    {IPV6_RECVHOPOPTS, 0, 1, 0, kSwitch},
    {IPV6_RECVDSTOPTS, 0, 1, 0, kSwitch},
    {IPV6_RECVTCLASS, 0, 1, 0, kSwitch | kControl},
    {IPV6_RECVPATHMTU, 0, 1, 0, kSwitch},
    {IPV6_RECVORIGDSTADDR, 0, 1, 0, kSwitch | kControl},
    {IPV6_RECVFRAGSIZE, 0, 1, 0, kSwitch},
    {IPV6_TCLASS, 0, 255, 0, kUnset},
    {IPV6_TRANSPARENT, 0, 1, 0, kSwitch | kPrivileged},
    {IPV6_FREEBIND, 0, 1, 0, kSwitch},
    {IPV6_AUTOFLOWLABEL, 0, 1, 1, kSwitch},
    {IPV6_DONTFRAG, 0, 1, 0, kSwitch},
    {IPV6_MINHOPCOUNT, 0, 255, 0},
    {kIpv6RecvErrRfc4884, 0, 1, 0, kExact},
};

// IPPROTO_IP's are read as an int, or as a byte where less is given.
SysResult<int> number_of(int level, std::span<const std::byte> value) {
    if (value.size() >= sizeof(int)) return option_value<int>(value);
    if (level == IPPROTO_IP && value.size() >= 1) return static_cast<int>(static_cast<uint8_t>(value[0]));
    return Errno(EINVAL);
}

template <size_t N>
const Number* find(const Number (&table)[N], int name) {
    for (const Number& one : table)
        if (one.name == name) return &one;
    return nullptr;
}

}  // namespace

SysResult<bool> InetSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level != IPPROTO_IP && level != IPPROTO_IPV6) return false;
    bool v6_level = level == IPPROTO_IPV6;
    if (v6_level && !v6()) return Errno(ENOPROTOOPT);
    if (v6_level && name == IPV6_V6ONLY) {
        int on = TRY(option_value<int>(value));
        std::lock_guard lock(mutex_);
        if (bound_) return Errno(EINVAL);
        v6_only_ = on != 0;
        return true;
    }
    if (v6_level && name == IPV6_MTU) {
        int mtu = TRY(option_value<int>(value));
        if (mtu != 0 && mtu < 1280) return Errno(EINVAL);
        keep_option(level, name, mtu);
        return true;
    }
    if (!v6_level && name == IP_MULTICAST_IF) return Errno(type() == SOCK_STREAM ? EINVAL : ENOPROTOOPT);
    if (!v6_level && name == IP_OPTIONS) {
        // Kept for packets that leave; the loopback's show them to nobody.
        if (value.size() > kMostIpOptions) return Errno(EINVAL);
        std::lock_guard lock(kept_mutex_);
        ip_options_.assign(value.begin(), value.end());
        ip_options_.resize((ip_options_.size() + 3) / 4 * 4);
        return true;
    }
    const Number* known = v6_level ? find(kIpv6Numbers, name) : find(kIpNumbers, name);
    if (known == nullptr || (known->kind & kRaw && type() != SOCK_RAW)) return Errno(ENOPROTOOPT);
    if (known->kind & kDatagram && type() == SOCK_STREAM) return Errno(v6_level ? ENOPROTOOPT : EINVAL);
    int number = TRY(number_of(level, value));
    if (known->kind & kSwitch) number = number != 0;
    if (known->kind & kUnset && number == -1)
        number = known->fallback;
    else if (number < known->least || number > known->most)
        return Errno(EINVAL);
    if (known->kind & kPrivileged && number != 0 && !task.has_capability(CAP_NET_ADMIN) &&
        !task.has_capability(CAP_NET_RAW))
        return Errno(EPERM);
    if (!v6_level && name == IP_TOS && type() == SOCK_STREAM) number = (number & ~3) | (option(level, name, 0) & 3);
    keep_option(level, name, number);
    if (known->kind & kControl && number != 0) asks_for_control_ = true;
    return true;
}

SysResult<OptionBytes> InetSocket::get_family_option(Task&, int level, int name, size_t room) {
    if (level != IPPROTO_IP && level != IPPROTO_IPV6) return OptionBytes();
    bool v6_level = level == IPPROTO_IPV6;
    if (v6_level && !v6()) return Errno(EOPNOTSUPP);
    if (v6_level && name == IPV6_V6ONLY) return OptionBytes(option_bytes<int>(v6_only()));
    if (!v6_level && name == IP_OPTIONS) {
        std::lock_guard lock(kept_mutex_);
        return OptionBytes(ip_options_);
    }
    if (v6_level ? name == IPV6_MTU : name == IP_MTU) {
        InetAddress peer, source;
        {
            std::lock_guard lock(mutex_);
            if (!has_peer_) return Errno(ENOTCONN);
            peer = peer_.address;
            source = local_.address;
        }
        RouteChoice way = TRY(route(peer, source));
        // An IPv4 packet is no longer than its header can say.
        uint32_t mtu = v6_level ? way.mtu : std::min<uint32_t>(way.mtu, 0xffff);
        return OptionBytes(option_bytes<int>(static_cast<int>(mtu)));
    }
    const Number* known = v6_level ? find(kIpv6Numbers, name) : find(kIpNumbers, name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    int number = option(level, name, known->fallback);
    if (!v6_level && room > 0 && room < sizeof(int) && number >= 0 && number <= 255)
        return OptionBytes(option_bytes<uint8_t>(static_cast<uint8_t>(number)));
    return OptionBytes(option_bytes<int>(number));
}

}  // namespace casemate::sentry
