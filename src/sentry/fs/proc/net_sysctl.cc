// /proc/sys/net: what network settings there are. Some have an effect (net/net_settings.h); some are what they are and
// read-only; some are kept for whoever reads them, where a container's config or its programs set them and nothing in
// the pod's own network depends on them.
#include <fmt/core.h>

#include <charconv>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/task.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr int kNetAdmin = 12;  // CAP_NET_ADMIN
constexpr size_t kMostText = 64;

struct Fixed {
    const char* path;
    const char* value;
};
constexpr Fixed kFixed[] = {
    {"core/rmem_default", "212992"},
    {"core/rmem_max", "212992"},
    {"core/wmem_default", "212992"},
    {"core/wmem_max", "212992"},
    {"core/optmem_max", "131072"},
    {"ipv4/tcp_rmem", "4096\t131072\t6291456"},
    {"ipv4/tcp_wmem", "4096\t16384\t4194304"},
    {"ipv4/tcp_available_congestion_control", "reno cubic"},
    {"ipv4/tcp_allowed_congestion_control", "reno cubic"},
    {"ipv4/igmp_max_memberships", "20"},
    {"ipv4/igmp_max_msf", "10"},
    {"ipv6/bindv6only", "0"},
    {"ipv6/conf/lo/mtu", "65536"},
    {"unix/max_dgram_qlen", "512"},
    {"core/busy_poll", "0"},
    {"core/busy_read", "0"},
    {"core/dev_weight", "64"},
    {"core/netdev_budget", "300"},
    {"core/rps_sock_flow_entries", "0"},
    {"ipv4/ip_local_reserved_ports", ""},
    {"ipv4/ip_no_pmtu_disc", "0"},
    {"ipv4/ipfrag_high_thresh", "4194304"},
    {"ipv4/ipfrag_low_thresh", "3145728"},
    {"ipv4/ipfrag_time", "30"},
    {"ipv4/neigh/default/gc_thresh1", "128"},
    {"ipv4/neigh/default/gc_thresh2", "512"},
    {"ipv4/neigh/default/gc_thresh3", "1024"},
    {"ipv4/tcp_adv_win_scale", "1"},
    {"ipv4/tcp_dsack", "1"},
    {"ipv4/tcp_max_orphans", "65536"},
    {"ipv4/tcp_mem", "190443\t253926\t380886"},
    {"ipv4/tcp_moderate_rcvbuf", "1"},
    {"ipv4/tcp_notsent_lowat", "4294967295"},
    {"ipv4/tcp_reordering", "3"},
    {"ipv4/tcp_stdurg", "0"},
    {"ipv4/udp_mem", "380889\t507855\t761778"},
    {"ipv6/neigh/default/gc_thresh1", "128"},
    {"ipv6/neigh/default/gc_thresh2", "512"},
    {"ipv6/neigh/default/gc_thresh3", "1024"},
};
constexpr Fixed kKept[] = {
    {"core/netdev_max_backlog", "1000"},
    {"core/default_qdisc", "fq_codel"},
    {"core/bpf_jit_enable", "1"},
    {"ipv4/ip_default_ttl", "64"},
    {"ipv4/ip_forward", "0"},
    {"ipv4/ip_nonlocal_bind", "0"},
    {"ipv4/icmp_echo_ignore_all", "0"},
    {"ipv4/icmp_echo_ignore_broadcasts", "1"},
    {"ipv4/tcp_congestion_control", "cubic"},
    {"ipv4/tcp_ecn", "2"},
    {"ipv4/tcp_fastopen", "1"},
    {"ipv4/tcp_fin_timeout", "60"},
    {"ipv4/tcp_keepalive_intvl", "75"},
    {"ipv4/tcp_keepalive_probes", "9"},
    {"ipv4/tcp_keepalive_time", "7200"},
    {"ipv4/tcp_max_syn_backlog", "1024"},
    {"ipv4/tcp_max_tw_buckets", "8192"},
    {"ipv4/tcp_mtu_probing", "0"},
    {"ipv4/tcp_no_metrics_save", "0"},
    {"ipv4/tcp_orphan_retries", "0"},
    {"ipv4/tcp_retries1", "3"},
    {"ipv4/tcp_retries2", "15"},
    {"ipv4/tcp_rfc1337", "0"},
    {"ipv4/tcp_sack", "1"},
    {"ipv4/tcp_slow_start_after_idle", "1"},
    {"ipv4/tcp_syn_retries", "6"},
    {"ipv4/tcp_synack_retries", "5"},
    {"ipv4/tcp_syncookies", "1"},
    {"ipv4/tcp_timestamps", "1"},
    {"ipv4/tcp_tw_reuse", "2"},
    {"ipv4/tcp_window_scaling", "1"},
    {"ipv4/udp_rmem_min", "4096"},
    {"ipv4/udp_wmem_min", "4096"},
    {"ipv4/conf/all/arp_announce", "0"},
    {"ipv4/conf/all/arp_ignore", "0"},
    {"ipv4/conf/all/forwarding", "0"},
    {"ipv4/conf/all/rp_filter", "0"},
    {"ipv4/conf/all/route_localnet", "0"},
    {"ipv4/conf/default/forwarding", "0"},
    {"ipv4/conf/default/rp_filter", "0"},
    {"ipv4/conf/lo/forwarding", "0"},
    {"ipv4/conf/lo/rp_filter", "0"},
    {"ipv6/conf/all/accept_ra", "1"},
    {"ipv6/conf/all/disable_ipv6", "0"},
    {"ipv6/conf/all/forwarding", "0"},
    {"ipv6/conf/default/accept_ra", "1"},
    {"ipv6/conf/default/disable_ipv6", "0"},
    {"ipv6/conf/default/forwarding", "0"},
    {"ipv6/conf/lo/disable_ipv6", "0"},
    {"ipv6/conf/lo/forwarding", "0"},
};

