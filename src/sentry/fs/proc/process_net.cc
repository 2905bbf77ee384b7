// /proc/PID/net: interfaces and sockets.
#include "sentry/fs/proc/proc.h"
#include "sentry/net/network.h"
#include "sentry/net/proc_files.h"

namespace casemate::sentry {

void add_network_files(SyntheticDirectory& directory, Ref<ProcFileSystem> files) {
    auto text = [&](const char* name, auto make) {
        directory.add(name, Ref<Inode>(make_ref<TextFile>(
                                Ref<FileSystem>(files), 0444u,
                                [make](Task& task) -> SysResult<std::string> { return make(*network_of(task)); })));
    };
    text("unix", [](Network& network) { return network.unix_text(); });
    text("tcp", [](Network& network) { return network.tcp_text(false); });
    text("tcp6", [](Network& network) { return network.tcp_text(true); });
    text("udp", [](Network& network) { return network.udp_text(false); });
    text("udp6", [](Network& network) { return network.udp_text(true); });
    text("dev", net_dev_text);
    text("route", net_route_text);
    text("ipv6_route", net_ipv6_route_text);
    text("if_inet6", net_if_inet6_text);
    text("arp", net_arp_text);
    text("igmp", net_igmp_text);
    text("igmp6", net_igmp6_text);
    text("snmp", net_snmp_text);
    text("snmp6", net_snmp6_text);
    text("netstat", net_netstat_text);
    text("protocols", net_protocols_text);
    text("fib_trie", net_fib_trie_text);
    text("fib_triestat", net_fib_triestat_text);
    text("netlink", net_netlink_text);
    text("raw", [](Network& network) { return net_raw_text(network, false); });
    text("raw6", [](Network& network) { return net_raw_text(network, true); });
    text("sockstat", [](Network& network) { return net_sockstat_text(network, false); });
    text("sockstat6", [](Network& network) { return net_sockstat_text(network, true); });
    text("packet", net_packet_text);
}

}  // namespace casemate::sentry
