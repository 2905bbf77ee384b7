// Ping sockets: ICMP echoes for those in net.ipv4.ping_group_range. The port is the echo's identifier.
#pragma once

#include "sentry/net/inet/datagram_socket.h"

namespace casemate::sentry {

class PingSocket final : public DatagramSocket {
  public:
    PingSocket(int family, Ref<Network> network, uint32_t uid);

    SysResult<size_t> send(Task& task, SendRequest& request) override;

  private:
    SysResult<void> bind_for_sending() override {
        TRY(ports().bind(*this, {any(), 0}));
        return {};
    }
    bool has_ports() const override { return false; }
};

}  // namespace casemate::sentry
