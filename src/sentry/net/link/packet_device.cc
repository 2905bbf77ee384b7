#include "sentry/net/link/packet_device.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cerrno>

namespace casemate::sentry {

using stack::FrameBuffer;
using stack::InFrame;
using stack::OutFrame;
using stack::VirtioHeader;

PacketDevice::PacketDevice(UniqueFd socket, bool virtio_header)
    : socket_(std::move(socket)), virtio_header_(virtio_header) {}

PacketDevice::~PacketDevice() { stop(); }

SysResult<void> PacketDevice::start(Receiver receiver) {
    wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake_) return last_errno();
    receiver_ = std::move(receiver);
    thread_ = std::thread([this] { run(); });
    return {};
}

void PacketDevice::stop() {
    if (!thread_.joinable()) return;
    stop_ = true;
    uint64_t one = 1;
    static_cast<void>(!write(wake_.get(), &one, sizeof(one)));
    thread_.join();
}

bool PacketDevice::send(const OutFrame& frame) {
    iovec pieces[2 + OutFrame::kMostPieces];
    size_t count = 0;
    if (virtio_header_) pieces[count++] = {const_cast<VirtioHeader*>(&frame.virtio), sizeof(VirtioHeader)};
    pieces[count++] = {const_cast<uint8_t*>(frame.head.data()), frame.head_size};
    for (size_t i = 0; i < frame.piece_count; i++) pieces[count++] = frame.pieces[i];
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    while (true) {
        if (sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return true;
        if (errno == EINTR) continue;
        // No room is for the caller to know; anything else (the link is down, the frame too long for it) is a loss.
        return errno != EAGAIN && errno != ENOBUFS;
    }
}

void PacketDevice::run() {
    prctl(PR_SET_NAME, "link");
    while (!stop_.load(std::memory_order_relaxed)) {
        if (receive_batch() > 0) continue;
        pollfd waits[2] = {{socket_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
        static_cast<void>(poll(waits, 2, -1));
    }
}

size_t PacketDevice::receive_batch() {
    mmsghdr messages[kBatch];
    iovec pieces[kBatch][2];
    size_t ready = 0;
    for (; ready < kBatch; ready++) {
        InFrame& frame = frames_[ready];
        // Whoever keeps a frame's bytes has its buffer for good.
        if (!frame.buffer || frame.buffer->ref_count() > 1) frame.buffer = FrameBuffer::create(stack::kMostFrame);
        if (!frame.buffer) break;
        frame.offset = 0;
        frame.virtio = {};
        size_t count = 0;
        if (virtio_header_) pieces[ready][count++] = {&frame.virtio, sizeof(VirtioHeader)};
        pieces[ready][count++] = {frame.buffer->data(), frame.buffer->capacity()};
        messages[ready] = {};
        messages[ready].msg_hdr.msg_iov = pieces[ready];
        messages[ready].msg_hdr.msg_iovlen = count;
    }
    int got = recvmmsg(socket_.get(), messages, static_cast<unsigned>(ready), MSG_DONTWAIT, nullptr);
    if (got <= 0) {
        // A frame that the header cannot describe is gone, and others may wait behind it.
        return got < 0 && errno != EAGAIN && errno != EBADF && errno != ENETDOWN ? 1 : 0;
    }
    size_t overhead = virtio_header_ ? sizeof(VirtioHeader) : 0, good = 0;
    for (size_t i = 0; i < static_cast<size_t>(got); i++) {
        if (messages[i].msg_len < overhead || (messages[i].msg_hdr.msg_flags & MSG_TRUNC)) continue;
        if (good != i) std::swap(frames_[good], frames_[i]);
        frames_[good++].size = static_cast<uint32_t>(messages[i].msg_len - overhead);
    }
    receiver_({frames_, good});
    return static_cast<size_t>(got);
}

}  // namespace casemate::sentry
