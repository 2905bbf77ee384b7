#include "sentry/net/network.h"

#include <fmt/core.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host/host_sockets.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/net_counters.h"
#include "sentry/net/netlink/netlink_hub.h"
#include "sentry/net/packet/taps.h"
#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/time_wait.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {

namespace {

uint64_t next_cookie() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

}  // namespace

Network::Network(bool ready)
    : cookie_(next_cookie()),
      interfaces_(std::make_unique<Interfaces>(ready)),
      netlink_(std::make_unique<NetlinkHub>(*interfaces_)),
      tcp_(std::make_unique<PortTable>()),
      udp_(std::make_unique<PortTable>()),
      udplite_(std::make_unique<PortTable>()),
      raw_(std::make_unique<PortTable>()),
      ping_(std::make_unique<PortTable>()),
      ping6_(std::make_unique<PortTable>()),
      taps_(std::make_unique<Taps>()),
      counters_(std::make_unique<NetCounters>()),
      loopback_(interfaces_->link(Interfaces::kLoopback)->counters) {}
Network::~Network() = default;

Wire& Network::make_wire(TimerThread& timers) {
    std::lock_guard lock(mutex_);
    if (!wire_) {
        wire_ = std::make_unique<Wire>(*this, timers);
        wire_seen_.store(wire_.get(), std::memory_order_release);
    }
    return *wire_;
}

void Network::count_loopback(bool v6, uint64_t octets, uint64_t packets) {
    loopback_->sent(octets, packets);
    loopback_->received(octets, packets);
    NetCounters::add(counters_->packets[v6], packets);
    NetCounters::add(counters_->octets[v6], octets);
}

void Network::settle_loopback() {
    tcp_->for_each([](InetSocket& socket) { static_cast<TcpSocket&>(socket).settle_counters(); });
}

std::vector<Neighbour> Network::neighbours() {
    std::vector<Neighbour> all = interfaces_->neighbours();
    if (wire() == nullptr) return all;
    for (const Neighbour& one : wire()->learned()) {
        bool told = std::ranges::any_of(
            all, [&](const Neighbour& other) { return other.link == one.link && other.address == one.address; });
        if (!told) all.push_back(one);
    }
    return all;
}

std::vector<Network::Orphan> Network::orphans() {
    std::vector<Orphan> all;
    Nanoseconds now = monotonic_now();
    for (const PortTable::Waiting& one : tcp_->waiting())
        all.push_back({one.local, one.peer, TCP_TIME_WAIT, (one.until - now) / 1'000'000});
    if (wire() == nullptr) return all;
    for (auto& rest : wire()->stack().time_waits())
        all.push_back({rest->tuple().local, rest->tuple().peer, TCP_TIME_WAIT, (rest->until() - now) / 1'000'000});
    auto connections = wire()->stack().connections();
    if (connections.empty()) return all;
    std::set<std::pair<InetEndpoint, InetEndpoint>> owned;
    tcp_->for_each([&](InetSocket& socket) {
        InetSocket::Status status = socket.status();
        owned.insert({status.local, status.peer});
    });
    for (auto& connection : connections) {
        const stack::Tuple& ends = connection->tuple();
        stack::TcpState state = connection->state();
        if (state == stack::TcpState::kClosed || owned.contains({ends.local, ends.peer})) continue;
        all.push_back({ends.local, ends.peer, static_cast<int>(state), 0});
    }
    return all;
}

bool Network::claim_abstract(const std::string& name, UnixName& owner) {
    std::lock_guard lock(mutex_);
    return abstract_.try_emplace(name, Ref<UnixName>(&owner)).second;
}

void Network::release_abstract(const std::string& name, UnixName& owner) {
    Ref<UnixName> dropped;
    std::lock_guard lock(mutex_);
    auto it = abstract_.find(name);
    if (it == abstract_.end() || it->second.get() != &owner) return;
    dropped = std::move(it->second);
    abstract_.erase(it);
}

Ref<UnixName> Network::find_abstract(const std::string& name) {
    std::lock_guard lock(mutex_);
    auto it = abstract_.find(name);
    return it == abstract_.end() ? nullptr : it->second;
}

void Network::add_unix(UnixSocket& socket) {
    std::lock_guard lock(mutex_);
    unix_sockets_.insert(&socket);
}
void Network::remove_unix(UnixSocket& socket) {
    std::lock_guard lock(mutex_);
    unix_sockets_.erase(&socket);
}

std::string Network::kept_setting(const std::string& path, const char* fallback) {
    std::lock_guard lock(mutex_);
    auto it = kept_settings_.find(path);
    return it == kept_settings_.end() ? fallback : it->second;
}
void Network::keep_setting(const std::string& path, std::string value) {
    std::lock_guard lock(mutex_);
    kept_settings_[path] = std::move(value);
}

void Network::join_group(const InetAddress& group, int link) {
    std::lock_guard lock(mutex_);
    groups_[{link, group}]++;
}
void Network::leave_group(const InetAddress& group, int link) {
    std::lock_guard lock(mutex_);
    auto it = groups_.find({link, group});
    if (it != groups_.end() && --it->second == 0) groups_.erase(it);
}
std::map<std::pair<int, InetAddress>, unsigned> Network::groups() {
    std::lock_guard lock(mutex_);
    return groups_;
}

