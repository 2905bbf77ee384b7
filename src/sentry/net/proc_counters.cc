// /proc/net/{snmp,snmp6,netstat,protocols,sockstat...}: counters, as Linux names and orders them. What nothing here
// counts reads as 0.
#include <arpa/inet.h>
#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/net_counters.h"
#include "sentry/net/netlink/netlink_hub.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/proc_files.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {
namespace {

using Values = std::map<std::string_view, uint64_t>;

// Linux's names of what the stack counts (net/stack/stack.h, TcpEvent).
constexpr std::string_view kTcpEventNames[] = {
    "SyncookiesRecv",  "SyncookiesFailed",    "EmbryonicRsts",   "TW",
    "PAWSEstab",       "DelayedACKs",         "TCPSackRecovery", "TCPRenoRecovery",
    "TCPFastRetrans",  "TCPSlowStartRetrans", "TCPTimeouts",     "TCPLossProbes",
    "TCPOFOQueue",     "TCPOFODrop",          "TCPOFOMerge",     "TCPChallengeACK",
    "TCPSYNChallenge", "TCPKeepAlive"};
static_assert(std::size(kTcpEventNames) == static_cast<size_t>(stack::TcpEvent::kCount));
constexpr std::string_view kMarkNames[] = {"InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts"};

// The inside's and the links' together, by Linux's names.
struct Counted {
    Values ip[2], icmp[2], udp[2], tcp, tcp_ext, ip_ext;
};

Counted count(Network& network) {
    network.settle_loopback();
    Counted all;
    NetCounters& own = network.counters();
    stack::Counters none;
    stack::Counters& links = network.wire() != nullptr ? network.wire()->stack().counters() : none;
    for (int v6 : {0, 1}) {
        stack::FamilyCounters& family = links.family[v6];
        Values& ip = all.ip[v6];
        uint64_t inside = own.packets[v6];
        ip["InReceives"] = inside + family.in_packets;
        ip["InHdrErrors"] = family.in_bad_headers;
        ip["InDiscards"] = 0;
        ip["InAddrErrors"] = family.in_discards;
        ip["InDelivers"] = inside + family.in_packets - family.in_bad_headers - family.in_discards;
        ip["OutRequests"] = inside + family.out_packets;
        ip["OutTransmits"] = inside + family.out_packets;
        ip["OutNoRoutes"] = family.out_no_routes;
        ip["ReasmOKs"] = family.reassembled;
        ip["ReasmFails"] = family.reassembly_failed;
        ip["InOctets"] = own.octets[v6];
        ip["OutOctets"] = own.octets[v6];
        Values& udp = all.udp[v6];
        NetCounters::Udp& datagrams = own.udp[v6];
        udp["InDatagrams"] = datagrams.in + family.udp_in - family.udp_no_port;
        udp["NoPorts"] = datagrams.no_port + family.udp_no_port;
        udp["OutDatagrams"] = datagrams.out + family.udp_out;
        udp["RcvbufErrors"] = udp["InErrors"] = datagrams.full;
        Values& icmp = all.icmp[v6];
        NetCounters::Icmp& messages = own.icmp[v6];
        icmp["InMsgs"] = messages.in + family.icmp_in;
        icmp["OutMsgs"] = messages.out + family.icmp_out;
        icmp["InEchos"] = messages.echos_in + family.echos_in;
        icmp[v6 ? "InEchoReplies" : "InEchoReps"] = messages.replies_in + family.replies_in;
        icmp["OutEchos"] = messages.echos_out;
        icmp[v6 ? "OutEchoReplies" : "OutEchoReps"] = messages.replies_out + family.echos_in;
        icmp["InDestUnreachs"] = messages.unreachable_in + family.unreachable_in;
        icmp["OutDestUnreachs"] = messages.unreachable_out + family.unreachable_out;
    }
    uint64_t established = 0;
    network.tcp_ports().for_each([&](InetSocket& socket) {
        int state = socket.status().state;
        established += state == 1 || state == 8;
    });
    all.tcp = {{"RtoAlgorithm", 1},
               {"RtoMin", 200},
               {"RtoMax", 120000},
               {"ActiveOpens", own.tcp_active_opens + links.tcp_active_opens},
               {"PassiveOpens", own.tcp_passive_opens + links.tcp_passive_opens},
               {"AttemptFails", own.tcp_failed + links.tcp_failed},
               {"EstabResets", own.tcp_resets + links.tcp_resets_in},
               {"CurrEstab", established},
               {"InSegs", own.tcp_segments + links.tcp_in},
               {"OutSegs", own.tcp_segments + links.tcp_out},
               {"RetransSegs", links.tcp_retransmitted},
               {"InErrs", links.tcp_bad},
               {"OutRsts", own.tcp_resets + links.tcp_resets_out}};
    all.tcp_ext = {{"SyncookiesSent", links.syn_cookies},
                   {"ListenOverflows", own.tcp_overflows},
                   {"ListenDrops", own.tcp_overflows},
                   {"TCPRetransFail", 0}};
    for (size_t i = 0; i < std::size(kTcpEventNames); i++) all.tcp_ext[kTcpEventNames[i]] = links.events[i];
    all.ip_ext = {{"InOctets", all.ip[0]["InOctets"]}, {"OutOctets", all.ip[0]["OutOctets"]}};
    for (int mark = 0; mark < 4; mark++) {
        // What stays inside carries no mark.
        uint64_t inside[2] = {mark == 0 ? own.packets[0].load() : 0, mark == 0 ? own.packets[1].load() : 0};
        all.ip_ext[kMarkNames[mark]] = inside[0] + links.marks[0][mark];
        all.ip[1][kMarkNames[mark]] = inside[1] + links.marks[1][mark];
    }
    uint64_t in = 0, out = 0;
    for (const Link& link : network.interfaces().links()) {
        if (link.loopback()) continue;
        in += link.counters->receive_bytes;
        out += link.counters->send_bytes;
    }
    all.ip_ext["InOctets"] += in;
    all.ip_ext["OutOctets"] += out;
    return all;
}

// A line of names and one of values.
std::string two_lines(std::string_view title, std::string_view names, const Values& values) {
    std::string first(title), second(title);
    first += ':';
    second += ':';
    while (!names.empty()) {
        size_t end = std::min(names.find(' '), names.size());
        std::string_view name = names.substr(0, end);
        names.remove_prefix(std::min(end + 1, names.size()));
        first += ' ';
        first += name;
        auto it = values.find(name);
        second += name == "MaxConn" ? std::string(" -1") : fmt::format(" {}", it == values.end() ? 0 : it->second);
    }
    return first + "\n" + second + "\n";
}

constexpr const char* kIp =
    "Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers "
    "OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates "
    "OutTransmits";
constexpr const char* kIcmp =
    "InMsgs InErrors InCsumErrors InDestUnreachs InTimeExcds InParmProbs InSrcQuenchs InRedirects InEchos InEchoReps "
    "InTimestamps InTimestampReps InAddrMasks InAddrMaskReps OutMsgs OutErrors OutRateLimitGlobal OutRateLimitHost "
    "OutDestUnreachs OutTimeExcds OutParmProbs OutSrcQuenchs OutRedirects OutEchos OutEchoReps OutTimestamps "
    "OutTimestampReps OutAddrMasks OutAddrMaskReps";
constexpr const char* kTcp =
    "RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs "
    "RetransSegs InErrs OutRsts InCsumErrors";
constexpr const char* kUdp =
    "InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors";
constexpr const char* kTcpExt =
    "SyncookiesSent SyncookiesRecv SyncookiesFailed EmbryonicRsts PruneCalled RcvPruned OfoPruned OutOfWindowIcmps "
    "LockDroppedIcmps ArpFilter TW TWRecycled TWKilled PAWSActive PAWSEstab DelayedACKs DelayedACKLocked "
    "DelayedACKLost "
    "ListenOverflows ListenDrops TCPHPHits TCPPureAcks TCPHPAcks TCPRenoRecovery TCPSackRecovery TCPSACKReneging "
    "TCPSACKReorder TCPRenoReorder TCPTSReorder TCPFullUndo TCPPartialUndo TCPDSACKUndo TCPLossUndo TCPLostRetransmit "
    "TCPRenoFailures TCPSackFailures TCPLossFailures TCPFastRetrans TCPSlowStartRetrans TCPTimeouts TCPLossProbes "
    "TCPLossProbeRecovery TCPRetransFail TCPRcvCoalesce TCPOFOQueue TCPOFODrop TCPOFOMerge TCPChallengeACK "
    "TCPSYNChallenge TCPFastOpenActive TCPFastOpenPassive TCPKeepAlive TCPDelivered";
constexpr const char* kIpExt =
    "InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets InMcastOctets "
    "OutMcastOctets InBcastOctets OutBcastOctets InCsumErrors InNoECTPkts InECT1Pkts InECT0Pkts InCEPkts ReasmOverlaps";

constexpr std::string_view kIp6[] = {
    "InReceives",      "InHdrErrors",    "InTooBigErrors", "InNoRoutes",       "InAddrErrors", "InUnknownProtos",
    "InTruncatedPkts", "InDiscards",     "InDelivers",     "OutForwDatagrams", "OutRequests",  "OutDiscards",
    "OutNoRoutes",     "ReasmTimeout",   "ReasmReqds",     "ReasmOKs",         "ReasmFails",   "FragOKs",
    "FragFails",       "FragCreates",    "InMcastPkts",    "OutMcastPkts",     "InOctets",     "OutOctets",
    "InMcastOctets",   "OutMcastOctets", "InBcastOctets",  "OutBcastOctets",   "InNoECTPkts",  "InECT1Pkts",
    "InECT0Pkts",      "InCEPkts",       "OutTransmits"};
constexpr std::string_view kIcmp6[] = {"InMsgs",
                                       "InErrors",
                                       "OutMsgs",
                                       "OutErrors",
                                       "InCsumErrors",
                                       "OutRateLimitHost",
                                       "InDestUnreachs",
                                       "InPktTooBigs",
                                       "InTimeExcds",
                                       "InParmProblems",
                                       "InEchos",
                                       "InEchoReplies",
                                       "InGroupMembQueries",
                                       "InGroupMembResponses",
                                       "InGroupMembReductions",
                                       "InRouterSolicits",
                                       "InRouterAdvertisements",
                                       "InNeighborSolicits",
                                       "InNeighborAdvertisements",
                                       "InRedirects",
                                       "InMLDv2Reports",
                                       "OutDestUnreachs",
                                       "OutPktTooBigs",
                                       "OutTimeExcds",
                                       "OutParmProblems",
                                       "OutEchos",
                                       "OutEchoReplies",
                                       "OutGroupMembQueries",
                                       "OutGroupMembResponses",
                                       "OutGroupMembReductions",
                                       "OutRouterSolicits",
                                       "OutRouterAdvertisements",
                                       "OutNeighborSolicits",
                                       "OutNeighborAdvertisements",
                                       "OutRedirects",
                                       "OutMLDv2Reports"};
constexpr std::string_view kUdp6[] = {"InDatagrams",  "NoPorts",      "InErrors",     "OutDatagrams", "RcvbufErrors",
                                      "SndbufErrors", "InCsumErrors", "IgnoredMulti", "MemErrors"};

std::string v4_text(const InetAddress& address) {
    uint32_t v4 = address.as_v4();
    return fmt::format("{}.{}.{}.{}", v4 >> 24, v4 >> 16 & 255, v4 >> 8 & 255, v4 & 255);
}

std::vector<Route> v4_routes(Network& network) {
    std::vector<Route> routes;
    for (const Route& route : network.interfaces().routes())
        if (!route.v6 && (route.table == RT_TABLE_MAIN || route.table == RT_TABLE_LOCAL)) routes.push_back(route);
    std::ranges::stable_sort(routes, [](const Route& a, const Route& b) {
        return std::pair(a.destination, a.prefix) < std::pair(b.destination, b.prefix);
    });
    return routes;
}

}  // namespace

