// PortTable: which sockets of one protocol are bound to which port: conflicts, ephemeral ports, and who gets what comes
// in. It does not own sockets; they leave it before they die.
#pragma once

#include <deque>
#include <functional>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/net/inet/endpoint.h"

namespace casemate::sentry {

class InetSocket;

class PortTable {
  public:
    // Binds to `wanted` (port 0: an ephemeral one); the port. EADDRINUSE.
    SysResult<uint16_t> bind(InetSocket& socket, const InetEndpoint& wanted);
    // For a connection: an ephemeral port for `local`'s address that nobody has together with `peer`. EADDRNOTAVAIL.
    SysResult<uint16_t> bind_ephemeral(InetSocket& socket, const InetAddress& local, const InetEndpoint& peer);
    // An accepted connection shares its listener's port.
    void add_accepted(InetSocket& socket, const InetEndpoint& local, const InetEndpoint& peer);
    void set_peer(InetSocket& socket, const InetEndpoint& local, const InetEndpoint& peer);
    // Makes a bound TCP socket a listener: EADDRINUSE if another one that does not share the port is.
    SysResult<void> listen(InetSocket& socket);
    void release(InetSocket& socket);

    // TIME_WAIT: the end of a connection that closed first keeps its port for a while from those who do not say that
    // they reuse it. `reuse`: it did.
    struct Waiting {
        InetEndpoint local, peer;
        bool reuse;
        Nanoseconds until;
    };
    void add_waiting(const InetEndpoint& local, const InetEndpoint& peer, bool reuse);
    void drop_waiting(const InetEndpoint& local, const InetEndpoint& peer);
    std::vector<Waiting> waiting();

    // Who gets what comes for `to` from `from`: a TCP listener, or (`datagram`) a UDP socket. Null: nobody.
    // `link`: that it came by, for sockets bound to one.
    Ref<InetSocket> find(const InetEndpoint& to, const InetEndpoint& from, bool datagram, int link);
    // Everybody who gets what comes for a group or to all.
    std::vector<Ref<InetSocket>> find_all(const InetEndpoint& to, const InetEndpoint& from, int link);
    // Raw sockets: no ports (all are at 0), no conflicts. Also changes the address of one that is there.
    SysResult<void> bind_raw(InetSocket& socket, const InetAddress& local);
    std::vector<Ref<InetSocket>> find_raw(int protocol, const InetAddress& to, const InetAddress& from, int link);
    // The ports on which somebody waits for strangers and is reached by 127.0.0.1 or ::1, the lowest `most` of them: a
    // TCP listener, or a UDP socket that is not connected and whose port its application chose.
    struct Reached {
        uint16_t port;
        bool v4, v6;
        bool any4, any6;  // by every other address of the family, too
    };
    std::vector<Reached> loopback_listeners(size_t most);
    // Another number after each change of who listens, of which the queue tells.
    uint64_t listener_generation() const { return listener_generation_.load(std::memory_order_acquire); }
    WaitQueue& listener_changes() { return listener_changes_; }
    bool empty();
    void for_each(const std::function<void(InetSocket&)>& visit);

  private:
    static constexpr Nanoseconds kTimeWait = 60 * kSecond;
    static constexpr size_t kMostWaiting = 8192;  // net.ipv4.tcp_max_tw_buckets, in small
    bool waits_locked(InetSocket& socket, const InetEndpoint& wanted);
    bool conflicts_locked(InetSocket& socket, const InetEndpoint& wanted);
    void insert_locked(InetSocket& socket, const InetEndpoint& local);

    static bool serves_locked(const InetSocket& socket);
    void listeners_changed_locked();

    std::mutex mutex_;
    std::atomic<uint64_t> listener_generation_{1};
    WaitQueue listener_changes_;
    std::unordered_map<uint16_t, std::vector<InetSocket*>> by_port_;  // guarded by mutex_
    std::deque<Waiting> waiting_;                                     // guarded by mutex_; by `until`
    uint32_t next_ = 0;                                               // guarded by mutex_
};

}  // namespace casemate::sentry
