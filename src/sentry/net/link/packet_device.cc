#include "sentry/net/link/packet_device.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
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
    // The signal interrupts a receive, and does nothing else.
    struct sigaction action {};
    action.sa_handler = [](int) {};
    if (sigaction(SIGURG, &action, nullptr) != 0) return last_errno();
    receiver_ = std::move(receiver);
    thread_ = std::thread([this] { run(); });
    return {};
}

void PacketDevice::stop() {
    if (!thread_.joinable()) return;
    stop_ = true;
    // The signal by which the sentry interrupts its threads ends a receive under way; again, if it came just before.
    while (!ended_.load()) {
        pthread_kill(thread_.native_handle(), SIGURG);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
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
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &wanted, nullptr);
    while (!stop_.load(std::memory_order_relaxed)) {
        if (receive_batch()) continue;
        // The link is down, or memory is short.
        pollfd wait = {socket_.get(), POLLIN, 0};
        if (poll(&wait, 1, 100) > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ended_ = true;
}

// Waits for a frame, and takes what has come with it. False: nothing comes now.
bool PacketDevice::receive_batch() {
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
    int got = recvmmsg(socket_.get(), messages, static_cast<unsigned>(ready), MSG_WAITFORONE, nullptr);
    // EINVAL: a frame that the header cannot describe; it is gone.
    if (got <= 0) return got < 0 && (errno == EINTR || errno == EINVAL);
    size_t overhead = virtio_header_ ? sizeof(VirtioHeader) : 0, good = 0;
    for (size_t i = 0; i < static_cast<size_t>(got); i++) {
        if (messages[i].msg_len < overhead || (messages[i].msg_hdr.msg_flags & MSG_TRUNC)) continue;
        if (good != i) std::swap(frames_[good], frames_[i]);
        frames_[good++].size = static_cast<uint32_t>(messages[i].msg_len - overhead);
    }
    receiver_({frames_, good});
    return true;
}

}  // namespace casemate::sentry
