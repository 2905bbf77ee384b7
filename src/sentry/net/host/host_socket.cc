// Making, naming, connecting and options of host sockets. Data is moved in host_socket_data.cc.
#include "sentry/net/host/host_socket.h"

#include <linux/capability.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "host/socket_server.h"
#include "sentry/kernel/task.h"
#include "sentry/net/host/host_options.h"
#include "sentry/net/interface_ioctl.h"

namespace casemate::sentry {

namespace {

constexpr int kLastPrivilegedPort = 1023;
constexpr size_t kMostAnswer = 512;  // bytes of an option that is read

// SAFETY: the way the C interface takes addresses.
const sockaddr* raw(const SocketAddress& address) { return reinterpret_cast<const sockaddr*>(address.bytes); }

int port_of(const SocketAddress& address) {
    if (address.family() == AF_INET) return ntohs(address.as<sockaddr_in>().sin_port);
    if (address.family() == AF_INET6) return ntohs(address.as<sockaddr_in6>().sin6_port);
    return 0;
}

std::optional<InetEndpoint> endpoint_of(const SocketAddress& address) {
    if (address.family() == AF_INET) {
        auto v4 = address.as<sockaddr_in>();
        return InetEndpoint{InetAddress::v4(ntohl(v4.sin_addr.s_addr)), ntohs(v4.sin_port)};
    }
    if (address.family() == AF_INET6) {
        auto v6 = address.as<sockaddr_in6>();
        return InetEndpoint{InetAddress::v6(v6.sin6_addr), ntohs(v6.sin6_port)};
    }
    return std::nullopt;
}

}  // namespace

HostSocket::HostSocket(int family, int type, int protocol, Ref<Network> network, HostSockets& host, UniqueFd fd,
                       uint32_t uid)
    : Socket(family, type, protocol, std::move(network)), host_(host), fd_(std::move(fd)), uid_(uid) {
    host_.add(*this);
}

HostSocket::~HostSocket() {
    if (fd_) closed();  // never had a file
}

SysResult<void> HostSocket::watch() {
    watch_ = TRY(host_.watch(fd_.get(), waiters()));
    return {};
}

void HostSocket::closed() {
    host_.forget(*this);
    if (watch_ != 0) host_.remove(watch_, fd_.get());
    fd_.reset();
}

SysResult<void> HostSocket::bind(Task& task, const SocketAddress& address) {
    if (::bind(fd_.get(), raw(address), static_cast<socklen_t>(address.size)) == 0) return {};
    Errno error = last_errno();
    int port = port_of(address);
    if (error.value != EACCES || port == 0 || port > kLastPrivilegedPort) return error;
    // The sentry has no privilege at all.
    if (!task.has_capability(CAP_NET_BIND_SERVICE)) return error;
    size_t exact = family() == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (address.size < exact) return Errno(EINVAL);
    return host_.bind(fd_.get(), address.bytes, exact);
}

SysResult<void> HostSocket::connect(Task& task, const SocketAddress& address, bool nonblocking) {
    bool waiting = false;
    auto done = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, nonblocking, options_.send_timeout,
                      [&]() -> std::optional<SysResult<void>> {
                          if (::connect(fd_.get(), raw(address), static_cast<socklen_t>(address.size)) == 0)
                              return SysResult<void>();
                          Errno error = last_errno();
                          bool pending = error.value == EINPROGRESS || error.value == EALREADY;
                          if (!pending || nonblocking) return SysResult<void>(error);
                          waiting = true;
                          return std::nullopt;
                      });
    // As Linux when SO_SNDTIMEO is over.
    if (!done.ok() && done.error().value == EAGAIN && waiting) return Errno(EINPROGRESS);
    return done;
}

SysResult<void> HostSocket::listen(Task&, int backlog) {
    if (::listen(fd_.get(), backlog) != 0) return last_errno();
    return {};
}

SysResult<Ref<Socket>> HostSocket::accept(Task& task, bool nonblocking) {
    UniqueFd fd = TRY(block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP, nonblocking,
                            options_.receive_timeout, [&]() -> std::optional<SysResult<UniqueFd>> {
                                UniqueFd got(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
                                if (got) return SysResult<UniqueFd>(std::move(got));
                                if (errno == EAGAIN) return std::nullopt;
                                return SysResult<UniqueFd>(last_errno());
                            }));
    auto accepted = make_ref<HostSocket>(family(), type(), protocol(), network_, host_, std::move(fd), uid_);
    TRY(accepted->watch());
    accepted->inherit_options(*this);
    return Ref<Socket>(std::move(accepted));
}

SysResult<void> HostSocket::shutdown(int how) {
    if (::shutdown(fd_.get(), how) != 0) return last_errno();
    waiters()->everything();
    return {};
}

SysResult<SocketAddress> HostSocket::address_by(int (*call)(int, sockaddr*, socklen_t*)) const {
    SocketAddress address;
    socklen_t size = sizeof(address.bytes);
    // SAFETY: as above.
    if (call(fd_.get(), reinterpret_cast<sockaddr*>(address.bytes), &size) != 0) return last_errno();
    address.size = std::min<size_t>(size, sizeof(address.bytes));
    return address;
}

SysResult<SocketAddress> HostSocket::local_address() { return address_by(::getsockname); }

SysResult<SocketAddress> HostSocket::peer_address() { return address_by(::getpeername); }

