// Internet sockets: what TCP and UDP share: addresses, ports, the options of the IP and IPv6 levels.
//
// Where a destination is, the model of the interfaces says (net/interfaces.h). What is the pod's own never becomes
// packets: a TCP connection is a StreamConnection between two sockets, a UDP datagram goes into the receiver's queue.
// What is outside is reached through the stack (net/link/wire.h).
#pragma once

#include <map>

#include "sentry/net/inet/endpoint.h"
#include "sentry/net/inet/ports.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {

class InetSocket : public Socket {
  public:
    InetSocket(int family, int type, int protocol, Ref<Network> network, uint32_t uid);
    ~InetSocket() override;

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<SocketAddress> local_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;

    bool v6() const { return family() == AF_INET6; }
    bool v6_only() const { return v6_only_.load(std::memory_order_relaxed); }
    uint32_t uid() const { return uid_; }
    // Names under which keep_option() holds what has no number of its own.
    enum : int { kMulticastLink = 1000, kMulticastSource, kUnicastLink };
    // For /proc/net: state as Linux numbers TCP's, bytes that wait.
    struct Status {
        InetEndpoint local, peer;
        int state = 7;                      // TCP_CLOSE
        size_t sending = 0, receiving = 0;  // a listener: its backlog, the connections in it
        bool chose_port = true;             // the application did
        uint32_t drops = 0;
    };
    virtual Status status() = 0;

  protected:
    PortTable& ports();
    enum class Use { kBind, kConnect, kSend };
    // EINVAL, EAFNOSUPPORT, ENETUNREACH.
    SysResult<InetEndpoint> parse(const SocketAddress& address, Use use);
    // `link`: for the scope of a link-local address.
    SocketAddress format(const InetEndpoint& endpoint, int link = 0) const;
    // The link that a link-local address names; 0: none.
    static int scope_of(const SocketAddress& address);
    // The way to `destination`, in which the unspecified address becomes the loopback's; from `source` (any: to be
    // chosen) by `link` (0: any, or what SO_BINDTODEVICE says). ENETUNREACH and the like; EACCES: broadcast without
    // leave.
    SysResult<RouteChoice> route(InetAddress& destination, const InetAddress& source, int link = 0);
    InetAddress any() const { return v6() ? InetAddress() : InetAddress::v4(0); }

    // Options kept as numbers, because they have no effect on the loopback or are looked up where they have.
    int option(int level, int name, int fallback);
    void keep_option(int level, int name, int value);
    // An accepted connection starts with what its listener was told.
    void inherit_kept(InetSocket& from);
    // Some option has asked for control messages, at some time.
    bool asks_for_control() const { return asks_for_control_.load(std::memory_order_relaxed); }
    std::atomic<uint32_t> zero_copies_{0};  // sends with MSG_ZEROCOPY so far

    std::mutex mutex_;

  private:
    friend class PortTable;
    const uint32_t uid_;
    std::atomic<bool> v6_only_{false};
    SmallMutex kept_mutex_;
    std::map<std::pair<int, int>, int> kept_;  // guarded by kept_mutex_; known names only
    std::vector<std::byte> ip_options_;        // guarded by kept_mutex_
    std::atomic<bool> asks_for_control_{false};
    // The last way found, good until the interfaces change.
    struct Way {
        uint64_t generation = 0;
        InetAddress destination, source;
        int link = 0;
        RouteChoice choice;
    };
    SmallMutex way_mutex_;
    Way way_;  // guarded by way_mutex_

    // Guarded by PortTable::mutex_ (and mutex_ for change):
    bool bound_ = false;     // has a port
    bool accepted_ = false;  // shares its listener's
    bool listens_ = false;
    bool has_peer_ = false;
    bool chose_port_ = false;  // bound to a port that the application named

  protected:
    // Changed with PortTable::mutex_ and mutex_ both held; read with either.
    InetEndpoint local_, peer_;
    bool bound_locked() const { return bound_; }
};

SysResult<Ref<Socket>> create_inet_socket(Ref<Network> network, Task& task, int domain, int type, int protocol);

}  // namespace casemate::sentry
