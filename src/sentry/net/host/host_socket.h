// HostSocket: a socket of the host's network in a pod in host network mode (--net host). TCP, UDP and ICMP echo.
//
// The descriptor never blocks: what has to wait does so on the socket's own queue, which HostSockets' thread wakes.
// Addresses, options and control messages come from applications: addresses are judged by the host's kernel, options
// and control messages by a list (host_options.h) before it sees them.
#pragma once

#include "sentry/net/host/host_sockets.h"
#include "sentry/net/socket.h"

namespace casemate::sentry {

class HostSocket final : public Socket {
  public:
    HostSocket(int family, int type, int protocol, Ref<Network> network, HostSockets& host, UniqueFd fd, uint32_t uid);
    ~HostSocket() override;

    SysResult<void> bind(Task& task, const SocketAddress& address) override;
    SysResult<void> connect(Task& task, const SocketAddress& address, bool nonblocking) override;
    SysResult<void> listen(Task& task, int backlog) override;
    SysResult<Ref<Socket>> accept(Task& task, bool nonblocking) override;
    SysResult<size_t> send(Task& task, SendRequest& request) override;
    SysResult<size_t> receive(Task& task, ReceiveRequest& request) override;
    SysResult<void> shutdown(int how) override;
    SysResult<SocketAddress> local_address() override;
    SysResult<SocketAddress> peer_address() override;
    SysResult<bool> set_family_option(Task& task, int level, int name, std::span<const std::byte> value) override;
    SysResult<OptionBytes> get_family_option(Task& task, int level, int name, size_t room) override;
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    uint32_t poll_events() override;
    void closed() override;

    // Starts to hear of readiness.
    SysResult<void> watch();
    HostSockets::Status status();

  private:
    // By getsockname(2) or getpeername(2).
    SysResult<SocketAddress> address_by(int (*call)(int, sockaddr*, socklen_t*)) const;
    SysResult<size_t> send_stream(Task& task, SendRequest& request);
    SysResult<size_t> send_datagram(Task& task, SendRequest& request);
    SysResult<size_t> receive_once(ReceiveRequest& request, int flags);
    // One recvmsg of the host's into `pieces`.
    SysResult<size_t> receive_into(ReceiveRequest& request, std::span<iovec> pieces, int flags);

    HostSockets& host_;
    UniqueFd fd_;  // until closed(), after which there are no calls any more
    const uint32_t uid_;
    uint64_t watch_ = 0;
};

// As create_inet_socket().
SysResult<Ref<Socket>> create_host_socket(Ref<Network> network, Task& task, int domain, int type, int protocol);

}  // namespace casemate::sentry