std::string net_snmp_text(Network& network) {
    Counted all = count(network);
    all.ip[0]["Forwarding"] = network.kept_setting("ipv4/ip_forward", "0") == "1" ? 1 : 2;
    all.ip[0]["DefaultTTL"] = 64;
    Values& icmp = all.icmp[0];
    Values types = {{"InType0", icmp["InEchoReps"]},       {"InType3", icmp["InDestUnreachs"]},
                    {"InType8", icmp["InEchos"]},          {"OutType0", icmp["OutEchoReps"]},
                    {"OutType3", icmp["OutDestUnreachs"]}, {"OutType8", icmp["OutEchos"]}};
    return two_lines("Ip", kIp, all.ip[0]) + two_lines("Icmp", kIcmp, icmp) +
           two_lines("IcmpMsg", "InType0 InType3 InType8 OutType0 OutType3 OutType8", types) +
           two_lines("Tcp", kTcp, all.tcp) + two_lines("Udp", kUdp, all.udp[0]) + two_lines("UdpLite", kUdp, {});
}

std::string net_snmp6_text(Network& network) {
    Counted all = count(network);
    std::string text;
    auto add = [&](std::string_view prefix, std::span<const std::string_view> names, const Values& values) {
        for (std::string_view name : names) {
            auto it = values.find(name);
            text += fmt::format("{:<32}\t{}\n", fmt::format("{}{}", prefix, name), it == values.end() ? 0 : it->second);
        }
    };
    add("Ip6", kIp6, all.ip[1]);
    add("Icmp6", kIcmp6, all.icmp[1]);
    add("Udp6", kUdp6, all.udp[1]);
    add("UdpLite6", kUdp6, {});
    return text;
}

