// Raw sockets: whole packets of one protocol. What the pod sends to itself goes to all raw sockets of its protocol, and
// then to the protocol (ICMP's echoes are answered, UDP's datagrams delivered).
#pragma once

#include "sentry/net/inet/datagram_socket.h"

namespace casemate::sentry {

class RawSocket final : public DatagramSocket {
  public:
    RawSocket(int family, int protocol, Ref<Network> network, uint32_t uid);

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    SysResult<size_t> unsent() override { return size_t{0}; }

    // Whether a message of this ICMP type is kept away (ICMP_FILTER, ICMP6_FILTER).
    bool filters(uint8_t icmp_type);

  private:
    SysResult<void> bind_for_sending() override {
        TRY(ports().bind_raw(*this, any()));
        return {};
    }
    bool has_ports() const override { return false; }
    SysResult<size_t> send_with_header(SendRequest& request, size_t size);

    SmallMutex filter_mutex_;
    std::array<uint32_t, 8> filter_{};  // a bit per type that is kept away; guarded by filter_mutex_
};

}  // namespace casemate::sentry
