// TCP: a connection inside the pod is a StreamConnection between two sockets, with TCP's rules of ending and resetting
// on top; one to the outside is a connection of the stack (tcp_outside.cc). A listener accepts both.
#pragma once

#include <deque>

struct tcp_info;

#include "sentry/net/inet/error_queue.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/stack/stack.h"
#include "sentry/net/stream.h"

namespace casemate::sentry {

// What the two ends share. Side 0 connected, side 1 was accepted.
class TcpConnection final : public RefCounted {
  public:
    TcpConnection(Socket& side0, Socket& side1, Ref<Network> network)
        : bytes(side0.waiters(), side1.waiters()), network_(std::move(network)) {}
    ~TcpConnection() override { settle(); }
    // Counts what it has moved since the last time, as the loopback's.
    void settle();
    StreamConnection bytes;
    InetEndpoint ends[2];         // of side n; immutable
    std::atomic<size_t> room[2];  // of side n: how much it takes from the other
    // A reset that has reached side n and the error it left there.
    std::atomic<bool> reset[2] = {false, false};
    std::atomic<int> errors[2] = {0, 0};
    // Who ended its direction first; -1: nobody yet.
    std::atomic<int> first_end{-1};
    // The urgent byte that side n sent last: where it lies in the stream, and whether it is still to be read. One past
    // `mark` is not urgent any more.
    struct Urgent {
        std::atomic<bool> sent{false};  // ever: spares readers the lock
        SmallMutex mutex;
        bool valid = false, unread = false;  // guarded by mutex, as is all below
        uint64_t mark = 0;
        std::byte byte{};
    };
    Urgent urgent[2];

  private:
    const Ref<Network> network_;
    SmallMutex settled_mutex_;
    uint64_t settled_bytes_ = 0, settled_writes_ = 0;  // guarded by settled_mutex_
};

class TcpSocket final : public InetSocket, public stack::Listener {
  public:
    TcpSocket(int family, Ref<Network> network, uint32_t uid);

    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<void> listen(Task& task, int backlog) override;
    SysResult<Ref<Socket>> accept(Task& task, bool nonblocking) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    bool listening() override;
    uint32_t poll_events() override;
    SysResult<size_t> unread() override;
    SysResult<size_t> unsent() override;
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    void closed() override;
    Status status() override;
    void options_changed() override;

    // A connection that begins on the host (net/inet/host_connections.h): no task stands behind it, and nothing waits.
    // ECONNREFUSED.
    static SysResult<Ref<TcpSocket>> dial(Ref<Network> network, const InetEndpoint& peer);
    void settle_counters();
    struct Moved {
        size_t bytes = 0;
        bool over = false;   // no more will go this way
        bool reset = false;  // nor the other
    };
    Moved push(std::span<std::byte> bytes);
    Moved pull(std::span<std::byte> into);

    // As a listener of the stack.
    bool has_room() override;
    bool established(Ref<stack::Connection> connection) override;
    size_t receive_buffer() override;

  private:
    enum class State { kClosed, kListening, kConnecting, kConnected };

    struct Attached {
        Ref<TcpConnection> connection;  // null: not connected in the pod
        int side = 0;
        Ref<stack::Connection> outside;  // null: not connected, or connecting, to the outside
    };
    Attached attached();
    bool connected_once();
    // `client` gets a connection to a new socket in this listener's queue. Both mutexes held.
    void establish_locked(TcpSocket& client);
    // The next of those that wait for a place in the queue gets it.
    void admit_waiting();
    SysResult<void> start_connect(const InetEndpoint& peer, const InetAddress& source);
    SysResult<void> disconnect();
    void refused();
    void end_connection(const Attached& mine, bool abort);
    size_t send_limit(const Attached& mine);
    // Ends the direction that this side writes to.
    void end_outgoing(const Attached& mine);
    SysResult<size_t> receive_urgent(const Attached& mine, ReceiveRequest& request);
    // Before a read: how much may be read up to a mark (SIZE_MAX: no mark ahead); steps over an urgent byte.
    size_t up_to_mark(const Attached& mine, bool peek);
    void mark_urgent(const Attached& mine, uint64_t end, std::byte last);
    int take_connection_error(const Attached& mine);
    SysResult<size_t> write_after_end(Task& task, const Attached& mine, const SendRequest& request);
    int tcp_state(const Attached& mine);

    // tcp_outside.cc
    void tune(stack::Connection& connection);
    SysResult<void> start_outside(const InetEndpoint& peer, const RouteChoice& way);
    SysResult<void> finish_outside(stack::Connection& connection);
    SysResult<void> connect_outside(Task& task, const InetEndpoint& peer, const RouteChoice& way, bool nonblocking);
    SysResult<size_t> send_outside(Task& task, stack::Connection& connection, SendRequest& request);
    SysResult<size_t> receive_outside(Task& task, stack::Connection& connection, ReceiveRequest& request);
    void outside_info(stack::Connection& connection, tcp_info& info);

    // Guarded by mutex_:
    State state_ = State::kClosed;
    bool connect_untold_ = false;  // established, but the next connect() is still to hear of it
    bool told_ = false;            // a non-blocking connect() has answered EINPROGRESS
    bool closed_ = false;
    bool bound_by_connect_ = false;  // to an ephemeral port, for a connection to the outside
    size_t backlog_ = 0;
    std::deque<Ref<TcpSocket>> pending_;  // established, to be accepted
    std::deque<Ref<TcpSocket>> waiting_;  // connecting, no place in pending_ yet
    Ref<TcpSocket> target_;               // the listener whose waiting_ this is in

    ErrorQueue errors_;  // completions of MSG_ZEROCOPY
    SmallMutex attached_mutex_;
    Attached attached_;  // guarded by attached_mutex_
    std::atomic<bool> receive_shut_{false}, send_shut_{false};
    std::atomic<bool> buffers_chosen_{false};  // by SO_SNDBUF or SO_RCVBUF
    std::atomic<bool> send_buffer_chosen_{false}, receive_buffer_chosen_{false};
};

}  // namespace casemate::sentry
