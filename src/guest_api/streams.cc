#include "guest_api/streams.h"

#include <endian.h>
#include <poll.h>
#include <sys/uio.h>

#include <algorithm>

namespace casemate::guest_api {

namespace {
constexpr int kSendTimeoutMs = 5000;
}

Result<StreamToken> DescriptorSender::send(int fd) {
    StreamToken token = next_.fetch_add(1);
    uint64_t wire = htole64(token);
    iovec piece = {&wire, sizeof(wire)};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
    for (;;) {
        if (::sendmsg(channel_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return token;
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return sys_error("send a descriptor to the guest kernel");
        pollfd ready{channel_.get(), POLLOUT, 0};
        int count = ::poll(&ready, 1, kSendTimeoutMs);
        if (count == 0) return Error("the guest kernel does not take its descriptors", ETIMEDOUT);
        if (count < 0 && errno != EINTR) return sys_error("poll the descriptor channel");
    }
}

void DescriptorReceiver::drain(std::map<StreamToken, UniqueFd>& table) {
    // Room for more than one descriptor, so that a message with several is seen as wrong and none leaks.
    constexpr size_t kRoom = 4;
    for (;;) {
        uint64_t wire[2];
        iovec piece = {wire, sizeof(wire)};
        alignas(cmsghdr) char control[CMSG_SPACE(kRoom * sizeof(int))];
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        ssize_t count = ::recvmsg(channel_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return;
        std::vector<UniqueFd> fds;
        for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
            if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
            size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (size_t i = 0; i < number; i++) {
                int fd;
                std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
                fds.emplace_back(fd);
            }
        }
        if (count == 0 && fds.empty()) return;  // the host is gone
        if (count != sizeof(uint64_t) || fds.size() != 1 || (message.msg_flags & MSG_CTRUNC) != 0) continue;
        StreamToken token = le64toh(wire[0]);
        if (token == 0) continue;
        if (table.size() >= limit_) table.erase(table.begin());  // the oldest: its request never came
        table.try_emplace(token, std::move(fds[0]));
    }
}

SysResult<UniqueFd> DescriptorReceiver::open(StreamToken token) {
    auto table = table_.lock();
    auto found = table->find(token);
    if (found == table->end()) {
        drain(*table);
        found = table->find(token);
        if (found == table->end()) return Errno(EINVAL);
    }
    UniqueFd fd = std::move(found->second);
    table->erase(found);
    return fd;
}

Result<DescriptorChannel> DescriptorChannel::create() {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) return sys_error("socketpair");
    DescriptorChannel channel;
    channel.host.reset(fds[0]);
    channel.guest.reset(fds[1]);
    return channel;
}

SysResult<RequestStreams> RequestStreams::open(StreamSource& source, std::span<const StreamToken> tokens) {
    RequestStreams out;
    int error = 0;
    size_t named = 0;
    for (StreamToken token : tokens) {
        if (token == 0) continue;
        if (++named > kMaxTokensPerRequest) error = E2BIG;
        auto fd = source.open(token);
        if (fd.ok())
            out.streams_.emplace_back(token, fd.take_value());
        else if (error == 0)
            error = fd.error().value;
    }
    if (error != 0) return Errno(error);
    return out;
}

UniqueFd RequestStreams::take(StreamToken token) {
    auto found =
        std::find_if(streams_.begin(), streams_.end(), [&](const auto& entry) { return entry.first == token; });
    if (token == 0 || found == streams_.end()) return UniqueFd();
    return std::move(found->second);
}

}  // namespace casemate::guest_api
