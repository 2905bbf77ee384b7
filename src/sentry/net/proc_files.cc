#include "sentry/net/proc_files.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <net/route.h>
#include <netinet/in.h>

#include "sentry/net/host/host_sockets.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/netlink/netlink_hub.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/network.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kLocalRoute6 = 0x80000000;  // RTF_LOCAL

// As it lies in memory, as a number of this machine.
uint32_t raw_v4(const InetAddress& address) { return htonl(address.as_v4()); }

std::string hex(const InetAddress& address) {
    std::string text;
    for (uint8_t byte : address.bytes) text += fmt::format("{:02x}", byte);
    return text;
}

std::string padded(std::string line, size_t width) {
    if (line.size() < width) line.resize(width, ' ');
    return line + "\n";
}

std::string name_of(Interfaces& model, int link) {
    auto found = model.link(link);
    return found ? found->name : "*";
}

}  // namespace

std::string net_dev_text(Network& network) {
    if (network.host() != nullptr)
        if (std::string text = network.host()->table(HostSockets::kDevices); !text.empty()) return text;
    std::string text =
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls "
        "carrier compressed\n";
    network.settle_loopback();
    for (const Link& link : network.interfaces().links()) {
        const LinkCounters& c = *link.counters;
        text +=
            fmt::format("{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}\n",
                        link.name, c.receive_bytes.load(), c.receive_packets.load(), c.receive_errors.load(),
                        c.receive_dropped.load(), 0, 0, 0, c.multicast.load(), c.send_bytes.load(),
                        c.send_packets.load(), c.send_errors.load(), c.send_dropped.load(), 0, 0, 0, 0);
    }
    return text;
}

std::string net_route_text(Network& network) {
    constexpr size_t kLine = 127;  // each is filled up to it, as Linux does
    std::string text =
        padded("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", kLine);
    Interfaces& model = network.interfaces();
    for (const Route& route : model.routes()) {
        if (route.v6 || route.table != RT_TABLE_MAIN || route.type == RTN_BROADCAST || route.type == RTN_MULTICAST)
            continue;
        unsigned flags = RTF_UP;
        if (route.type == RTN_UNREACHABLE || route.type == RTN_PROHIBIT) flags |= RTF_REJECT;
        if (route.gateway) flags |= RTF_GATEWAY;
        if (route.prefix == 32) flags |= RTF_HOST;
        uint32_t mask = route.prefix == 0 ? 0 : htonl(~uint32_t{0} << (32 - route.prefix));
        text +=
            padded(fmt::format("{}\t{:08X}\t{:08X}\t{:04X}\t{}\t{}\t{}\t{:08X}\t{}\t{}\t{}", name_of(model, route.link),
                               raw_v4(route.destination), route.gateway ? raw_v4(*route.gateway) : 0, flags, 0, 0,
                               route.metric, mask, route.advertised_mss != 0 ? route.advertised_mss + 40 : 0, 0, 0),
                   kLine);
    }
    return text;
}

std::string net_ipv6_route_text(Network& network) {
    std::string text;
    Interfaces& model = network.interfaces();
    for (const Route& route : model.routes()) {
        if (!route.v6) continue;
        unsigned flags = RTF_UP;
        if (route.type == RTN_LOCAL) flags |= RTF_NONEXTHOP | kLocalRoute6;
        if (route.gateway) flags |= RTF_GATEWAY;
        if (route.prefix == 128 && route.type != RTN_LOCAL) flags |= RTF_HOST;
        text += fmt::format("{} {:02x} {} 00 {} {:08x} {:08x} {:08x} {:08x} {:>8}\n", hex(route.destination),
                            route.prefix, hex(InetAddress()), hex(route.gateway.value_or(InetAddress())), route.metric,
                            1, 0, flags, name_of(model, route.link));
    }
    return text;
}

std::string net_if_inet6_text(Network& network) {
    std::string text;
    Interfaces& model = network.interfaces();
    for (const LinkAddress& one : model.addresses()) {
        if (!one.v6()) continue;
        // The kernel's own bits for the reach of an address, not rtnetlink's.
        unsigned scope = one.scope == RT_SCOPE_HOST ? 0x10 : one.scope == RT_SCOPE_LINK ? 0x20 : 0;
        text += fmt::format("{} {:02x} {:02x} {:02x} {:02x} {:>8}\n", hex(one.address), one.link, one.prefix, scope,
                            one.flags & 0xff, name_of(model, one.link));
    }
    return text;
}

