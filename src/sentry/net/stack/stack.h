// Stack: TCP/IP over the links of a network namespace: everything between the sockets (net/inet/) and the frames of a
// Device. Loopback traffic never comes here.
//
// Trusts nobody on the wire. What strangers can make us keep is bounded: neighbours, fragments, half-open connections,
// out-of-order data, backlogs. The settings (addresses, routes) come from the namespace's model and are pushed as a
// whole, so that packets are routed by a snapshot.
//
// Threads: a link's receive thread calls input() with batches; applications' threads send; one alarm runs timers.
// Lock order:
//   a socket's mutex
//     Connection::mutex_
//       Stack's tables (a shard of connections, half-open, settings)
//         NeighbourTable::mutex_
//           TimerList::mutex_
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/stack/frame.h"
#include "sentry/net/stack/timers.h"

namespace casemate::sentry::stack {

class Connection;
class HalfOpenTable;
class Link;
class Reassembly;
class TimeWait;
struct TcpSegment;

struct AddressSetting {
    uint32_t link = 0;
    InetAddress address;
    uint8_t prefix = 128;   // bits of the 128-bit form: an IPv4 /24 is 120
    InetAddress broadcast;  // any: none
};
struct RouteSetting {
    InetAddress destination;
    uint8_t prefix = 0;  // as above
    uint32_t link = 0;
    InetAddress gateway;  // any: the destination is on the link
    InetAddress source;   // preferred; any: by address selection
    uint32_t metric = 0, mtu = 0;
};
struct Settings {
    std::vector<AddressSetting> addresses;
    std::vector<RouteSetting> routes;
};
// Where a packet leaves.
struct Egress {
    Ref<Link> link;
    InetAddress next_hop, source;
    uint32_t mtu = 0;
};

// A UDP datagram or another protocol's packet that came in.
struct InPacket {
    InetEndpoint from, to;
    uint8_t protocol = 0, hop_limit = 0, traffic_class = 0;
    uint32_t link = 0;
    Bytes payload;  // UDP: behind its header
    Bytes header;   // IPv4: the IP header, for raw sockets
};
// What a socket sends.
struct OutPacket {
    InetEndpoint from, to;
    uint8_t protocol = kUdp;  // kUdp: ports are set in a header made here
    uint8_t hop_limit = 64, traffic_class = 0;
    uint32_t link = 0;  // 0: by route
    bool dont_fragment = false;
    bool checksum = true;  // UDP over IPv4 may go without
    int checksum_at = -1;  // other protocols: where theirs is, summed with the pseudo-header
    bool whole = false;    // `payload` has its transport header, whatever the protocol
    Bytes payload;
};

// Who takes connections on a port.
class Listener {
  public:
    virtual ~Listener() = default;
    virtual bool has_room() = 0;
    // A connection is established. False: no room after all, or closed.
    virtual bool established(Ref<Connection> connection) = 0;
    virtual size_t receive_buffer() = 0;  // 0: tuned
};
struct FoundListener {
    Ref<RefCounted> owner;
    Listener* listener = nullptr;
};

// The sockets above, as the stack sees them. Any thread; none of the stack's locks held.
class Sockets {
  public:
    virtual ~Sockets() = default;
    virtual FoundListener tcp_listener(const InetEndpoint& to, const InetEndpoint& from, uint32_t link) = 0;
    virtual bool udp_input(const InPacket& packet) = 0;  // false: nobody is there
    virtual void udp_error(const InetEndpoint& local, const InetEndpoint& peer, int error) = 0;
    // Everything that is neither TCP nor UDP (ICMP after the stack's own part); true: somebody took it.
    virtual bool raw_input(const InPacket& packet) = 0;
    // net.ipv4.tcp_ecn. 0: no explicit congestion notification; 1: is asked for; 2: where the peer asks.
    virtual int ecn() { return 2; }
};

// What the stack needs of its surroundings; a test has its own time.
struct Surroundings {
    std::function<Nanoseconds()> now;
    std::function<void(Nanoseconds)> alarm;  // see TimerList
};

struct Tuple {  // a connection's ends
    InetEndpoint local, peer;
    friend bool operator==(const Tuple&, const Tuple&) = default;
};

// As Linux numbers them in /proc/net/snmp and netstat; a few that tell something.
struct FamilyCounters {
    std::atomic<uint64_t> in_packets{0}, in_discards{0}, in_bad_headers{0}, out_packets{0}, out_no_routes{0};
    std::atomic<uint64_t> reassembled{0}, reassembly_failed{0};
    std::atomic<uint64_t> udp_in{0}, udp_no_port{0}, udp_out{0};
    std::atomic<uint64_t> icmp_in{0}, icmp_out{0}, echos_in{0}, replies_in{0}, unreachable_in{0}, unreachable_out{0};
};
// TcpExt's that something here counts, in the order of kTcpEventNames (net/proc_counters.cc).
enum class TcpEvent : unsigned {
    kCookieConfirmed,
    kCookieRefused,
    kEmbryonicReset,
    kTimeWait,
    kOldTimestamp,
    kDelayedAck,
    kSackRecovery,
    kRenoRecovery,
    kFastRetransmission,
    kSlowRetransmission,
    kTimeout,
    kTailProbe,
    kOutOfOrder,
    kOutOfOrderDropped,
    kOutOfOrderMerged,
    kChallenge,
    kSynChallenge,
    kKeepAlive,
    kCount,
};

struct Counters {
    FamilyCounters family[2];  // IPv4, IPv6
    std::atomic<uint64_t> tcp_active_opens{0}, tcp_passive_opens{0}, tcp_failed{0}, tcp_resets_in{0}, tcp_resets_out{0};
    std::atomic<uint64_t> tcp_in{0}, tcp_out{0}, tcp_retransmitted{0}, tcp_bad{0}, syn_cookies{0};
    std::atomic<uint64_t> events[static_cast<unsigned>(TcpEvent::kCount)]{};
    std::atomic<uint64_t> marks[2][4]{};  // packets in, by family and their mark of congestion
    void happened(TcpEvent event) { events[static_cast<unsigned>(event)].fetch_add(1, std::memory_order_relaxed); }
};

class Stack final : public RefCounted {
  public:
    static constexpr size_t kMostConnections = 65536;
    // Of those in TIME_WAIT; beyond, they are forgotten at once, as by Linux.
    static constexpr size_t kMostTimeWait = 16384;

