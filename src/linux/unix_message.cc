#include "linux/unix_message.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

namespace casemate::linux {

SysResult<void> send_message(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
    if (fds.size() > kMaxMessageFds) return Errno(EINVAL);
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxMessageFds * sizeof(int))];
    bool first = true;
    do {
        iovec iov = {const_cast<std::byte*>(bytes.data()), bytes.size()};
        msghdr message = {};
        message.msg_iov = &iov;
        message.msg_iovlen = 1;
        if (first && !fds.empty()) {
            message.msg_control = control;
            message.msg_controllen = CMSG_SPACE(fds.size_bytes());
            std::memset(control, 0, message.msg_controllen);
            cmsghdr* header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(fds.size_bytes());
            std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
        }
        ssize_t sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN || first) return last_errno();
            pollfd p = {socket, POLLOUT, 0};
            ::poll(&p, 1, -1);
            continue;
        }
        first = false;
        bytes = bytes.subspan(static_cast<size_t>(sent));
    } while (!bytes.empty() || first);
    return {};
}

SysResult<void> send_message(int socket, std::string_view bytes, std::initializer_list<int> fds) {
    return send_message(socket, std::as_bytes(std::span(bytes.data(), bytes.size())),
                        std::span<const int>(fds.begin(), fds.size()));
}

SysResult<ReceivedMessage> receive_message(int socket, std::span<std::byte> into, size_t max_fds, int flags) {
    // Room for the most a peer can send in one message: a smaller buffer would truncate, and which of the descriptors
    // were installed then is awkward to know.
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxMessageFds * sizeof(int)) + CMSG_SPACE(64)];
    iovec iov = {into.data(), into.size()};
    msghdr message = {};
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t size;
    do {
        size = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    } while (size < 0 && errno == EINTR);
    if (size < 0) return last_errno();

    ReceivedMessage received;
    received.size = static_cast<size_t>(size);
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            received.fds.emplace_back(fd);
        }
    }
    bool truncated =
        (message.msg_flags & MSG_CTRUNC) != 0 || ((message.msg_flags & MSG_TRUNC) != 0 && (flags & MSG_TRUNC) == 0);
    if (truncated || received.fds.size() > max_fds) return Errno(EMSGSIZE);
    return received;
}

SysResult<std::vector<UniqueFd>> receive_exactly(int socket, std::span<std::byte> into, size_t max_fds) {
    std::vector<UniqueFd> fds;
    while (!into.empty()) {
        auto part = receive_message(socket, into, max_fds - fds.size());
        if (!part.ok() && part.error().value == EAGAIN) {
            pollfd p = {socket, POLLIN, 0};
            ::poll(&p, 1, -1);
            continue;
        }
        if (!part.ok()) return part.take_error();
        if (part->size == 0) return Errno(ECONNRESET);
        into = into.subspan(part->size);
        std::move(part->fds.begin(), part->fds.end(), std::back_inserter(fds));
    }
    return fds;
}

SysResult<PeerCredentials> peer_credentials(int socket) {
    ucred credentials = {};
    socklen_t size = sizeof credentials;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0) return last_errno();
    PeerCredentials peer;
    peer.pid = credentials.pid;
    peer.uid = credentials.uid;
    peer.gid = credentials.gid;
    return peer;
}

}  // namespace casemate::linux
