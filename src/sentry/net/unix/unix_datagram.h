// Unix datagram sockets: a queue per receiver. A sender waits for its own buffer (what it has under way everywhere) and
// for a place in the receiver's queue.
#pragma once

#include "sentry/net/packet_queue.h"
#include "sentry/net/unix/unix_socket.h"

namespace casemate::sentry {

class UnixDatagram final : public UnixSocket {
  public:
    explicit UnixDatagram(Ref<Network> network);

    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<void> connect_pair(Task& task, Socket& other) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> peer_address() override;
    uint32_t poll_events() override;
    SysResult<size_t> unread() override { return queue_.first_size(); }
    SysResult<size_t> unsent() override { return budget_->used(); }
    void closed() override;
    void for_each_passed(const std::function<void(PassedFiles&)>& visit) override { queue_.for_each_passed(visit); }
    void take_passed(std::vector<Ref<PassedFiles>>& into) override { queue_.take_passed(into); }
    int state_number() override { return peer() ? 3 : 1; }
    Diagnosis diagnosis() override;

  protected:
    bool has_messages() const override { return true; }

  private:
    // The other end's receiving part: held by those who are connected to it, without keeping the socket itself.
    struct Inbox final : RefCounted {
        std::mutex mutex;
        UnixDatagram* socket = nullptr;  // guarded by mutex; null once it is closed
        // Connected to it and told when there is room again.
        std::vector<Ref<SocketWaiters>> writers;  // guarded by mutex
        const Ref<SocketWaiters> room = make_ref<SocketWaiters>();
    };
    Ref<UnixDatagram> socket_of(Inbox& inbox);
    Ref<Inbox> peer();
    void set_peer(Ref<Inbox> peer);
    bool accepts_from(UnixDatagram& sender);
    bool full_for(UnixDatagram& sender);
    void made_room();

    static constexpr size_t kMostPackets = 513;  // net.unix.max_dgram_qlen and one
    const Ref<Inbox> inbox_ = make_ref<Inbox>();
    const Ref<SendBudget> budget_;
    PacketQueue queue_;
    Ref<Inbox> peer_;  // guarded by mutex_
    std::atomic<bool> receive_shut_{false}, send_shut_{false};
};

}  // namespace casemate::sentry
