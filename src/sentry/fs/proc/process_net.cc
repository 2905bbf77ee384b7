// /proc/PID/net: interfaces and sockets.
#include <fmt/core.h>

#include "sentry/fs/proc/proc.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr char kDev[] =
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier "
    "compressed\n"
    "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0   "
    "       0\n";
constexpr char kRoute[] = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
constexpr char kIfInet6[] = "00000000000000000000000000000001 01 80 10 80       lo\n";

}  // namespace

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
    text("dev", [](Network&) { return std::string(kDev); });
    text("route", [](Network&) { return std::string(kRoute); });
    text("if_inet6", [](Network&) { return std::string(kIfInet6); });
    text("ipv6_route", [](Network&) { return std::string(); });
    text("arp", [](Network&) {
        return std::string("IP address       HW type     Flags       HW address            Mask     Device\n");
    });
}

}  // namespace casemate::sentry
