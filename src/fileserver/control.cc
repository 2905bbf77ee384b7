#include "fileserver/control.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

namespace casemate::fileserver {

SysResult<void> serve_control(FileServer& server, int socket) {
    while (true) {
        ControlMount mount;
        iovec piece{&mount, sizeof(mount)};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        ssize_t n = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        if (n < 0) {
            if (errno == EINTR) continue;
            return last_errno();
        }
        if (n == 0) return {};
        UniqueFd fd;
        for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
                continue;
            int received;
            std::memcpy(&received, CMSG_DATA(c), sizeof(received));
            fd.reset(received);
        }
        // 12 bytes are token and flags, without the reserved word.
        uint8_t answer = 0;
        if (n < static_cast<ssize_t>(offsetof(ControlMount, reserved)) || !fd ||
            (mount.flags & ~(kMountReadOnly | kMountShared))) {
            answer = EINVAL;
        } else {
            auto added = server.add_mount(mount.token, mount.flags, std::move(fd));
            if (!added.ok()) answer = static_cast<uint8_t>(added.error().value);
        }
        if (::send(socket, &answer, 1, MSG_NOSIGNAL) < 0) return last_errno();
    }
}

}  // namespace casemate::fileserver
