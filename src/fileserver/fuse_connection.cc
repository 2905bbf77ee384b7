#include "fileserver/fuse_connection.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/unique_map.h"
#include "linux/unix_message.h"
#include "virtio/fuse_link.h"

namespace casemate::fileserver {

namespace {

constexpr size_t kMaxReply = (1 << 20) + 4096;

// The stream of messages. Small ones are taken several at once, large ones go to where they are wanted.
class MonitorStream {
  public:
    explicit MonitorStream(int socket) : socket_(socket) {}

    // False at the end of the stream, if that is no end within `into`.
    SysResult<bool> read(void* into, size_t size) {
        char* to = static_cast<char*>(into);
        for (size_t done = 0; done < size;) {
            if (begin_ < end_) {
                size_t part = std::min(end_ - begin_, size - done);
                std::memcpy(to + done, buffer_ + begin_, part);
                begin_ += part;
                done += part;
                continue;
            }
            bool direct = size - done >= sizeof(buffer_);
            size_t got = TRY(receive(direct ? to + done : buffer_, direct ? size - done : sizeof(buffer_)));
            if (got == 0 && done != 0) return Errno(EPROTO);
            if (got == 0) return false;
            if (direct)
                done += got;
            else
                begin_ = 0, end_ = got;
        }
        return true;
    }

  private:
    SysResult<size_t> receive(char* into, size_t size) {
        ssize_t got;
        do {
            got = ::recv(socket_, into, size, 0);
        } while (got < 0 && errno == EINTR);
        if (got < 0) return last_errno();
        return static_cast<size_t>(got);
    }

    int socket_;
    size_t begin_ = 0, end_ = 0;  // of what came and was not read
    char buffer_[16 << 10];
};

// As large as the largest message so far: few are large, and a buffer for the largest that may come is not for nothing.
class GrowingBuffer {
  public:
    char* at_least(size_t size) {
        if (size > size_) {
            data_ = std::make_unique_for_overwrite<char[]>(size);
            size_ = size;
        }
        return data_.get();
    }

  private:
    std::unique_ptr<char[]> data_;
    size_t size_ = 0;
};

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

SysResult<void> GuestData::append_to(virtio::ChainBuffer& buffer, std::span<const virtio::FuseLinkSegment> segments,
                                     uint64_t size) const {
    for (const virtio::FuseLinkSegment& segment : segments) {
        auto end = checked_add(segment.offset, segment.length);
        if (!end || *end > map_.size() || segment.length == 0 || segment.length > size) return Errno(EPROTO);
        buffer.append(map_.data() + segment.offset, segment.length);
        size -= segment.length;
    }
    if (size != 0) return Errno(EPROTO);
    return {};
}

SysResult<GuestData> receive_guest_data(int socket) {
    virtio::FuseLinkRequest hello;
    auto fds = TRY(linux::receive_exactly(socket, std::as_writable_bytes(std::span(&hello, 1)), 1));
    if (hello.header.opcode != virtio::kFuseLinkMemory || hello.header.len != sizeof(hello.header) ||
        hello.segments != 0)
        return Errno(EPROTO);
    if (fds.empty()) return GuestData();
    off_t size = ::lseek(fds[0].get(), 0, SEEK_END);
    if (size <= 0) return Errno(EPROTO);
    return GuestData(
        TRY(UniqueMap::create(static_cast<size_t>(size), PROT_READ, MAP_SHARED | MAP_NORESERVE, fds[0].get())));
}

SysResult<void> serve_fuse_link(FuseDirectory& directory, int socket, const GuestData& memory) {
    GrowingBuffer arguments_buffer, reply_buffer;
    auto stream = std::make_unique<MonitorStream>(socket);
    std::vector<virtio::FuseLinkSegment> segments;
    while (true) {
        virtio::FuseLinkRequest request;
        if (!TRY(stream->read(&request, sizeof(request)))) return {};
        fuse_in_header& header = request.header;
        size_t limit =
            header.opcode >= virtio::kOwnFuseOpcodes ? virtio::kFuseLinkMaxState : virtio::kFuseLinkMaxArguments;
        if (header.len < sizeof(header) || header.len - sizeof(header) > limit) return Errno(EPROTO);
        size_t size = header.len - sizeof(header);
        size_t elsewhere = 0;  // of the arguments: what the segments name
        if (request.segments > 0) {
            if (header.opcode != FUSE_WRITE || size < sizeof(fuse_write_in) ||
                request.segments > virtio::kFuseLinkMaxSegments)
                return Errno(EPROTO);
            elsewhere = size - sizeof(fuse_write_in);
            size = sizeof(fuse_write_in);
        }
        char* arguments = arguments_buffer.at_least(size);
        if (size > 0 && !TRY(stream->read(arguments, size))) return Errno(EPROTO);
        virtio::ChainBuffer in(arguments, size);
        if (request.segments > 0) {
            segments.resize(request.segments);
            if (!TRY(stream->read(segments.data(), segments.size() * sizeof(segments[0])))) return Errno(EPROTO);
            TRY(memory.append_to(in, segments, elsewhere));
        }
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
            virtio::StateReader reader(std::string_view(arguments, size));
            auto restored = directory.restore(reader);
            if (!restored.ok()) answer.error = -restored.error().value;
            TRY(send_all(socket, answer, nullptr, 0));
            continue;
        }
        size_t room = std::min<size_t>(request.room, kMaxReply);
        char* reply = reply_buffer.at_least(room);
        virtio::ChainBuffer out(reply, room);
        auto served = directory.serve(header, in, out);
        if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT)
            continue;
        if (served.ok())
            answer.len += *served;
        else
            answer.error = -served.error().value;
        TRY(send_all(socket, answer, reply, served.ok() ? *served : 0));
    }
}

}  // namespace casemate::fileserver
