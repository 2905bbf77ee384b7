#include "fileserver/connection.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>

#include "fileserver/shared_server.h"

namespace casemate::fileserver {

namespace {

void take_descriptors(const msghdr& message, UniqueFd (&into)[2]) {
    const cmsghdr* c = CMSG_FIRSTHDR(&message);
    if (c == nullptr || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) return;
    size_t count = std::min<size_t>((c->cmsg_len - CMSG_LEN(0)) / sizeof(int), 2);
    for (size_t i = 0; i < count; ++i) {
        int fd;
        std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
        into[i].reset(fd);
    }
}

}  // namespace

Connection::Connection(FileServer& server, UniqueFd socket)
    : server_(server), socket_(std::move(socket)), buffer_(kMaxMessage) {
    int size = 2 * kMaxMessage;
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

bool Connection::parse(std::string_view message, Parsed& parsed) const {
    if (message.size() < sizeof(Request)) return false;
    std::memcpy(&parsed.request, message.data(), sizeof(Request));
    message.remove_prefix(sizeof(Request));
    auto take = [&](uint32_t size, std::string_view& into) {
        if (size > message.size()) return false;
        into = message.substr(0, size);
        message.remove_prefix(size);
        return true;
    };
    return take(parsed.request.path_size, parsed.path) && take(parsed.request.path2_size, parsed.path2) &&
           take(parsed.request.data_size, parsed.data) && message.empty();
}

void Connection::fill(FileServer::Entry entry) {
    header_.attributes = entry.attributes;
    header_.parent = entry.parent;
    header_.node = entry.node;
    header_.value = entry.value;
    reply_fd_ = std::move(entry.fd);
    kept_fd_ = entry.kept;
}

SysResult<void> Connection::dispatch(const Parsed& parsed) {
    const Request& r = parsed.request;
    Target target{r.node, parsed.path};
    Target target2{r.node2, parsed.path2};
    switch (static_cast<Op>(r.op)) {
        case Op::kAttach:
            fill(TRY(server_.attach(r.value)));
            return {};
        case Op::kLookup: {
            found_.clear();
            std::string link;
            auto result = TRY(server_.lookup(target, r.flags, found_, link));
            fill(std::move(result.entry));
            header_.count = result.count;
            header_.value = static_cast<uint64_t>(result.error);
            reply_.append(reinterpret_cast<const char*>(found_.data()), found_.size() * sizeof(Attributes));
            reply_.append(link);
            return {};
        }
        case Op::kOpen:
            fill(TRY(server_.open(target, r.open_flags)));
            return {};
        case Op::kCreate:
            fill(TRY(server_.create(target, r.mode, r.uid, r.gid, r.flags)));
            return {};
        case Op::kCreateUnnamed:
            fill(TRY(server_.create_unnamed(target, r.mode, r.uid, r.gid)));
            return {};
        case Op::kMakeDirectory:
            fill(TRY(server_.make_directory(target, r.mode, r.uid, r.gid, r.flags)));
            return {};
        case Op::kMakeNode:
            fill(TRY(server_.make_node(target, r.mode, r.device, r.uid, r.gid)));
            return {};
        case Op::kSymlink:
            fill(TRY(server_.make_symlink(target, parsed.data, r.uid, r.gid, r.flags)));
            return {};
        case Op::kLink:
            fill(TRY(server_.link(target, target2, r.flags)));
            return {};
        case Op::kUnlink:
            fill(TRY(server_.unlink(target, r.flags)));
            return {};
        case Op::kRemoveDirectory:
            fill(TRY(server_.remove_directory(target, r.flags)));
            return {};
        case Op::kRename:
            fill(TRY(server_.rename(target, target2, static_cast<uint32_t>(r.value), r.flags)));
            return {};
        case Op::kReadLink:
            reply_ += TRY(server_.read_link(target));
            return {};
        case Op::kList:
            header_.value = TRY(server_.list(target, r.value, r.flags, parsed.data, reply_, kMaxMessage));
            return {};
        case Op::kGetAttributes:
            fill(TRY(server_.get_attributes(target, r.flags)));
            return {};
        case Op::kAttributesOf:
            return server_.attributes_of(target, parsed.data, reply_, kMaxMessage);
        case Op::kSetAttributes:
            fill(TRY(server_.set_attributes(target, r)));
            return {};
        case Op::kStatfs: {
            struct statfs info = TRY(server_.statfs(target));
            reply_.append(reinterpret_cast<const char*>(&info), sizeof(info));
            return {};
        }
        case Op::kGetXattr:
            reply_ += TRY(server_.get_xattr(target, parsed.data));
            return {};
        case Op::kSetXattr:
            return server_.set_xattr(target, parsed.path2, parsed.data, static_cast<uint32_t>(r.value));
        case Op::kRemoveXattr:
            return server_.remove_xattr(target, parsed.data);
        case Op::kListXattrs:
            reply_ += TRY(server_.list_xattrs(target));
            return {};
        case Op::kSync:
            return server_.sync(target, r.flags);
        case Op::kForget:
            for (size_t at = 0; at + sizeof(NodeId) <= parsed.data.size(); at += sizeof(NodeId)) {
                NodeId node;
                std::memcpy(&node, parsed.data.data() + at, sizeof(node));
                server_.forget(node);
            }
            return {};
    }
    return Errno(ENOSYS);
}

bool Connection::handle(std::string_view message) {
    Parsed parsed;
    if (!parse(message, parsed)) return false;
    header_ = Reply();
    reply_fd_.reset();
    kept_fd_ = -1;
    reply_.resize(sizeof(Reply));
    auto result = dispatch(parsed);
    if (!result.ok()) {
        header_ = Reply();
        header_.error = result.error().value;
        reply_.resize(sizeof(Reply));
        reply_fd_.reset();
        kept_fd_ = -1;
    }
    if (reply_.size() > kMaxMessage) {
        header_ = Reply();
        header_.error = E2BIG;
        reply_.resize(sizeof(Reply));
        reply_fd_.reset();
        kept_fd_ = -1;
    }
    header_.tag = parsed.request.tag;
    header_.data_size = static_cast<uint32_t>(reply_.size() - sizeof(Reply));
    std::memcpy(reply_.data(), &header_, sizeof(header_));
    if (parsed.request.flags & kFlagNoReply) reply_.clear();
    return true;
}

SysResult<void> Connection::send_with_descriptor(int socket, const void* bytes, size_t size) {
    iovec piece{const_cast<void*>(bytes), size};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    if (has_descriptor()) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        cmsghdr* c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        int fd = reply_fd_ ? reply_fd_.get() : kept_fd_;
        std::memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR) return last_errno();
    reply_fd_.reset();
    kept_fd_ = -1;
    return {};
}

SysResult<void> Connection::send() {
    if (reply_.empty()) return {};
    return send_with_descriptor(socket_.get(), reply_.data(), reply_.size());
}

SysResult<void> Connection::send_descriptor(int socket) {
    return send_with_descriptor(socket, &header_.tag, sizeof(header_.tag));
}

SysResult<void> Connection::serve(SpareThread& rings) {
    bool first = true;
    while (true) {
        // No room for descriptors but in the first message: the kernel drops those that come (MSG_CTRUNC).
        iovec piece{buffer_.data(), buffer_.size()};
        alignas(cmsghdr) char control[CMSG_SPACE(2 * sizeof(int))];
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        if (first) {
            message.msg_control = control;
            message.msg_controllen = sizeof(control);
        }
        ssize_t n = receiver_.receive(socket_.get(), message, MSG_CMSG_CLOEXEC);
        if (n < 0) {
            if (errno == EINTR) continue;
            return last_errno();
        }
        if (n == 0) return {};
        if (message.msg_flags & MSG_TRUNC) return Errno(EPROTO);
        UniqueFd passed[2];
        if (first) take_descriptors(message, passed);
        first = false;
        if (n == sizeof(kHello) && std::memcmp(buffer_.data(), &kHello, sizeof(kHello)) == 0) {
            auto shared = SharedServer::create(std::move(passed[0]), std::move(passed[1]));
            if (!shared.ok()) return Errno(EPROTO);
            buffer_ = {};
            return (*shared)->serve(*this, socket_.get(), rings);
        }
        if (!handle(std::string_view(buffer_.data(), static_cast<size_t>(n)))) return Errno(EPROTO);
        auto sent = send();
        if (!sent.ok()) {
            // The guest kernel went away while we worked: the end, not an error.
            if (sent.error() == Errno(EPIPE) || sent.error() == Errno(ECONNRESET)) return {};
            return sent;
        }
    }
}

}  // namespace casemate::fileserver