std::vector<Ref<UnixSocket>> Network::unix_sockets() {
    std::vector<Ref<UnixSocket>> all;
    std::lock_guard lock(mutex_);
    for (UnixSocket* socket : unix_sockets_)
        if (socket->try_ref()) all.push_back(Ref<UnixSocket>::adopt(socket));
    return all;
}

std::string Network::unix_text() {
    std::vector<Ref<UnixSocket>> all = unix_sockets();
    std::string text = "Num       RefCount Protocol Flags    Type St Inode Path\n";
    for (auto& socket : all) {
        text +=
            fmt::format("{:016x}: {:08X} {:08X} {:08X} {:04X} {:02X} {:5}", 0, 2, 0, socket->listening() ? 0x10000 : 0,
                        socket->type(), socket->state_number(), socket->inode_number());
        if (Ref<UnixName> name = socket->name()) {
            text += ' ';
            for (char c : name->path()) text += c == 0 ? '@' : c;
        }
        text += '\n';
    }
    return text;
}

namespace {

std::string endpoint_text(const InetEndpoint& endpoint, bool v6) {
    // Words as they lie in memory, printed as numbers of this machine.
    uint32_t words[4];
    memcpy(words, endpoint.address.bytes.data(), sizeof(words));
    if (!v6) return fmt::format("{:08X}:{:04X}", endpoint.address.is_v4() ? words[3] : 0, endpoint.port);
    return fmt::format("{:08X}{:08X}{:08X}{:08X}:{:04X}", words[0], words[1], words[2], words[3], endpoint.port);
}

std::string table_text(PortTable& ports, bool v6, bool datagram) {
    std::string text;
    int line = 0;
    ports.for_each([&](InetSocket& socket) {
        if (socket.v6() != v6) return;
        InetSocket::Status status = socket.status();
        if (!datagram && status.state == TCP_CLOSE) return;  // at most its TIME_WAIT is shown
        text += fmt::format("{:4}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5}        0 {} ", line++,
                            endpoint_text(status.local, v6), endpoint_text(status.peer, v6), status.state,
                            status.sending, status.receiving, socket.uid(), socket.inode_number());
        text += datagram ? "2 0000000000000000 0\n" : "1 0000000000000000 100 0 0 10 0\n";
    });
    return text;
}

// In host network mode: what the host tells, else the pod's own.
std::string host_text(HostSockets& host, const char* title, bool v6, bool datagram) {
    using Table = HostSockets::Table;
    std::string text = host.table(datagram ? (v6 ? Table::kUdp6 : Table::kUdp) : (v6 ? Table::kTcp6 : Table::kTcp));
    if (!text.empty()) return text;
    text = title;
    int line = 0;
    for (const HostSockets::Status& one : host.list()) {
        if (one.v6 != v6 || one.stream == datagram) continue;
        text += fmt::format("{:4}: {} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5}        0 {} ", line++,
                            endpoint_text(one.local, v6), endpoint_text(one.peer, v6), one.state, one.sending,
                            one.receiving, one.uid, one.inode);
        text += datagram ? "2 0000000000000000 0\n" : "1 0000000000000000 100 0 0 10 0\n";
    }
    return text;
}

}  // namespace

std::string Network::tcp_text(bool v6) {
    const char* title = v6 ? "  sl  local_address                         remote_address                        st "
                             "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
                           : "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  "
                             "timeout inode                                                     \n";
    if (host_ != nullptr) return host_text(*host_, title, v6, false);
    std::string text = title + table_text(*tcp_, v6, false);
    auto line = std::ranges::count(text, '\n') - 1;
    for (const Orphan& one : orphans()) {
        if (one.local.address.is_v4() == v6) continue;
        bool waits = one.state == TCP_TIME_WAIT;
        text +=
            fmt::format("{:4}: {} {} {:02X} 00000000:00000000 {:02X}:{:08X} 00000000     0        0 0 {} {:016x}{}\n",
                        line++, endpoint_text(one.local, v6), endpoint_text(one.peer, v6), one.state, waits ? 3 : 0,
                        one.left_ms / 10, waits ? 3 : 1, 0, waits ? "" : " 100 0 0 10 0");
    }
    return text;
}

std::string Network::udp_text(bool v6) {
    const char* title = v6 ? "  sl  local_address                         remote_address                        st "
                             "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
                           : "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  "
                             "timeout inode ref pointer drops             \n";
    if (host_ != nullptr) return host_text(*host_, title, v6, true);
    return title + table_text(*udp_, v6, true);
}

Ref<NetworkNamespace> make_pod_network() {
    auto space = make_ref<NetworkNamespace>();
    space->state = Ref<RefCounted>(make_ref<Network>(true));
    return space;
}

Ref<Network> network_of(Task& task) {
    NetworkNamespace& space = *task.namespaces().network;
    std::lock_guard lock(space.mutex);
    if (!space.state) space.state = Ref<RefCounted>(make_ref<Network>(false));
    // SAFETY: nobody else hangs anything on a network namespace.
    return Ref<Network>(static_cast<Network*>(space.state.get()));
}

}  // namespace casemate::sentry
