// Options of the levels IPPROTO_IP and IPPROTO_IPV6. Those that could only change packets on a wire are kept and told
// back; those that ask for what is not there are refused.
#include <netinet/in.h>

#include <algorithm>

#include "sentry/net/inet/inet_socket.h"

namespace casemate::sentry {
namespace {

constexpr int kIpLocalPortRange = 51;  // IP_LOCAL_PORT_RANGE, newer than Debian's headers

struct Number {
    int name;
    int least, most;
    int fallback;
};

constexpr int kAnything = INT32_MAX;
constexpr Number kIpNumbers[] = {
    {IP_TOS, 0, 255, 0},
    {IP_TTL, -1, 255, 64},
    {IP_MTU_DISCOVER, 0, 5, 1},
    {IP_RECVERR, 0, 1, 0},
    {IP_RECVTTL, 0, 1, 0},
    {IP_RECVTOS, 0, 1, 0},
    {IP_PKTINFO, 0, 1, 0},
    {IP_RECVORIGDSTADDR, 0, 1, 0},
    {IP_FREEBIND, 0, 1, 0},
    {IP_BIND_ADDRESS_NO_PORT, 0, 1, 0},
    {IP_MULTICAST_TTL, -1, 255, 1},
    {IP_MULTICAST_LOOP, 0, 1, 1},
    {IP_MULTICAST_ALL, 0, 1, 1},
    {IP_MINTTL, 0, 255, 0},
    {kIpLocalPortRange, 0, kAnything, 0},
};
constexpr Number kIpv6Numbers[] = {
    {IPV6_UNICAST_HOPS, -1, 255, 64}, {IPV6_MULTICAST_HOPS, -1, 255, 1}, {IPV6_MULTICAST_LOOP, 0, 1, 1},
    {IPV6_MULTICAST_IF, 0, 1, 0},     {IPV6_MTU_DISCOVER, 0, 5, 1},      {IPV6_RECVERR, 0, 1, 0},
    {IPV6_RECVPKTINFO, 0, 1, 0},      {IPV6_RECVHOPLIMIT, 0, 1, 0},      {IPV6_RECVTCLASS, 0, 1, 0},
    {IPV6_TCLASS, -1, 255, 0},        {IPV6_FREEBIND, 0, 1, 0},          {IPV6_AUTOFLOWLABEL, 0, 1, 1},
    {IPV6_DONTFRAG, 0, 1, 0},         {IPV6_MTU, 1280, 65536, 65536},
};

// The options are read as an int, or as a byte where one byte is given, as Linux does at these levels.
SysResult<int> number_of(std::span<const std::byte> value) {
    if (value.size() >= sizeof(int)) return option_value<int>(value);
    if (value.size() >= 1) return static_cast<int>(static_cast<uint8_t>(value[0]));
    return Errno(EINVAL);
}

template <size_t N>
const Number* find(const Number (&table)[N], int name) {
    for (const Number& one : table)
        if (one.name == name) return &one;
    return nullptr;
}

bool is_switch(const Number& number) { return number.least == 0 && number.most == 1; }

}  // namespace

SysResult<bool> InetSocket::set_family_option(Task&, int level, int name, std::span<const std::byte> value) {
    if (level != IPPROTO_IP && level != IPPROTO_IPV6) return false;
    if (level == IPPROTO_IPV6 && !v6()) return Errno(ENOPROTOOPT);
    const Number* known = level == IPPROTO_IP ? find(kIpNumbers, name) : find(kIpv6Numbers, name);
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) {
        int on = TRY(option_value<int>(value));
        std::lock_guard lock(mutex_);
        if (bound_) return Errno(EINVAL);
        v6_only_ = on != 0;
        return true;
    }
    if (known == nullptr) {
        // Multicast needs an interface that can do it; the loopback cannot.
        bool multicast = level == IPPROTO_IP
                             ? name == IP_ADD_MEMBERSHIP || name == IP_ADD_SOURCE_MEMBERSHIP || name == MCAST_JOIN_GROUP
                             : name == IPV6_ADD_MEMBERSHIP || name == MCAST_JOIN_GROUP;
        if (multicast) return Errno(ENODEV);
        if (level == IPPROTO_IP && name == IP_MULTICAST_IF) return Errno(EADDRNOTAVAIL);
        return Errno(ENOPROTOOPT);
    }
    int number = TRY(number_of(value));
    int kept = is_switch(*known) ? number != 0 : number;
    if (kept < known->least || kept > known->most) return Errno(EINVAL);
    if (level == IPPROTO_IP && name == IP_TTL && kept == 0) return Errno(EINVAL);
    if (kept == -1 && known->least == -1) kept = known->fallback;
    keep_option(level, name, kept);
    return true;
}

SysResult<OptionBytes> InetSocket::get_family_option(Task&, int level, int name, size_t room) {
    if (level != IPPROTO_IP && level != IPPROTO_IPV6) return OptionBytes();
    if (level == IPPROTO_IPV6 && !v6()) return Errno(ENOPROTOOPT);
    if (level == IPPROTO_IPV6 && name == IPV6_V6ONLY) return OptionBytes(option_bytes<int>(v6_only()));
    if (level == IPPROTO_IP && name == IP_OPTIONS) return OptionBytes(std::vector<std::byte>());
    if (level == IPPROTO_IP && name == IP_MTU) {
        std::lock_guard lock(mutex_);
        if (!has_peer_) return Errno(ENOTCONN);
        return OptionBytes(option_bytes<int>(65536));
    }
    if (level == IPPROTO_IP && name == IP_MULTICAST_IF) return OptionBytes(option_bytes<uint32_t>(0));
    const Number* known = level == IPPROTO_IP ? find(kIpNumbers, name) : find(kIpv6Numbers, name);
    if (known == nullptr) return Errno(ENOPROTOOPT);
    int number = option(level, name, known->fallback);
    if (room > 0 && room < sizeof(int) && number >= 0 && number <= 255)
        return OptionBytes(option_bytes<uint8_t>(static_cast<uint8_t>(number)));
    return OptionBytes(option_bytes<int>(number));
}

}  // namespace casemate::sentry