    Stack(Sockets& sockets, Surroundings surroundings);
    ~Stack() override;
    // Ends all connections and timers.
    void stop();

    // --- Links and settings ---
    // `device` outlives the link: until remove_link() has returned and nobody sends.
    Ref<Link> add_link(uint32_t index, const MacAddress& mac, uint32_t mtu, std::shared_ptr<Device> device,
                       Ref<LinkCounters> counters = make_ref<LinkCounters>());
    void remove_link(uint32_t index);
    Ref<Link> link(uint32_t index);
    void configure(Settings settings);
    bool is_local(const InetAddress& address);
    // The way to `to`; `from` is kept if it is set, `link` (0: any) is a wish of the socket. ENETUNREACH.
    SysResult<Egress> route(const InetAddress& to, const InetAddress& from, uint32_t link);
    uint32_t generation() const { return generation_.load(std::memory_order_acquire); }
    // Of a destination whose path takes less than the link: learned from ICMP.
    uint32_t path_mtu(const InetAddress& to, uint32_t mtu);

    // --- The device's side ---
    void input(Link& link, std::span<InFrame> frames);
    TimerList& timers() { return timers_; }
    void run_timers() { timers_.run(now()); }

    // --- The sockets' side ---
    // EMSGSIZE, ENETUNREACH, EHOSTUNREACH, ENOBUFS.
    SysResult<void> send(const OutPacket& packet);
    // Starts a connection; its end is told to `connection`'s waiters. EADDRNOTAVAIL: these two ends have one already.
    SysResult<void> connect(const Ref<Connection>& connection);
    bool has_connection(const Tuple& tuple);

