// Moving data through host sockets: straight between the host's socket and application memory that the sentry maps,
// through a buffer where it does not.
#include <netinet/in.h>

#include <algorithm>
#include <array>

#include "sentry/kernel/task.h"
#include "sentry/net/host/host_options.h"
#include "sentry/net/host/host_socket.h"

namespace casemate::sentry {

namespace {

constexpr size_t kPieces = 64;
constexpr size_t kMostDatagram = 65'535;
constexpr size_t kBounce = 64 << 10;
constexpr size_t kMostControl = 1024;
constexpr int kSendFlags = MSG_OOB | MSG_MORE | MSG_EOR | MSG_CONFIRM | MSG_DONTROUTE;
constexpr int kReceiveFlags = MSG_OOB | MSG_PEEK | MSG_TRUNC | MSG_ERRQUEUE;
constexpr int kToldFlags = MSG_OOB | MSG_TRUNC | MSG_CTRUNC | MSG_EOR | MSG_ERRQUEUE;

// What of an application's control messages goes along; of a stream, as on Linux, nothing.
SysResult<std::vector<std::byte>> host_control(const SendRequest& request) {
    std::vector<std::byte> bytes;
    if (request.control == nullptr) return bytes;
    for (const SentControl::Other& one : request.control->others) {
        size_t size = host_control_size(one.level, one.type);
        if (size == 0 || one.data.size() != size) return Errno(EINVAL);
        if (bytes.size() + CMSG_SPACE(size) > kMostControl) return Errno(ENOBUFS);
        cmsghdr header{};
        header.cmsg_level = one.level;
        header.cmsg_type = one.type;
        header.cmsg_len = CMSG_LEN(size);
        size_t at = bytes.size();
        bytes.resize(at + CMSG_SPACE(size));
        memcpy(bytes.data() + at, &header, sizeof(header));
        memcpy(bytes.data() + at + CMSG_LEN(0), one.data.data(), size);
    }
    return bytes;
}

}  // namespace

SysResult<size_t> HostSocket::send(Task& task, SendRequest& request) {
    if (request.flags & MSG_FASTOPEN && type() == SOCK_STREAM) TRY(connect_to_send(task, request));
    auto sent = type() == SOCK_STREAM ? send_stream(task, request) : send_datagram(task, request);
    if (!sent.ok() && sent.error().value == EPIPE && !(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
    return sent;
}

SysResult<size_t> HostSocket::send_stream(Task& task, SendRequest& request) {
    int flags = (request.flags & kSendFlags) | MSG_DONTWAIT | MSG_NOSIGNAL;
    size_t total = 0;
    std::vector<std::byte> bounce;
    auto attempt = [&]() -> std::optional<SysResult<size_t>> {
        do {
            std::array<iovec, kPieces> pieces;
            auto found = request.data.host_pieces(pieces, false);
            if (!found.ok()) return SysResult<size_t>(found.error());
            msghdr message{};
            iovec single;
            message.msg_iov = pieces.data();
            message.msg_iovlen = found->count;
            bool copied = found->count == 0 && request.data.remaining() > 0;
            if (copied) {
                // What was copied stays until the host has taken it: the buffer goes on behind it.
                request.data.release();
                if (bounce.empty()) {
                    bounce.resize(std::min(request.data.remaining(), kBounce));
                    auto got = request.data.copy_from(bounce.data(), bounce.size());
                    if (!got.ok()) return SysResult<size_t>(got.error());
                    bounce.resize(*got);
                }
            }
            if (!bounce.empty()) {
                if (!copied) request.data.release();
                single = {bounce.data(), bounce.size()};
                message.msg_iov = &single;
                message.msg_iovlen = 1;
            }
            ssize_t n = ::sendmsg(fd_.get(), &message, flags);
            if (n < 0) {
                Errno error = last_errno();
                request.data.release();
                if (error.value == EAGAIN) return std::nullopt;
                return SysResult<size_t>(error);
            }
            if (bounce.empty())
                request.data.advance(static_cast<size_t>(n));
            else
                bounce.erase(bounce.begin(), bounce.begin() + n);
            total += static_cast<size_t>(n);
        } while (request.data.remaining() > 0 || !bounce.empty());
        return SysResult<size_t>(total);
    };
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, attempt);
    if (!result.ok() && total > 0) return total;
    return result;
}

SysResult<size_t> HostSocket::send_datagram(Task& task, SendRequest& request) {
    int flags = (request.flags & kSendFlags) | MSG_DONTWAIT | MSG_NOSIGNAL;
    size_t size = request.data.remaining();
    if (size > kMostDatagram) return Errno(EMSGSIZE);
    auto control = TRY(host_control(request));
    std::vector<std::byte> bounce;
    return block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                 options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                     msghdr message{};
                     if (request.to != nullptr) {
                         message.msg_name = const_cast<std::byte*>(request.to->bytes);
                         message.msg_namelen = static_cast<socklen_t>(request.to->size);
                     }
                     message.msg_control = control.empty() ? nullptr : control.data();
                     message.msg_controllen = control.size();
                     std::array<iovec, kPieces> pieces;
                     iovec single;
                     if (bounce.empty() && size > 0) {
                         auto found = request.data.host_pieces(pieces, false);
                         if (!found.ok()) return SysResult<size_t>(found.error());
                         message.msg_iov = pieces.data();
                         message.msg_iovlen = found->count;
                         if (found->bytes != size) {
                             request.data.release();
                             bounce.resize(size);
                             auto got = request.data.copy_from(bounce.data(), size);
                             if (!got.ok()) return SysResult<size_t>(got.error());
                             if (*got != size) return SysResult<size_t>(Errno(EFAULT));
                         }
                     }
                     if (!bounce.empty()) {
                         single = {bounce.data(), size};
                         message.msg_iov = &single;
                         message.msg_iovlen = 1;
                     }
                     ssize_t n = ::sendmsg(fd_.get(), &message, flags);
                     Errno error = n < 0 ? last_errno() : Errno(0);
                     request.data.release();
                     if (n >= 0) return SysResult<size_t>(static_cast<size_t>(n));
                     if (error.value == EAGAIN) return std::nullopt;
                     return SysResult<size_t>(error);
                 });
}