SysResult<bool> HostSocket::set_family_option(Task&, int level, int name, std::span<const std::byte> value) {
    if (level == SOL_SOCKET) {
        switch (name) {
            case SO_RCVTIMEO_OLD:
            case SO_RCVTIMEO_NEW:
            case SO_SNDTIMEO_OLD:
            case SO_SNDTIMEO_NEW:
                return false;  // waiting is the sentry's own
            case SO_LINGER: {
                // The host would wait in close(), where no signal reaches it: only "reset at once" goes there.
                auto wanted = TRY(option_value<linger>(value));
                linger told{wanted.l_onoff != 0 && wanted.l_linger == 0, 0};
                if (::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &told, sizeof(told)) != 0) return last_errno();
                return false;  // and is kept
            }
            case SO_MARK:
            case SO_SNDBUFFORCE:
            case SO_RCVBUFFORCE:
            case SO_DEBUG:
            case SO_BUSY_POLL:
                return Errno(EPERM);
            case SO_PASSCRED:
                return Errno(EOPNOTSUPP);
            default:
                break;
        }
    }
    const HostOption* known = find_host_option(level, name);
    if (known == nullptr || !known->settable) return Errno(ENOPROTOOPT);
    if (value.size() < known->least) return Errno(EINVAL);
    // The host's kernel reads no more than it needs of what is longer; so much is never needed.
    auto size = static_cast<socklen_t>(std::min<size_t>(value.size(), known->most));
    if (::setsockopt(fd_.get(), level, name, value.data(), size) != 0) return last_errno();
    return true;
}

SysResult<OptionBytes> HostSocket::get_family_option(Task&, int level, int name, size_t room) {
    if (level == SOL_SOCKET) {
        switch (name) {
            case SO_RCVTIMEO_OLD:
            case SO_RCVTIMEO_NEW:
            case SO_SNDTIMEO_OLD:
            case SO_SNDTIMEO_NEW:
            case SO_LINGER:
            case SO_COOKIE:
            case SO_NETNS_COOKIE:
                return OptionBytes();
            default:
                break;
        }
    }
    const HostOption* known = find_host_option(level, name);
    if (known == nullptr || !known->readable) return Errno(ENOPROTOOPT);
    std::vector<std::byte> answer(std::min(room, kMostAnswer));
    auto size = static_cast<socklen_t>(answer.size());
    if (::getsockopt(fd_.get(), level, name, answer.data(), &size) != 0) return last_errno();
    answer.resize(std::min<size_t>(size, answer.size()));
    return OptionBytes(std::move(answer));
}

SysResult<int64_t> HostSocket::ioctl(Task& task, uint64_t command, uint64_t argument) {
    switch (command) {
        case FIONREAD:
        case SIOCOUTQ:
        case SIOCATMARK: {
            int32_t number = 0;
            if (::ioctl(fd_.get(), command, &number) != 0) return last_errno();
            TRY(task.write(UserPtr<int32_t>(argument), number));
            return 0;
        }
        default:
            return Socket::ioctl(task, command, argument);
    }
}

uint32_t HostSocket::poll_events() {
    pollfd one{fd_.get(), POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM | POLLRDBAND, 0};
    if (::poll(&one, 1, 0) < 0) return 0;
    return static_cast<uint16_t>(one.revents);
}

HostSockets::Status HostSocket::status() {
    HostSockets::Status status;
    status.v6 = family() == AF_INET6;
    status.stream = type() == SOCK_STREAM;
    status.uid = uid_;
    status.inode = inode_number();
    InetAddress any = status.v6 ? InetAddress() : InetAddress::v4(0);
    status.local = status.peer = {any, 0};
    auto local = local_address(), peer = peer_address();
    if (local.ok()) status.local = endpoint_of(*local).value_or(status.local);
    if (peer.ok()) status.peer = endpoint_of(*peer).value_or(status.peer);
    if (!status.stream) {
        if (peer.ok()) status.state = 1;  // TCP_ESTABLISHED, as Linux calls it
    } else {
        tcp_info info{};
        socklen_t size = sizeof(info);
        if (::getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &size) == 0) status.state = info.tcpi_state;
    }
    int number = 0;
    constexpr int kListening = 10;
    if (status.state != kListening && ::ioctl(fd_.get(), FIONREAD, &number) == 0)
        status.receiving = static_cast<uint32_t>(std::max(number, 0));
    if (status.state != kListening && ::ioctl(fd_.get(), SIOCOUTQ, &number) == 0)
        status.sending = static_cast<uint32_t>(std::max(number, 0));
    return status;
}

SysResult<Ref<Socket>> create_host_socket(Ref<Network> network, Task& task, int domain, int type, int protocol) {
    constexpr int kProtocols = 256;
    if (protocol < 0 || protocol >= kProtocols) return Errno(EINVAL);
    if (type == SOCK_RAW) return Errno(protocol == 0 ? EPROTONOSUPPORT : EPERM);
    if (type != SOCK_STREAM && type != SOCK_DGRAM) return Errno(ESOCKTNOSUPPORT);
    if (!host::is_host_socket(domain, type, protocol)) return Errno(EPROTONOSUPPORT);
    HostSockets& host = *network->host();
    UniqueFd fd = TRY(host.make(domain, type, protocol));
    if (protocol == 0) protocol = type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
    auto socket =
        make_ref<HostSocket>(domain, type, protocol, std::move(network), host, std::move(fd), task.credentials().fsuid);
    TRY(socket->watch());
    return Ref<Socket>(std::move(socket));
}

}  // namespace casemate::sentry
