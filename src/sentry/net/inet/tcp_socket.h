// TCP inside the pod: a connection over the loopback is a StreamConnection between two sockets, with TCP's rules of
// ending and resetting on top.
#pragma once

#include <deque>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/stream.h"

namespace casemate::sentry {

// What the two ends share. Side 0 connected, side 1 was accepted.
class TcpConnection final : public RefCounted {
  public:
    TcpConnection(Socket& side0, Socket& side1) : bytes(side0.waiters(), side1.waiters()) {}
    StreamConnection bytes;
    InetEndpoint ends[2];         // of side n; immutable
    std::atomic<size_t> room[2];  // of side n: how much it takes from the other
    // A reset that has reached side n and the error it left there.
    std::atomic<bool> reset[2] = {false, false};
    std::atomic<int> errors[2] = {0, 0};
};

class TcpSocket final : public InetSocket {
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
    void closed() override;
    Status status() override;

  private:
    enum class State { kClosed, kListening, kConnecting, kConnected };

    struct Attached {
        Ref<TcpConnection> connection;  // null: not connected
        int side = 0;
    };
    Attached attached();
    // `client` gets a connection to a new socket in this listener's queue. Both mutexes held.
    void establish_locked(TcpSocket& client);
    // The next of those that wait for a place in the queue gets it.
    void admit_waiting();
    SysResult<void> start_connect(const InetEndpoint& peer, const InetAddress& source);
    SysResult<void> disconnect();
    void refused();
    void end_connection(const Attached& mine, bool abort);
    size_t send_limit(const Attached& mine);
    int take_connection_error(const Attached& mine);
    SysResult<size_t> write_after_end(Task& task, const Attached& mine, const SendRequest& request);
    int tcp_state(const Attached& mine);

    // Guarded by mutex_:
    State state_ = State::kClosed;
    bool connect_untold_ = false;  // established, but the next connect() is still to hear of it
    bool told_ = false;            // a non-blocking connect() has answered EINPROGRESS
    bool closed_ = false;
    size_t backlog_ = 0;
    std::deque<Ref<TcpSocket>> pending_;  // established, to be accepted
    std::deque<Ref<TcpSocket>> waiting_;  // connecting, no place in pending_ yet
    Ref<TcpSocket> target_;               // the listener whose waiting_ this is in

    SmallMutex attached_mutex_;
    Attached attached_;  // guarded by attached_mutex_
    std::atomic<bool> receive_shut_{false}, send_shut_{false};
    std::atomic<bool> buffers_chosen_{false};  // by SO_SNDBUF or SO_RCVBUF
};

}  // namespace casemate::sentry
