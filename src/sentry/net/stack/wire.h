// What lies on the wire: Ethernet, ARP, IPv4, IPv6, ICMP, UDP and TCP headers by offsets, and the internet checksum.
//
// Everything read here was written by a stranger: readers take bounded spans that the caller has measured.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry::stack {

using Bytes = std::span<const uint8_t>;
using MacAddress = std::array<uint8_t, 6>;

constexpr MacAddress kBroadcastMac = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

constexpr size_t kEthernetHeader = 14;
constexpr size_t kIpv4Header = 20, kIpv6Header = 40, kUdpHeader = 8, kTcpHeader = 20;
constexpr uint16_t kEtherIpv4 = 0x0800, kEtherArp = 0x0806, kEtherIpv6 = 0x86dd;
constexpr uint8_t kIcmp = 1, kTcp = 6, kUdp = 17, kIcmp6 = 58;

inline uint16_t load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
inline uint32_t load32(const uint8_t* p) {
    return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}
inline void store16(uint8_t* p, uint32_t value) {
    p[0] = static_cast<uint8_t>(value >> 8);
    p[1] = static_cast<uint8_t>(value);
}
inline void store32(uint8_t* p, uint32_t value) {
    store16(p, value >> 16);
    store16(p + 2, value & 0xffff);
}

inline InetAddress load_v4(const uint8_t* p) { return InetAddress::v4(load32(p)); }
inline InetAddress load_v6(const uint8_t* p) {
    InetAddress address;
    memcpy(address.bytes.data(), p, 16);
    return address;
}
inline void store_v4(uint8_t* p, const InetAddress& address) { memcpy(p, address.bytes.data() + 12, 4); }
inline void store_v6(uint8_t* p, const InetAddress& address) { memcpy(p, address.bytes.data(), 16); }

// The ones' complement sum, not yet folded or inverted. Pieces may be added in any split at even offsets.
uint64_t checksum_add(uint64_t sum, const void* bytes, size_t size);
uint16_t checksum_fold(uint64_t sum);  // to 16 bits, not inverted
inline uint16_t checksum(const void* bytes, size_t size) {
    return static_cast<uint16_t>(~checksum_fold(checksum_add(0, bytes, size)));
}
// Of the pseudo-header that TCP, UDP and ICMPv6 sum too.
uint64_t pseudo_header(const InetAddress& from, const InetAddress& to, uint8_t protocol, size_t length);

// fe80::/10.
inline bool is_link_local(const InetAddress& address) {
    return address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80;
}

}  // namespace casemate::sentry::stack
