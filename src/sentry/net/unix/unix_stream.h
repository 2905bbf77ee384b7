// Unix sockets with connections: SOCK_STREAM over a StreamConnection, SOCK_SEQPACKET over two PacketQueues.
#pragma once

#include <deque>

#include "sentry/net/packet_queue.h"
#include "sentry/net/stream.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {

// What two connected sockets share. Side 0 connected, side 1 was accepted.
class UnixConnection final : public RefCounted {
  public:
    UnixConnection(UnixSocket& side0, UnixSocket& side1);
    StreamConnection bytes;
    PacketQueue packets[2];      // [n]: what side n wrote
    Ref<SendBudget> budgets[2];  // of side n
    Ref<UnixName> names[2];      // of side n; immutable
    // The error that the end of a side leaves at the other, and whether a side asks for credentials.
    std::atomic<int> errors[2] = {0, 0};
    std::atomic<bool> wants_credentials[2] = {false, false};
};

class UnixStream final : public UnixSocket {
  public:
    UnixStream(int type, Ref<Network> network) : UnixSocket(type, std::move(network)) {}
    ~UnixStream() override;

    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<void> listen(Task& task, int backlog) override;
    SysResult<Ref<Socket>> accept(Task& task, bool nonblocking) override;
    SysResult<void> connect_pair(Task& task, Socket& other) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    bool listening() override;
    uint32_t poll_events() override;
    bool tells_at_once() const override { return !packets(); }
    Ref<OfferedRead> offer_read(size_t most, const OfferMaker& place) override;
    SysResult<size_t> unread() override;
    SysResult<size_t> unsent() override;
    void closed() override;
    void for_each_passed(const std::function<void(PassedFiles&)>& visit) override;
    void take_passed(std::vector<Ref<PassedFiles>>& into) override;
    int state_number() override;
    Diagnosis diagnosis() override;

  protected:
    bool has_messages() const override { return type() == SOCK_STREAM; }

  private:
    bool packets() const { return type() == SOCK_SEQPACKET; }
    // Null before it is connected; then the same for the rest of its life.
    UnixConnection* connection() const { return connection_.load(std::memory_order_acquire); }
    void attach_locked(const Ref<UnixConnection>& connection, int side);
    int take_connection_error(UnixConnection& connection);
    SysResult<size_t> send_bytes(Task& task, UnixConnection& connection, SendRequest& request);
    SysResult<size_t> send_packet(Task& task, UnixConnection& connection, SendRequest& request);
    SysResult<size_t> receive_bytes(Task& task, UnixConnection& connection, ReceiveRequest& request);
    SysResult<size_t> receive_packet(Task& task, UnixConnection& connection, ReceiveRequest& request);
    // Linux keeps one switch for "this side writes no more" and "the other side reads no more".
    void end_direction(UnixConnection& connection, int writer);
    bool ended(UnixConnection& connection, int writer);

    std::atomic<UnixConnection*> connection_{nullptr};  // an owned reference
    int side_ = 0;                                      // immutable once connection_ is set
    // Listening; guarded by mutex_:
    bool listening_ = false;
    bool closed_ = false;
    size_t backlog_ = 0;
    std::deque<Ref<UnixStream>> pending_;
    const Ref<SocketWaiters> room_ = make_ref<SocketWaiters>();  // connecters wait for a place in pending_
};

}  // namespace casemate::sentry