std::string net_netstat_text(Network& network) {
    Counted all = count(network);
    return two_lines("TcpExt", kTcpExt, all.tcp_ext) + two_lines("IpExt", kIpExt, all.ip_ext);
}

std::string net_protocols_text(Network& network) {
    auto number = [](PortTable& table, bool v6) {
        unsigned sockets = 0;
        table.for_each([&](InetSocket& socket) { sockets += socket.v6() == v6; });
        return sockets;
    };
    unsigned streams = 0, others = 0, netlink = 0;
    for (auto& socket : network.unix_sockets()) (socket->type() == SOCK_STREAM ? streams : others)++;
    network.netlink().for_each([&](NetlinkSocket&) { netlink++; });
    struct Row {
        const char* name;
        unsigned size, sockets;
        const char* rest;
    };
    constexpr const char* kPlain = "y  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
    constexpr const char* kNone = "n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n  n";
    constexpr const char* kTcpCalls = "y  y  y  y  y  y  y  y  y  y  y  y  n  y  y  y  y  y";
    constexpr const char* kUdpCalls = "y  y  y  n  y  y  y  n  y  y  y  y  n  n  y  y  y  n";
    constexpr const char* kRawCalls = "y  y  y  n  y  y  y  n  y  y  y  y  y  y  y  y  n  n";
    constexpr const char* kPingCalls = "y  y  y  n  n  y  n  n  y  y  y  y  y  y  n  y  y  n";
    const Row rows[] = {
        {"PACKET", 1600, static_cast<unsigned>(network.taps().sockets().size()), kNone},
        {"PINGv6", 1344, number(network.ping6_ports(), true), kPingCalls},
        {"RAWv6", 1344, number(network.raw_sockets(), true), kRawCalls},
        {"UDPLITEv6", 1472, number(network.udplite_ports(), true), kUdpCalls},
        {"UDPv6", 1472, number(network.udp_ports(), true), kUdpCalls},
        {"TCPv6", 2432, number(network.tcp_ports(), true), kTcpCalls},
        {"UNIX-STREAM", 1152, streams, kPlain},
        {"UNIX", 1152, others, kPlain},
        {"UDP-Lite", 1344, number(network.udplite_ports(), false), kUdpCalls},
        {"PING", 1016, number(network.ping_ports(), false), kPingCalls},
        {"RAW", 1152, number(network.raw_sockets(), false), kRawCalls},
        {"UDP", 1344, number(network.udp_ports(), false), kUdpCalls},
        {"TCP", 2304, number(network.tcp_ports(), false), kTcpCalls},
        {"NETLINK", 1096, netlink, kNone},
    };
    std::string text =
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re bi br ha uh "
        "gp em\n";
    for (const Row& row : rows) {
        bool tcp = row.rest == kTcpCalls;
        text += fmt::format("{:<9} {:4} {:6}  {:6}   {:<3} {:6}   {:<3}  {:<10}  {}\n", row.name, row.size, row.sockets,
                            tcp || row.rest == kUdpCalls ? 0 : -1, tcp ? "no" : "NI", tcp ? 192 : 0,
                            row.rest == kNone ? "no" : "yes", "kernel", std::string_view(row.rest).substr(0, 52));
    }
    return text;
}

