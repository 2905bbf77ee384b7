#include "virtio/vsock_stream.h"

#include <sys/socket.h>

#include <algorithm>
#include <climits>

namespace casemate::virtio {

VsockStream::VsockStream(Ports ports, UniqueFd socket, DeviceLoop& loop, std::mutex& owner,
                         std::function<void(uint32_t)> ready)
    : ports_(ports), socket_(std::move(socket)), watch_(loop, owner, std::move(ready)) {
    watch_.set_fd(socket_.get());
}

VsockStream::~VsockStream() { watch_.want(0); }

void VsockStream::take_credit(const VsockHeader& header) {
    peer_buffer_ = header.buffer_bytes;
    peer_forwarded_ = header.forwarded;
}

uint32_t VsockStream::credit() const {
    uint32_t on_the_way = sent_ - peer_forwarded_;
    return on_the_way >= peer_buffer_ ? 0 : peer_buffer_ - on_the_way;
}

SysResult<void> VsockStream::receive(ChainBuffer& data) {
    size_t length = data.remaining();
    size_t buffered = to_host_.size() - sent_of_buffer_;
    if (length > kBufferBytes - buffered || (guest_closed_ & kVsockNoSend) != 0) return Errno(EPROTO);
    received_ += static_cast<uint32_t>(length);
    if ((host_closed_ & kVsockNoReceive) != 0) {
        forwarded_ += static_cast<uint32_t>(length);  // nobody reads it any more
        return {};
    }
    if (buffered == 0 && length > 0) {
        // Straight out of guest memory, as much as the socket takes.
        parts_.clear();
        ChainBuffer all = data;
        all.take(length, parts_);
        msghdr message{};
        message.msg_iov = parts_.data();
        message.msg_iovlen = std::min<size_t>(parts_.size(), IOV_MAX);
        ssize_t put = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0 && errno != EAGAIN && errno != EINTR) return last_errno();
        if (put > 0) {
            data.skip(static_cast<size_t>(put));
            forwarded_ += static_cast<uint32_t>(put);
        }
    }
    if (data.remaining() > 0) {
        to_host_.erase(0, sent_of_buffer_);
        sent_of_buffer_ = 0;
        size_t end = to_host_.size();
        to_host_.resize(end + data.remaining());
        data.read(to_host_.data() + end, data.remaining());
    }
    return {};
}

SysResult<void> VsockStream::flush() {
    while (!flushed()) {
        ssize_t put = ::send(socket_.get(), to_host_.data() + sent_of_buffer_, to_host_.size() - sent_of_buffer_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
        if (put < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) return {};
            return last_errno();
        }
        sent_of_buffer_ += static_cast<size_t>(put);
        forwarded_ += static_cast<uint32_t>(put);
    }
    std::string().swap(to_host_);
    sent_of_buffer_ = 0;
    shut_socket();
    return {};
}

void VsockStream::guest_shutdown(uint32_t flags) {
    guest_closed_ |= flags & (kVsockNoReceive | kVsockNoSend);
    shut_socket();
}

void VsockStream::shut_socket() {
    if ((guest_closed_ & kVsockNoReceive) != 0) ::shutdown(socket_.get(), SHUT_RD);
    if ((guest_closed_ & kVsockNoSend) != 0 && flushed()) ::shutdown(socket_.get(), SHUT_WR);
}

void VsockStream::fill(VsockHeader& header) {
    header.source_cid = kHostCid;
    header.source_port = ports_.host;
    header.destination_port = ports_.guest;
    header.type = kVsockStream;
    header.buffer_bytes = kBufferBytes;
    header.forwarded = told_ = forwarded_;
}

void VsockStream::watch(bool for_input) {
    uint32_t events = flushed() ? 0u : static_cast<uint32_t>(EPOLLOUT);
    if (for_input && host_closed_ == 0 && (guest_closed_ & kVsockNoReceive) == 0) events |= EPOLLIN;
    // Closed for sending by the host, but perhaps not altogether: one word when that happens.
    if (host_closed_ == kVsockNoSend) events |= EPOLLET;
    watch_.want(events);
}

}  // namespace casemate::virtio
