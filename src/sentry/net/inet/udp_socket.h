// UDP (and UDP-Lite) inside the pod: a datagram goes into the queue of whoever is bound to its destination; without
// anybody there, a connected sender hears of it by its next call (ECONNREFUSED). A full queue drops, as UDP does.
#pragma once

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/packet_queue.h"

namespace casemate::sentry {

class UdpSocket final : public InetSocket {
  public:
    UdpSocket(int family, int protocol, Ref<Network> network, uint32_t uid);

    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    uint32_t poll_events() override;
    SysResult<size_t> unread() override { return queue_.first_size(); }
    void closed() override;
    Status status() override;

  private:
    // What the header's fields of a datagram will be: by option, or by a control message.
    SysResult<void> set_header(const SentControl* control, Packet& packet);
    void describe(const Packet& packet, ReceiveRequest& request);

    PacketQueue queue_;
    bool connected_ = false;         // guarded by mutex_
    bool bound_by_connect_ = false;  // guarded by mutex_
    InetAddress bound_address_;      // what bind() asked for, without a connection's choice; guarded by mutex_
    std::atomic<bool> receive_shut_{false}, send_shut_{false};
};

}  // namespace casemate::sentry