std::string net_igmp6_text(Network& network) {
    std::string text;
    auto groups = network.groups();
    auto addresses = network.interfaces().addresses();
    for (const Link& link : network.interfaces().links()) {
        if (!link.up()) continue;
        auto add = [&](const std::string& group, unsigned users, unsigned flags) {
            text += fmt::format("{:<4} {:<15} {} {:5} {:08X} {}\n", link.index, link.name, group, users, flags, 0);
        };
        for (auto& [key, users] : groups) {
            if (key.first != link.index || key.second.is_v4()) continue;
            std::string group;
            for (uint8_t byte : key.second.bytes) group += fmt::format("{:02x}", byte);
            add(group, users, 4);
        }
        // Each address has a group to be asked for.
        for (const LinkAddress& one : addresses) {
            if (one.link != link.index || !one.v6() || one.address.is_loopback()) continue;
            const auto& bytes = one.address.bytes;
            add(fmt::format("ff0200000000000000000001ff{:02x}{:02x}{:02x}", bytes[13], bytes[14], bytes[15]), 1, 4);
        }
        add("ff020000000000000000000000000001", 1, 0xc);
        add("ff010000000000000000000000000001", 1, 8);
    }
    return text;
}

// The table without the inner nodes of Linux's tree: those are its own business.
std::string net_fib_trie_text(Network& network) {
    static constexpr const char* kTypes[] = {"UNSPEC",   "UNICAST",   "LOCAL",     "BROADCAST",
                                             "ANYCAST",  "MULTICAST", "BLACKHOLE", "UNREACHABLE",
                                             "PROHIBIT", "THROW",     "NAT",       "XRESOLVE"};
    auto routes = v4_routes(network);
    std::string leaves;
    size_t count = 0;
    for (size_t i = 0; i < routes.size(); i++) {
        const Route& route = routes[i];
        if (i == 0 || routes[i - 1].destination != route.destination) {
            leaves += fmt::format("     |-- {}\n", v4_text(route.destination));
            count++;
        }
        const char* scope = route.scope == RT_SCOPE_UNIVERSE ? "universe"
                            : route.scope == RT_SCOPE_LINK   ? "link"
                            : route.scope == RT_SCOPE_HOST   ? "host"
                                                             : "nowhere";
        leaves += fmt::format("        /{} {} {}\n", route.prefix, scope,
                              route.type < std::size(kTypes) ? kTypes[route.type] : "UNSPEC");
    }
    std::string tree = fmt::format("  +-- 0.0.0.0/0 {} 0 0\n{}", count, leaves);
    if (routes.empty()) return "";
    return "Main:\n" + tree + "Local:\n" + tree;
}

std::string net_fib_triestat_text(Network& network) {
    auto routes = v4_routes(network);
    if (routes.empty()) return "Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\n";
    size_t leaves = 0;
    for (size_t i = 0; i < routes.size(); i++) leaves += i == 0 || routes[i - 1].destination != routes[i].destination;
    std::string one = fmt::format(
        "\tAver depth:     1.00\n\tMax depth:      1\n\tLeaves:         {}\n\tPrefixes:       {}\n\tInternal nodes: "
        "1\n\tPointers: {}\nNull ptrs: 0\nTotal size: {}  kB\n",
        leaves, routes.size(), leaves, (leaves * 96 + 1023) / 1024);
    return "Basic info: size of leaf: 48 bytes, size of tnode: 40 bytes.\nMain:\n" + one + "Local:\n" + one;
}

}  // namespace casemate::sentry
