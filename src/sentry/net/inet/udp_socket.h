// UDP and UDP-Lite: a datagram for the pod itself goes into the queue of whoever is bound to its destination; without
// anybody there, the sender hears of it (ECONNREFUSED) if it is connected or asked for errors. A full queue drops. What
// is outside goes through the stack.
#pragma once

#include "sentry/net/inet/datagram_socket.h"

namespace casemate::sentry {

class UdpSocket final : public DatagramSocket {
  public:
    UdpSocket(int family, int protocol, Ref<Network> network, uint32_t uid);

    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;

    // A peer on the host (net/inet/host_datagrams.h): no task stands behind it, and nothing waits.
    static SysResult<Ref<UdpSocket>> dial(Ref<Network> network, const InetEndpoint& peer);
    // False: nobody is bound to the peer's port. What its queue has no room for is lost.
    bool push(std::span<const std::byte> datagram);
    std::optional<Packet> pull() { return queue_.take(); }

  private:
    SysResult<void> bind_for_sending() override {
        TRY(ports().bind(*this, {any(), 0}));
        return {};
    }
    SysResult<void> transmit(const Outgoing& out, Packet data);
    SysResult<void> send_outside(const Outgoing& out, const Packet& packet);
    SysResult<size_t> send_corked(SendRequest& request, size_t size, bool more);
    SysResult<void> uncork();

    std::mutex cork_mutex_;          // before mutex_
    std::vector<std::byte> corked_;  // guarded by cork_mutex_, as is corked_out_
    std::optional<Outgoing> corked_out_;
    std::atomic<bool> corking_{false};  // UDP_CORK, or something is held back
};

// Gives a datagram that is for the pod to its sockets; false if nobody takes it (and it was for one address).
bool deliver_datagram(PortTable& table, Packet& packet, uint8_t kind);

}  // namespace casemate::sentry
