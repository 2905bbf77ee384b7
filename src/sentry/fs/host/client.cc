#include "sentry/fs/host/client.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

namespace casemate::sentry {

using fileserver::Op;
using fileserver::Reply;
using fileserver::Request;

HostFiles::HostFiles(UniqueFd socket) : socket_(std::move(socket)), buffer_(fileserver::kMaxMessage) {}

SysResult<void> HostFiles::send_locked(Request& request, std::string_view path, std::string_view path2,
                                       std::string_view data) {
    request.path_size = static_cast<uint32_t>(path.size());
    request.path2_size = static_cast<uint32_t>(path2.size());
    request.data_size = static_cast<uint32_t>(data.size());
    if (sizeof(Request) + path.size() + path2.size() + data.size() > fileserver::kMaxMessage) return Errno(E2BIG);
    request.tag = static_cast<uint32_t>(++sent_);
    iovec pieces[4] = {{&request, sizeof(request)},
                       {const_cast<char*>(path.data()), path.size()},
                       {const_cast<char*>(path2.data()), path2.size()},
                       {const_cast<char*>(data.data()), data.size()}};
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = 4;
    while (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR) return Errno(EIO);
    return {};
}

void HostFiles::send_forgets_locked() {
    if (forgets_.empty()) return;
    Request request;
    request.op = static_cast<uint16_t>(Op::kForget);
    request.flags = fileserver::kFlagNoReply;
    (void)send_locked(
        request, {}, {},
        std::string_view(reinterpret_cast<const char*>(forgets_.data()), forgets_.size() * sizeof(fileserver::NodeId)));
    forgets_.clear();
}

void HostFiles::forget(fileserver::NodeId node) {
    if (node == 0) return;
    std::lock_guard lock(mutex_);
    forgets_.push_back(node);
    if (forgets_.size() >= 64) send_forgets_locked();
}

uint64_t HostFiles::post(Request& request, std::string_view path, std::string_view path2, std::string_view data) {
    std::lock_guard lock(mutex_);
    request.flags |= fileserver::kFlagNoReply;
    (void)send_locked(request, path, path2, data);
    return sent_;
}

SysResult<HostFiles::Answer> HostFiles::call(Request& request, std::string_view path, std::string_view path2,
                                             std::string_view data) {
    std::lock_guard lock(mutex_);
    send_forgets_locked();
    TRY(send_locked(request, path, path2, data));
    uint64_t number = sent_;
    iovec piece{buffer_.data(), buffer_.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t n;
    while ((n = receiver_.receive(socket_.get(), message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR) return Errno(EIO);
    Answer answer;
    for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int))) continue;
        int fd;
        std::memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        answer.fd.reset(fd);
    }
    if (static_cast<size_t>(n) < sizeof(Reply)) return Errno(EIO);
    std::memcpy(&answer.reply, buffer_.data(), sizeof(Reply));
    if (answer.reply.tag != request.tag || answer.reply.data_size != static_cast<size_t>(n) - sizeof(Reply))
        return Errno(EIO);
    done_.store(number, std::memory_order_release);
    round_trips_.fetch_add(1, std::memory_order_relaxed);
    if (answer.reply.error != 0) {
        int error = answer.reply.error;
        return Errno(error > 0 && error < 512 ? error : EIO);
    }
    answer.number = number;
    answer.data.assign(buffer_.data() + sizeof(Reply), answer.reply.data_size);
    return answer;
}

}  // namespace casemate::sentry
