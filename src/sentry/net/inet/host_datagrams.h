// The UDP peers of HostConnections: what sends to 127.0.0.1 on the host's side of the pod's network namespace.
#pragma once

#include <string>
#include <vector>

#include "sentry/net/inet/host_passage.h"
#include "sentry/net/inet/udp_socket.h"

namespace casemate::sentry {

// One peer: a socket of the host's that is connected to it, and one of the pod's that is connected to the port that it
// wants. Ends when neither says anything for a while, or one of them hears that the other is not there.
class HostDatagrams final : public HostPassage {
  public:
    // `first`: what the peer has sent already.
    HostDatagrams(UniqueFd host, Ref<UdpSocket> client, Doorbell& bell, std::vector<std::string> first);
    ~HostDatagrams() override;

    pollfd wanted() const override;
    bool step(short events, std::span<std::byte> scratch) override;
    Deadline look_again() const override { return more_ ? 0 : last_used_ + timeout_; }
    Deadline last_used() const override { return last_used_; }

  private:
    bool to_guest(std::span<std::byte> scratch);
    bool to_host();

    const UniqueFd host_;
    const Ref<UdpSocket> client_;
    Ring ring_;
    std::vector<std::string> first_;
    std::optional<Packet> held_;  // for which the host had no room
    bool more_ = false;           // stopped for the others' sake
    Nanoseconds last_used_ = monotonic_now(), timeout_;
};

}  // namespace casemate::sentry
