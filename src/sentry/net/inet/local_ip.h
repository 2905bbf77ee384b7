// Packets that are not TCP's: those that the pod sends to itself go to raw sockets, then to their protocol; others
// leave by a link, or came by one. IPv4 packets are seen with their header, IPv6's without.
#pragma once

#include <netinet/ip.h>

#include "sentry/net/interfaces.h"
#include "sentry/net/packet_queue.h"

namespace casemate::sentry {

class Network;

// `packet`: from, to, hop limit, class and link are set; its data is what follows the IP header, checksums right.
void deliver_locally(Network& network, uint8_t protocol, Packet& packet);
// Where its way leads: out of a link, to the pod's own sockets, or both (groups). Errors of the stack: EMSGSIZE and so
// on.
SysResult<void> send_packet(Network& network, uint8_t protocol, const RouteChoice& way, Packet& packet);
// What came by a link and is not TCP's or UDP's; the stack has given its own answers. False: nobody wants it.
bool deliver_from_link(Network& network, uint8_t protocol, Packet& packet);
// To raw sockets that are open for `protocol` only.
void deliver_to_raw(Network& network, uint8_t protocol, const Packet& packet);
// The same of a UDP datagram, whose header is made of its ports.
void deliver_udp_to_raw(Network& network, const Packet& datagram);
// An ICMP "port unreachable" about this UDP datagram, for whoever listens to ICMP (traceroute does).
void deliver_port_unreachable(Network& network, uint8_t protocol, const Packet& about, std::span<const std::byte> data);

// The IPv4 header of a packet with so many bytes behind it.
iphdr ipv4_header(const Packet& packet, uint8_t protocol, size_t payload);
uint16_t internet_checksum(std::span<const std::byte> bytes, uint32_t sum = 0);
// ICMPv6's and others' that cover the addresses too.
uint16_t checksum_v6(const Packet& packet, uint8_t protocol);

}  // namespace casemate::sentry
