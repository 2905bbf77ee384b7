#include "rpc/connection.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace casemate::rpc {

// Sends what it can of both pieces and queues the rest. False: the socket failed.
bool Connection::write_locked(std::string_view first, std::string_view second) {
    while (!first.empty() || !second.empty()) {
        iovec pieces[2] = {{const_cast<char*>(first.data()), first.size()},
                           {const_cast<char*>(second.data()), second.size()}};
        msghdr message{};
        message.msg_iov = pieces;
        message.msg_iovlen = 2;
        ssize_t count = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            queue_.append(first);
            queue_.append(second);
            return true;
        }
        size_t from_first = std::min<size_t>(count, first.size());
        first.remove_prefix(from_first);
        second.remove_prefix(count - from_first);
    }
    return true;
}

Connection::Sent Connection::send(uint32_t stream, FrameType type, std::string_view payload) {
    FrameHeader header{static_cast<uint32_t>(payload.size()), stream, type, 0};
    auto bytes = header.encode();
    std::string_view head(bytes.data(), bytes.size());
    std::lock_guard lock(mutex_);
    if (!fd_ || broken_) return Sent::kClosed;
    if (!queue_.empty()) {
        if (queue_.size() - queue_done_ + head.size() + payload.size() > max_queued_) return Sent::kFull;
        queue_.append(head);
        queue_.append(payload);
        return Sent::kQueued;
    }
    if (!write_locked(head, payload)) {
        broken_ = true;
        return Sent::kClosed;
    }
    return queue_.empty() ? Sent::kDone : Sent::kQueued;
}

bool Connection::output_pending() const {
    std::lock_guard lock(mutex_);
    return !queue_.empty() && !broken_;
}

void Connection::abort() {
    std::lock_guard lock(mutex_);
    broken_ = true;
    if (fd_) ::shutdown(fd_.get(), SHUT_RDWR);
}

bool Connection::flush() {
    std::lock_guard lock(mutex_);
    if (!fd_ || broken_) return false;
    while (queue_done_ < queue_.size()) {
        iovec piece = {queue_.data() + queue_done_, queue_.size() - queue_done_};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        ssize_t count = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) break;
            broken_ = true;
            return false;
        }
        queue_done_ += count;
    }
    if (queue_done_ == queue_.size()) {
        queue_ = std::string();
        queue_done_ = 0;
    } else if (queue_done_ > queue_.size() / 2) {
        queue_.erase(0, queue_done_);
        queue_done_ = 0;
    }
    return true;
}

bool Connection::receive(const std::function<void(Frame&&)>& on_frame) {
    constexpr size_t kChunk = 16 << 10;
    char chunk[kChunk];
    for (int round = 0; round < 4; round++) {
        iovec piece = {chunk, kChunk};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        ssize_t count = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (count < 0) {
            if (errno == EINTR) continue;
            return errno == EAGAIN;
        }
        if (count == 0) return false;
        std::string_view input(chunk, count);
        while (fd_) {
            auto frame = parser_.consume(input);
            if (!frame) break;
            on_frame(std::move(*frame));
        }
        if (!fd_) return false;
        if (static_cast<size_t>(count) < kChunk) return true;
    }
    return true;
}

void Connection::close() {
    std::lock_guard lock(mutex_);
    fd_.reset();
    queue_ = std::string();
    queue_done_ = 0;
}

}  // namespace casemate::rpc