SysResult<size_t> HostSocket::receive_into(ReceiveRequest& request, std::span<iovec> pieces, int flags) {
    alignas(cmsghdr) std::byte control[kMostControl];
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    if (request.from != nullptr) {
        message.msg_name = request.from->bytes;
        message.msg_namelen = sizeof(request.from->bytes);
    }
    if (request.control != nullptr) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
    }
    ssize_t n = ::recvmsg(fd_.get(), &message, flags);
    if (n < 0) return last_errno();
    if (request.from != nullptr)
        request.from->size = std::min<size_t>(message.msg_namelen, sizeof(request.from->bytes));
    request.out_flags = message.msg_flags & kToldFlags;
    if (request.control == nullptr) request.out_flags &= ~MSG_CTRUNC;
    for (cmsghdr* one = request.control != nullptr ? CMSG_FIRSTHDR(&message) : nullptr; one != nullptr;
         one = CMSG_NXTHDR(&message, one)) {
        if (!is_host_control(one->cmsg_level, one->cmsg_type) || one->cmsg_len < CMSG_LEN(0)) continue;
        // SAFETY: bytes as bytes.
        const auto* data = reinterpret_cast<const std::byte*>(CMSG_DATA(one));
        request.control->items.push_back(
            {one->cmsg_level, one->cmsg_type, {data, data + (one->cmsg_len - CMSG_LEN(0))}});
    }
    return static_cast<size_t>(n);
}

SysResult<size_t> HostSocket::receive_once(ReceiveRequest& request, int flags) {
    bool stream = type() == SOCK_STREAM;
    size_t wanted = request.data.remaining();
    std::array<iovec, kPieces> pieces;
    auto found = TRY(request.data.host_pieces(pieces, true));
    // A datagram comes at once or is lost in part.
    if (wanted == 0 || (found.count > 0 && (stream || found.bytes >= std::min(wanted, kMostDatagram)))) {
        auto got = receive_into(request, std::span(pieces.data(), found.count), flags);
        if (!got.ok() || (stream && flags & MSG_TRUNC)) {
            request.data.release();
            return got;
        }
        request.data.advance(std::min(*got, found.bytes));
        return got;
    }
    request.data.release();
    std::vector<std::byte> bounce(std::min(wanted, kBounce));
    iovec single{bounce.data(), bounce.size()};
    size_t got = TRY(receive_into(request, std::span(&single, 1), flags));
    if (stream && flags & MSG_TRUNC) return got;
    size_t present = std::min(got, bounce.size());
    size_t copied = present > 0 ? TRY(request.data.copy_to(bounce.data(), present)) : 0;
    return copied < present ? copied : got;
}

SysResult<size_t> HostSocket::receive(Task& task, ReceiveRequest& request) {
    int flags = (request.flags & kReceiveFlags) | MSG_DONTWAIT;
    bool stream = type() == SOCK_STREAM;
    // What else than data comes is there or is not.
    bool at_once = request.flags & (MSG_DONTWAIT | MSG_ERRQUEUE) || (stream && request.flags & MSG_OOB);
    bool all = stream && request.flags & MSG_WAITALL && !(request.flags & (MSG_PEEK | MSG_TRUNC | MSG_OOB));
    size_t total = 0;
    auto attempt = [&]() -> std::optional<SysResult<size_t>> {
        do {
            auto got = receive_once(request, flags);
            if (!got.ok()) {
                if (got.error().value == EAGAIN) return std::nullopt;
                return SysResult<size_t>(got.error());
            }
            total += *got;
            if (*got == 0) break;
        } while (all && request.data.remaining() > 0);
        return SysResult<size_t>(total);
    };
    auto result = block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, at_once,
                        options_.receive_timeout, attempt);
    if (!result.ok() && total > 0) return total;
    return result;
}

}  // namespace casemate::sentry
