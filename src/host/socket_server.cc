#include "host/socket_server.h"

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <span>
#include <utility>

#include "host/seccomp_filter.h"
#include "linux/unix_message.h"

namespace casemate::host {

namespace {

SysResult<UniqueFd> make_socket(const SocketRequest& request) {
    if (!is_host_socket(request.family, request.type, request.protocol)) return Errno(EPERM);
    UniqueFd fd(::socket(request.family, request.type | SOCK_NONBLOCK | SOCK_CLOEXEC, request.protocol));
    if (!fd) return last_errno();
    return fd;
}

SysResult<void> bind_socket(const SocketRequest& request, int fd) {
    int family = 0;
    socklen_t size = sizeof(family);
    if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size) != 0) return last_errno();
    size_t expected = family == AF_INET ? sizeof(sockaddr_in) : family == AF_INET6 ? sizeof(sockaddr_in6) : 0;
    sa_family_t told = AF_UNSPEC;
    memcpy(&told, request.address, sizeof(told));
    if (expected == 0 || request.address_size != expected || told != family) return Errno(EINVAL);
    alignas(8) uint8_t address[sizeof(request.address)];
    memcpy(address, request.address, sizeof(address));
    // SAFETY: the way the C interface takes addresses.
    if (::bind(fd, reinterpret_cast<const sockaddr*>(address), request.address_size) != 0) return last_errno();
    return {};
}

SysResult<UniqueFd> ask(int channel, const SocketRequest& request, int passed) {
    auto bytes = std::as_bytes(std::span(&request, 1));
    TRY(linux::send_message(channel, bytes, std::span<const int>(&passed, passed >= 0 ? 1 : 0)));
    SocketReply reply;
    auto answer = TRY(linux::receive_message(channel, std::as_writable_bytes(std::span(&reply, 1)), 1));
    if (answer.size != sizeof(reply)) return Errno(EIO);  // it is gone
    if (reply.error != 0) return Errno(reply.error);
    if (answer.fds.empty()) return UniqueFd();
    return std::move(answer.fds[0]);
}

}  // namespace

bool is_host_socket(int family, int type, int protocol) {
    if (family != AF_INET && family != AF_INET6) return false;
    if (type == SOCK_STREAM) return protocol == 0 || protocol == IPPROTO_TCP;
    if (type != SOCK_DGRAM) return false;
    int echo = family == AF_INET ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6);
    return protocol == 0 || protocol == IPPROTO_UDP || protocol == echo;
}

Result<void> confine_socket_server() {
    SeccompFilter filter;
    for (int family : {AF_INET, AF_INET6})
        filter.allow_if(SYS_socket, {ArgCheck::equal32(0, static_cast<uint32_t>(family))});
    filter.allow_if(SYS_getsockopt, {ArgCheck::equal32(1, SOL_SOCKET), ArgCheck::equal32(2, SO_DOMAIN)});
    filter.allow_if(SYS_sendmsg, {ArgCheck::no_bits(2, MSG_FASTOPEN)});
    filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC)});
    filter.allow({SYS_bind, SYS_recvmsg, SYS_close, SYS_poll, SYS_brk, SYS_munmap, SYS_write, SYS_exit_group});
    return install_filter(TRY(filter.build()));
}

void serve_sockets(int channel) {
    while (true) {
        SocketRequest request;
        auto got = linux::receive_message(channel, std::as_writable_bytes(std::span(&request, 1)), 1);
        if (!got.ok() && (got.error().value == EINTR || got.error().value == EMSGSIZE)) continue;
        if (!got.ok() || got->size == 0) return;
        SocketReply reply{EINVAL};
        UniqueFd made;
        if (got->size == sizeof(request) && request.kind == SocketRequest::kMake && got->fds.empty()) {
            auto done = make_socket(request);
            reply.error = done.ok() ? 0 : done.error().value;
            if (done.ok()) made = std::move(*done);
        } else if (got->size == sizeof(request) && request.kind == SocketRequest::kBind && got->fds.size() == 1) {
            auto done = bind_socket(request, got->fds[0].get());
            reply.error = done.ok() ? 0 : done.error().value;
        }
        int passed = made.get();
        auto sent = linux::send_message(channel, std::as_bytes(std::span(&reply, 1)),
                                        std::span<const int>(&passed, made ? 1 : 0));
        if (!sent.ok()) return;
    }
}

SysResult<UniqueFd> ask_for_socket(int channel, int family, int type, int protocol) {
    SocketRequest request;
    request.kind = SocketRequest::kMake;
    request.family = family;
    request.type = type;
    request.protocol = protocol;
    auto made = TRY(ask(channel, request, -1));
    if (!made) return Errno(EMFILE);  // it was made, but there was no room for it here
    return made;
}

SysResult<void> ask_for_bind(int channel, int socket, const void* address, size_t size) {
    SocketRequest request;
    request.kind = SocketRequest::kBind;
    if (size > sizeof(request.address)) size = sizeof(request.address);
    request.address_size = static_cast<uint32_t>(size);
    memcpy(request.address, address, size);
    TRY(ask(channel, request, socket));
    return {};
}

}  // namespace casemate::host
