// Network: what a network namespace holds for the socket families: names, ports, and the sockets there are.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/ref.h"
#include "sentry/net/inet/endpoint.h"
#include "sentry/net/net_settings.h"

namespace casemate::sentry {

class Interfaces;  // net/interfaces.h
struct Neighbour;
struct LinkCounters;
class HostSockets;       // net/host/host_sockets.h
class NetlinkHub;        // net/netlink/netlink_hub.h
class NetworkNamespace;  // kernel/namespaces.h
class PortTable;         // net/inet/ports.h
class Socket;
class Task;
class UnixName;
class UnixSocket;
struct NetCounters;  // net/net_counters.h
class Taps;          // net/packet/taps.h
class TimerThread;   // kernel/timers.h
class Wire;          // net/link/wire.h

class Network final : public RefCounted {
  public:
    // `ready`: the loopback is up and has its addresses, as container runtimes leave it; else as Linux makes it.
    explicit Network(bool ready);
    ~Network() override;

    // Abstract Unix names. Claim: false if somebody has it.
    bool claim_abstract(const std::string& name, UnixName& owner);
    void release_abstract(const std::string& name, UnixName& owner);
    Ref<UnixName> find_abstract(const std::string& name);  // null: none

    // All Unix sockets, for /proc/net/unix.
    void add_unix(UnixSocket& socket);
    void remove_unix(UnixSocket& socket);
    std::vector<Ref<UnixSocket>> unix_sockets();

    // That no other network namespace has (SO_NETNS_COOKIE).
    uint64_t cookie() const { return cookie_; }
    NetSettings& settings() { return settings_; }
    // Internet sockets are the host's (host network mode); null: our own. Set before anything runs in the namespace.
    HostSockets* host() const { return host_; }
    void set_host(HostSockets& host) { host_ = &host; }
    // Settings that are only kept, by path.
    std::string kept_setting(const std::string& path, const char* fallback);
    void keep_setting(const std::string& path, std::string value);
    Interfaces& interfaces() { return *interfaces_; }
    NetlinkHub& netlink() { return *netlink_; }
    // The way to the outside; null until the first link has come.
    Wire* wire() { return wire_seen_.load(std::memory_order_acquire); }
    Wire& make_wire(TimerThread& timers);
    PortTable& tcp_ports() { return *tcp_; }
    PortTable& udp_ports() { return *udp_; }
    PortTable& udplite_ports() { return *udplite_; }
    PortTable& raw_sockets() { return *raw_; }
    PortTable& ping_ports() { return *ping_; }  // echo identifiers
    PortTable& ping6_ports() { return *ping6_; }
    Taps& taps() { return *taps_; }
    NetCounters& counters() { return *counters_; }
    // Packets that went over the loopback, `octets` with IP's headers.
    void count_loopback(bool v6, uint64_t octets, uint64_t packets = 1);
    // Makes the counters tell what open loopback connections have moved so far.
    void settle_loopback();
    // Those that were told, and those that links have learned.
    std::vector<Neighbour> neighbours();
    // TCP connections that no socket belongs to any more: in TIME_WAIT, or with an end still under way.
    struct Orphan {
        InetEndpoint local, peer;
        int state;  // as Linux numbers them
        int64_t left_ms;
    };
    std::vector<Orphan> orphans();

    // The texts of /proc/net/{unix,tcp,tcp6,udp,udp6}.
    // Groups that sockets have joined, counted; for the stack and /proc/net/igmp.
    void join_group(const InetAddress& group, int link);
    void leave_group(const InetAddress& group, int link);
    std::map<std::pair<int, InetAddress>, unsigned> groups();
    std::string unix_text();
    std::string tcp_text(bool v6);
    std::string udp_text(bool v6);

  private:
    const uint64_t cookie_;
    NetSettings settings_;
    HostSockets* host_ = nullptr;
    std::mutex mutex_;
    std::map<std::string, Ref<UnixName>, std::less<>> abstract_;  // guarded by mutex_
    std::set<UnixSocket*> unix_sockets_;                          // guarded by mutex_
    std::map<std::string, std::string> kept_settings_;            // guarded by mutex_; of known paths
    std::map<std::pair<int, InetAddress>, unsigned> groups_;      // guarded by mutex_
    const std::unique_ptr<Interfaces> interfaces_;
    const std::unique_ptr<NetlinkHub> netlink_;
    const std::unique_ptr<PortTable> tcp_, udp_, udplite_, raw_, ping_, ping6_;
    const std::unique_ptr<Taps> taps_;
    const std::unique_ptr<NetCounters> counters_;
    const Ref<LinkCounters> loopback_;
    std::unique_ptr<Wire> wire_;  // guarded by mutex_; made once
    std::atomic<Wire*> wire_seen_{nullptr};
};

// A pod's network namespace: its loopback is up.
Ref<NetworkNamespace> make_pod_network();
// Of the task's network namespace. In one that the application made, everything is down at first.
Ref<Network> network_of(Task& task);

}  // namespace casemate::sentry
