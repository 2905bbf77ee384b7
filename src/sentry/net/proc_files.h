// What /proc/net tells about interfaces and sockets, as text; and the interfaces of /sys/class/net.
#pragma once

#include <string>

namespace casemate::sentry {

class Network;

std::string net_dev_text(Network& network);
std::string net_route_text(Network& network);
std::string net_ipv6_route_text(Network& network);
std::string net_if_inet6_text(Network& network);
std::string net_arp_text(Network& network);
std::string net_igmp_text(Network& network);
std::string net_raw_text(Network& network, bool v6);
// proc_counters.cc
std::string net_snmp_text(Network& network);
std::string net_snmp6_text(Network& network);
std::string net_netstat_text(Network& network);
std::string net_protocols_text(Network& network);
std::string net_igmp6_text(Network& network);
std::string net_fib_trie_text(Network& network);
std::string net_fib_triestat_text(Network& network);
std::string net_packet_text(Network& network);
std::string net_netlink_text(Network& network);
std::string net_sockstat_text(Network& network, bool v6);

}  // namespace casemate::sentry