    // --- For the parts of the stack ---
    Nanoseconds now() const { return surroundings_.now(); }
    Counters& counters() { return counters_; }
    Sockets& sockets() { return sockets_; }
    // Sends with the IP header that is made here; the frame holds Ethernet's and IP's room and what follows. For TCP
    // and whole packets. ENOBUFS: the device has no room now.
    SysResult<void> send_ip(const Egress& egress, const InetAddress& from, const InetAddress& to, uint8_t protocol,
                            uint8_t hop_limit, uint8_t traffic_class, OutFrame& frame);
    Ref<Connection> find_connection(const Tuple& tuple);
    bool add_connection(Connection& connection);
    void remove_connection(Connection& connection);
    // In the connection's place from now on. False: there are too many.
    bool replace_connection(Connection& connection, Ref<TimeWait> rest);
    void forget(TimeWait& rest);
    // True if the segment is for a connection whose time passes, and has been taken care of. False also for a SYN that
    // may open a new one instead.
    bool time_wait_input(TcpSegment& segment);
    // A keyed hash, different in each sandbox: initial sequence numbers, cookies, tables.
    uint64_t keyed_hash(const void* bytes, size_t size, uint64_t more = 0) const;
    uint32_t initial_sequence(const Tuple& tuple) const;
    // Answers a segment that belongs to nothing.
    void send_reset(const TcpSegment& segment);
    void send_tcp_bare(const Tuple& tuple, uint32_t link, uint32_t sequence, uint32_t acknowledged, uint8_t flags,
                       uint16_t window, Bytes options);
    HalfOpenTable& half_open() { return *half_open_; }
    // True if one more packet of its kind (resets, ICMP errors, challenge ACKs) may go now.
    bool within_rate(size_t kind);
    static constexpr size_t kRateReset = 0, kRateIcmp = 1, kRateChallenge = 2;
    std::vector<Ref<Connection>> connections();
    std::vector<Ref<TimeWait>> time_waits();
    // Nobody answers for `neighbour`: connections that are being made through it fail.
    void host_unreachable(Link& link, const InetAddress& neighbour);
    // Bytes of buffers beyond what every connection may have.
    std::atomic<size_t> extra_memory{0};
    static constexpr size_t kMostExtraMemory = 256 << 20;
    std::atomic<size_t> time_waiting{0};

  private:
    friend class Link;
    struct Batch;

    void ethernet_input(Link& link, InFrame& frame, Batch& batch);
    void arp_input(Link& link, Bytes packet);
    void ipv4_input(Link& link, InFrame& frame, size_t at, bool checked, Batch& batch);
    void ipv6_input(Link& link, InFrame& frame, size_t at, bool checked, Batch& batch);
    struct Delivery;
    void deliver(Delivery& packet, Batch& batch);
    void tcp_input(Delivery& packet, Batch& batch);
    void udp_input(Delivery& packet);
    void icmp_input(Delivery& packet);
    void icmp6_input(Delivery& packet);
    void ndp_input(Delivery& packet);
    void icmp_error_input(Bytes quoted, bool v6, int error, uint32_t mtu);
    // "Port unreachable" and so on about `packet`.
    void send_icmp_error(const Delivery& packet, uint8_t type, uint8_t code, uint32_t word);
    SysResult<void> send_fragments(const Egress& egress, const OutPacket& packet, Bytes transport, Bytes payload);
    void learn_path_mtu(const InetAddress& to, uint32_t mtu);

    struct Shard {
        std::mutex mutex;
        // By hash, with a reference; guarded by mutex.
        std::unordered_map<uint64_t, std::vector<Connection*>> connections;
        std::unordered_multimap<uint64_t, Ref<TimeWait>> time_waits;
    };
    static constexpr size_t kShards = 16;
    uint64_t hash_of(const Tuple& tuple) const;
    Ref<Connection> take_connection_locked(Shard& shard, uint64_t hash, Connection& connection);
    static TimeWait* time_wait_locked(Shard& shard, uint64_t hash, const Tuple& tuple);

    Sockets& sockets_;
    const Surroundings surroundings_;
    TimerList timers_;
    uint64_t key_[2];
    Counters counters_;

    std::shared_mutex settings_mutex_;
    std::vector<Ref<Link>> links_;  // guarded by settings_mutex_
    Settings settings_;             // guarded by settings_mutex_
    std::atomic<uint32_t> generation_{1};

    std::mutex path_mutex_;
    struct PathMtu {
        uint32_t mtu;
        Nanoseconds until;
    };
    std::map<InetAddress, PathMtu> path_mtus_;  // guarded by path_mutex_; bounded

    struct Rate {
        std::mutex mutex;
        Nanoseconds second = 0;
        unsigned count = 0;
    };
    Rate rates_[3];

    std::array<Shard, kShards> shards_;
    std::atomic<size_t> connection_count_{0};
    std::unique_ptr<HalfOpenTable> half_open_;
    std::unique_ptr<Reassembly> reassembly_;
    std::atomic<uint32_t> next_id_{1};
};

}  // namespace casemate::sentry::stack
