#include "fileserver/fuse_connection.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <memory>

#include "virtio/fuse_link.h"

namespace casemate::fileserver {

namespace {

constexpr size_t kMaxReply = (1 << 20) + 4096;

// False at the end of the stream.
SysResult<bool> receive_all(int socket, char* into, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t got = ::recv(socket, into + done, size - done, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return last_errno();
        if (got == 0) {
            if (done != 0) return Errno(EPROTO);
            return false;
        }
        done += static_cast<size_t>(got);
    }
    return true;
}

SysResult<void> send_all(int socket, fuse_out_header header, const char* body, size_t size) {
    iovec parts[2] = {{&header, sizeof(header)}, {const_cast<char*>(body), size}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = size > 0 ? 2 : 1;
    while (message.msg_iovlen > 0) {
        ssize_t put = ::sendmsg(socket, &message, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return last_errno();
        size_t bytes = static_cast<size_t>(put);
        while (message.msg_iovlen > 0 && bytes >= message.msg_iov->iov_len) {
            bytes -= message.msg_iov->iov_len;
            ++message.msg_iov;
            --message.msg_iovlen;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + bytes;
            message.msg_iov->iov_len -= bytes;
        }
    }
    return {};
}

}  // namespace

SysResult<void> serve_fuse_link(FuseDirectory& directory, int socket) {
    // Touched only as far as messages go.
    auto arguments = std::make_unique_for_overwrite<char[]>(virtio::kFuseLinkMaxState);
    auto reply = std::make_unique_for_overwrite<char[]>(kMaxReply);
    while (true) {
        virtio::FuseLinkRequest request;
        if (!TRY(receive_all(socket, reinterpret_cast<char*>(&request), sizeof(request)))) return {};
        fuse_in_header& header = request.header;
        size_t limit =
            header.opcode >= virtio::kOwnFuseOpcodes ? virtio::kFuseLinkMaxState : virtio::kFuseLinkMaxArguments;
        if (header.len < sizeof(header) || header.len - sizeof(header) > limit) return Errno(EPROTO);
        size_t size = header.len - sizeof(header);
        if (size > 0 && !TRY(receive_all(socket, arguments.get(), size))) return Errno(EPROTO);
        fuse_out_header answer{};
        answer.unique = header.unique;
        answer.len = sizeof(answer);
        if (header.opcode == virtio::kFuseLinkForgetAll) {
            directory.forget_all();
            continue;
        }
        if (header.opcode == virtio::kFuseLinkSave) {
            virtio::StateWriter writer;
            directory.save(writer);
            std::string state = writer.take();
            if (state.size() > request.room) {
                answer.error = -E2BIG;
                state.clear();
            }
            answer.len += static_cast<uint32_t>(state.size());
            TRY(send_all(socket, answer, state.data(), state.size()));
            continue;
        }
        if (header.opcode == virtio::kFuseLinkRestore) {
            virtio::StateReader reader(std::string_view(arguments.get(), size));
            auto restored = directory.restore(reader);
            if (!restored.ok()) answer.error = -restored.error().value;
            TRY(send_all(socket, answer, nullptr, 0));
            continue;
        }
        virtio::ChainBuffer in(arguments.get(), size);
        virtio::ChainBuffer out(reply.get(), std::min<size_t>(request.room, kMaxReply));
        auto served = directory.serve(header, in, out);
        if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT)
            continue;
        if (served.ok())
            answer.len += *served;
        else
            answer.error = -served.error().value;
        TRY(send_all(socket, answer, reply.get(), served.ok() ? *served : 0));
    }
}

}  // namespace casemate::fileserver