// Up to two numbers between white space. EINVAL.
SysResult<std::vector<uint64_t>> numbers(std::string_view text, size_t count, uint64_t most) {
    std::vector<uint64_t> found;
    for (text = trimmed(text); !text.empty(); text = trimmed(text)) {
        uint64_t value;
        auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || value > most || found.size() == count) return Errno(EINVAL);
        if (end != text.data() + text.size() && *end != ' ' && *end != '\t') return Errno(EINVAL);
        text.remove_prefix(static_cast<size_t>(end - text.data()));
        found.push_back(value);
    }
    if (found.size() != count) return Errno(EINVAL);
    return found;
}

TextFile::Take by_admin(std::function<SysResult<void>(Network& network, std::string_view text)> take) {
    return [take = std::move(take)](Task& task, std::string_view text) -> SysResult<void> {
        Ref<Network> network = network_of(task);
        if (network->host() != nullptr || !task.has_capability(kNetAdmin)) return Errno(EPERM);
        return take(*network, text);
    };
}
TextFile::Make shown(std::function<std::string(Network& network)> make) {
    return [make = std::move(make)](Task& task) -> SysResult<std::string> { return make(*network_of(task)) + "\n"; };
}

}  // namespace

std::vector<NetworkSetting> network_settings() {
    std::vector<NetworkSetting> all;
    for (const Fixed& one : kFixed)
        all.push_back({one.path, shown([value = one.value](Network&) { return std::string(value); }), nullptr});
    for (const Fixed& one : kKept)
        all.push_back({one.path, shown([one](Network& network) { return network.kept_setting(one.path, one.value); }),
                       by_admin([path = one.path](Network& network, std::string_view text) -> SysResult<void> {
                           text = trimmed(text);
                           if (text.empty() || text.size() > kMostText) return Errno(EINVAL);
                           network.keep_setting(path, std::string(text));
                           return {};
                       })});
    all.push_back({"core/somaxconn",
                   shown([](Network& network) { return std::to_string(network.settings().most_backlog); }),
                   by_admin([](Network& network, std::string_view text) -> SysResult<void> {
                       network.settings().most_backlog = static_cast<uint32_t>(TRY(numbers(text, 1, INT32_MAX))[0]);
                       return {};
                   })});
    all.push_back({"ipv4/ip_unprivileged_port_start",
                   shown([](Network& network) { return std::to_string(network.settings().unprivileged_port_start); }),
                   by_admin([](Network& network, std::string_view text) -> SysResult<void> {
                       network.settings().unprivileged_port_start =
                           static_cast<uint16_t>(TRY(numbers(text, 1, 65535))[0]);
                       return {};
                   })});
    all.push_back({"ipv4/ip_local_port_range", shown([](Network& network) {
                       auto [first, last] = network.settings().port_range();
                       return fmt::format("{}\t{}", first, last);
                   }),
                   by_admin([](Network& network, std::string_view text) -> SysResult<void> {
                       auto range = TRY(numbers(text, 2, 65535));
                       if (range[0] > range[1] || range[0] == 0) return Errno(EINVAL);
                       network.settings().local_ports = static_cast<uint32_t>(range[0] << 16 | range[1]);
                       return {};
                   })});
    all.push_back({"ipv4/ping_group_range", shown([](Network& network) {
                       auto [first, last] = network.settings().ping_groups();
                       return fmt::format("{}\t{}", first, last);
                   }),
                   by_admin([](Network& network, std::string_view text) -> SysResult<void> {
                       auto range = TRY(numbers(text, 2, UINT32_MAX));
                       network.settings().ping_group_range = range[0] << 32 | range[1];
                       return {};
                   })});
    return all;
}

}  // namespace casemate::sentry
