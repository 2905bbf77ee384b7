// Address and port of the internet families, as one: IPv4 addresses are kept in their IPv6-mapped form.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <cstring>

namespace casemate::sentry {

struct InetAddress {
    std::array<uint8_t, 16> bytes{};

    static InetAddress v4(uint32_t host_order) {
        InetAddress a;
        a.bytes[10] = a.bytes[11] = 0xff;
        for (int i = 0; i < 4; i++)
            a.bytes[static_cast<size_t>(12 + i)] = static_cast<uint8_t>(host_order >> (24 - 8 * i));
        return a;
    }
    static InetAddress v6(const in6_addr& address) {
        InetAddress a;
        memcpy(a.bytes.data(), &address, 16);
        return a;
    }
    static InetAddress loopback6() {
        InetAddress a;
        a.bytes[15] = 1;
        return a;
    }
    in6_addr as_v6() const {
        in6_addr a;
        memcpy(&a, bytes.data(), 16);
        return a;
    }
    bool is_v4() const {
        static constexpr uint8_t kPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
        return memcmp(bytes.data(), kPrefix, 12) == 0;
    }
    uint32_t as_v4() const {  // host order; of a v4 address
        return uint32_t{bytes[12]} << 24 | uint32_t{bytes[13]} << 16 | uint32_t{bytes[14]} << 8 | bytes[15];
    }
    bool is_any6() const { return bytes == std::array<uint8_t, 16>{}; }
    bool is_any() const { return is_any6() || (is_v4() && as_v4() == 0); }
    bool is_loopback() const { return is_v4() ? as_v4() >> 24 == 127 : *this == loopback6(); }
    bool is_multicast() const { return is_v4() ? as_v4() >> 28 == 14 : bytes[0] == 0xff; }
    bool is_broadcast() const { return is_v4() && (as_v4() == 0xffffffff || as_v4() == 0x7fffffff); }
    friend bool operator==(const InetAddress&, const InetAddress&) = default;
    friend auto operator<=>(const InetAddress&, const InetAddress&) = default;
};

struct InetEndpoint {
    InetAddress address;
    uint16_t port = 0;  // host order
    friend bool operator==(const InetEndpoint&, const InetEndpoint&) = default;
    friend auto operator<=>(const InetEndpoint&, const InetEndpoint&) = default;
};

}  // namespace casemate::sentry