std::string net_arp_text(Network& network) {
    std::string text = "IP address       HW type     Flags       HW address            Mask     Device\n";
    Interfaces& model = network.interfaces();
    for (const Neighbour& one : network.neighbours()) {
        if (!one.address.is_v4() || one.state & NUD_NOARP) continue;
        uint32_t address = one.address.as_v4();
        const auto& mac = one.hardware;
        unsigned flags = one.state & NUD_PERMANENT ? 6 : one.state & (NUD_INCOMPLETE | NUD_FAILED) ? 0 : 2;  // ATF_*
        text += fmt::format(
            "{:<16} 0x{:<10x}0x{:<10x}{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}     *        {}\n",
            fmt::format("{}.{}.{}.{}", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255), 1, flags,
            mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], name_of(model, one.link));
    }
    return text;
}

std::string net_igmp_text(Network& network) {
    std::string text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n";
    auto groups = network.groups();
    for (const Link& link : network.interfaces().links()) {
        if (!link.up()) continue;
        // Newest first; all are in 224.0.0.1.
        std::vector<std::pair<uint32_t, unsigned>> joined;
        for (auto& [key, users] : groups)
            if (key.first == link.index && key.second.is_v4())
                joined.insert(joined.begin(), {raw_v4(key.second), users});
        joined.push_back({htonl(INADDR_ALLHOSTS_GROUP), 1});
        text += fmt::format("{}\t{:<10}: {:5} {:>7}\n", link.index, link.name, joined.size(), "V3");
        for (auto [group, users] : joined)
            text += fmt::format("\t\t\t\t{:08X} {:5} {}:{:08X}\t\t{}\n", group, users, 0, 0, 0);
    }
    return text;
}

std::string net_raw_text(Network& network, bool v6) {
    std::string text = v6 ? "  sl  local_address                         remote_address                        st "
                            "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
                          : "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  "
                            "timeout inode ref pointer drops\n";
    int line = 0;
    network.raw_sockets().for_each([&](InetSocket& socket) {
        if (socket.v6() != v6) return;
        InetSocket::Status status = socket.status();
        // The protocol stands for the port.
        auto end = [&](const InetAddress& address, unsigned port) {
            uint32_t words[4];
            memcpy(words, address.bytes.data(), sizeof(words));
            if (!v6) return fmt::format("{:08X}:{:04X}", address.is_v4() ? words[3] : 0, port);
            return fmt::format("{:08X}{:08X}{:08X}{:08X}:{:04X}", words[0], words[1], words[2], words[3], port);
        };
        text += fmt::format("{:4}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5}        0 {} 2 {:016x} {}\n",
                            line++, end(status.local.address, static_cast<unsigned>(socket.protocol())),
                            end(status.peer.address, 0), status.state, status.sending, status.receiving, socket.uid(),
                            socket.inode_number(), 0, status.drops);
    });
    return text;
}

std::string net_packet_text(Network& network) {
    std::string text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n";
    for (auto& socket : network.taps().sockets()) {
        PacketSocket::Status status = socket->status();
        text += fmt::format("{:016x} {:<6} {:<4} {:04x}   {:<5} {} {:<6} {:<6} {:<6}\n", 0, 2, socket->type(),
                            status.protocol, status.link, 1, status.waiting, status.uid, socket->inode_number());
    }
    return text;
}

std::string net_netlink_text(Network& network) {
    std::string text = "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n";
    network.netlink().for_each([&](NetlinkSocket& socket) {
        text += fmt::format("{:016x} {:<3} {:<10} {:08x} {:<8} {:<8} {:<5} {:<8} {:<8} {:<8}\n", 0, socket.protocol(),
                            socket.port(), socket.first_groups(), socket.queued_bytes(), 0, 0, 2, socket.drops(),
                            socket.inode_number());
    });
    return text;
}

std::string net_sockstat_text(Network& network, bool v6) {
    auto count = [&](PortTable& table, auto fits) {
        unsigned number = 0;
        table.for_each([&](InetSocket& socket) { number += socket.v6() == v6 && fits(socket); });
        return number;
    };
    auto all = [](InetSocket&) { return true; };
    unsigned tcp = count(network.tcp_ports(), all);
    unsigned udp = count(network.udp_ports(), all), lite = count(network.udplite_ports(), all);
    unsigned raw = count(network.raw_sockets(), all);
    if (v6)
        return fmt::format(
            "TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse {}\nRAW6: inuse {}\nFRAG6: inuse 0 memory 0\n", tcp, udp,
            lite, raw);
    unsigned used = tcp + udp + lite + raw + static_cast<unsigned>(network.unix_sockets().size());
    network.netlink().for_each([&](NetlinkSocket&) { used++; });
    size_t waiting = 0, orphans = 0;
    for (const Network::Orphan& one : network.orphans()) (one.state == 6 ? waiting : orphans)++;
    return fmt::format(
        "sockets: used {}\nTCP: inuse {} orphan {} tw {} alloc {} mem 0\nUDP: inuse {} mem 0\nUDPLITE: inuse {}\nRAW: "
        "inuse {}\nFRAG: inuse 0 memory 0\n",
        used, tcp, orphans, waiting, tcp, udp, lite, raw);
}

}  // namespace casemate::sentry
