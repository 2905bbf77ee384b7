#include "sentry/net/netlink/netlink_socket.h"

#include <linux/capability.h>
#include <linux/genetlink.h>
#include <linux/rtnetlink.h>
#include <sys/random.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

constexpr size_t kChunk = 3776;      // of a dump: fits a reader with a page (NLMSG_GOODSIZE)
constexpr size_t kOverhead = 512;    // what a datagram in the queue costs beside its bytes
constexpr size_t kSendReserve = 32;  // of the send buffer
constexpr int kSolNetlink = 270;     // SOL_NETLINK

SysResult<sockaddr_nl> parse(const SocketAddress& address) {
    if (address.size < sizeof(sockaddr_nl)) return Errno(EINVAL);
    auto value = address.as<sockaddr_nl>();
    if (value.nl_family != AF_NETLINK) return Errno(EINVAL);
    return value;
}

SocketAddress format(uint32_t port, uint32_t groups) {
    sockaddr_nl value{};
    value.nl_family = AF_NETLINK;
    value.nl_pid = port;
    value.nl_groups = groups;
    return SocketAddress::of(value);
}

uint32_t mask_of(uint32_t group) { return group >= 1 && group <= 32 ? 1u << (group - 1) : 0; }

}  // namespace

NetlinkSocket::NetlinkSocket(int type, int protocol, Ref<Network> network)
    : Socket(AF_NETLINK, type, protocol, std::move(network)) {}

NetlinkSocket::~NetlinkSocket() {
    if (bound_) network().netlink().release(*this);
}

uint32_t NetlinkSocket::most_groups() const {
    switch (protocol()) {
        case NETLINK_ROUTE:
            return RTNLGRP_MAX;
        case NETLINK_GENERIC:
            return 64;
        default:
            return 32;
    }
}

SysResult<void> NetlinkSocket::check_groups(Task& task) const {
    bool open = protocol() != NETLINK_SOCK_DIAG;
    if (!open && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
    return {};
}

SysResult<void> NetlinkSocket::bind_port(Task& task, uint32_t wanted) {
    std::lock_guard lock(mutex_);
    if (bound_) return wanted == 0 || wanted == port() ? SysResult<void>() : SysResult<void>(Errno(EINVAL));
    if (wanted != 0) {
        if (!network().netlink().claim(*this, wanted)) return Errno(EADDRINUSE);
        port_ = wanted;
        bound_ = true;
        return {};
    }
    // The process's number, or any other that is free.
    auto port = static_cast<uint32_t>(task.tgid());
    for (int i = 0; i < 64; i++) {
        if (network().netlink().claim(*this, port)) {
            port_ = port;
            bound_ = true;
            return {};
        }
        if (getrandom(&port, sizeof(port), GRND_NONBLOCK) < 0) port = static_cast<uint32_t>(-4097 - i);
        port |= 0x80000000;
    }
    return Errno(EADDRINUSE);
}

SysResult<void> NetlinkSocket::bind(Task& task, const SocketAddress& address) {
    auto wanted = TRY(parse(address));
    if (wanted.nl_groups != 0) TRY(check_groups(task));
    TRY(bind_port(task, wanted.nl_pid));
    std::lock_guard lock(mutex_);
    for (uint32_t group = 1; group <= 32; group++)
        if (wanted.nl_groups & mask_of(group))
            groups_.insert(group);
        else
            groups_.erase(group);
    return {};
}

SysResult<void> NetlinkSocket::connect(Task& task, const SocketAddress& address, bool) {
    if (address.size < sizeof(sa_family_t)) return Errno(EINVAL);
    if (address.family() == AF_UNSPEC) {
        std::lock_guard lock(mutex_);
        peer_port_ = peer_groups_ = 0;
        return {};
    }
    auto wanted = TRY(parse(address));
    if ((wanted.nl_groups != 0 || wanted.nl_pid != 0) && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
    if (!bound_) TRY(bind_port(task, 0));
    std::lock_guard lock(mutex_);
    peer_port_ = wanted.nl_pid;
    peer_groups_ = wanted.nl_groups;
    return {};
}

SysResult<SocketAddress> NetlinkSocket::local_address() { return format(port(), first_groups()); }

SysResult<SocketAddress> NetlinkSocket::peer_address() {
    std::lock_guard lock(mutex_);
    return format(peer_port_, peer_groups_ != 0 ? 1u << __builtin_ctz(peer_groups_) : 0);
}

bool NetlinkSocket::listens_to(uint32_t group) {
    std::lock_guard lock(mutex_);
    return groups_.contains(group);
}

uint32_t NetlinkSocket::first_groups() {
    std::lock_guard lock(mutex_);
    uint32_t mask = 0;
    for (uint32_t group : groups_) mask |= mask_of(group);
    return mask;
}

size_t NetlinkSocket::queued_bytes() {
    std::lock_guard lock(mutex_);
    return queued_;
}

bool NetlinkSocket::flag(int option) {
    std::lock_guard lock(mutex_);
    return flags_.contains(option);
}

void NetlinkSocket::deliver(NetlinkDatagram datagram) {
    size_t kept = kept_of(datagram.bytes);
    if (kept == 0) return;
    datagram.bytes.resize(kept);
    {
        std::lock_guard lock(mutex_);
        if (closed_) return;
        if (queued_ >= options_.receive_buffer.load()) {
            drops_.fetch_add(1, std::memory_order_relaxed);
            if (!flags_.contains(NETLINK_NO_ENOBUFS) && !congested_) {
                congested_ = true;
                set_error(ENOBUFS);
            }
        } else {
            queued_ += datagram.bytes.size() + kOverhead;
            queue_.push_back(std::move(datagram));
        }
    }
    waiters()->readable();
}

// ---- requests

void NetlinkSocket::start_dump(const nlmsghdr& to, NetlinkReply reply) {
    auto multi = static_cast<uint16_t>(NLM_F_MULTI | reply.dump_flags);
    NetlinkMessage done(NLMSG_DONE, multi, to.nlmsg_seq, port());
    done.put(int32_t{0});
    reply.messages.push_back(std::move(done));
    std::deque<NetlinkDatagram> chunks;
    for (NetlinkMessage& message : reply.messages) {
        message.add_flags(multi);
        NetlinkBytes bytes = message.take();
        if (chunks.empty() || chunks.back().bytes.size() + bytes.size() > kChunk) chunks.emplace_back();
        NetlinkBytes& last = chunks.back().bytes;
        last.insert(last.end(), bytes.begin(), bytes.end());
    }
    std::erase_if(chunks, [&](NetlinkDatagram& chunk) {
        chunk.bytes.resize(kept_of(chunk.bytes));
        return chunk.bytes.empty();
    });
    {
        std::lock_guard lock(mutex_);
        if (closed_) return;
        dump_ = std::move(chunks);
    }
    waiters()->readable();
}

// `message` with what NETLINK_EXT_ACK adds.
NetlinkBytes NetlinkSocket::explained(NetlinkBytes bytes, const char* reason) {
    if (reason == nullptr || !flag(NETLINK_EXT_ACK)) return bytes;
    size_t length = strlen(reason) + 1;
    nlattr attribute{static_cast<uint16_t>(sizeof(nlattr) + length), NLMSGERR_ATTR_MSG};
    size_t at = bytes.size();
    bytes.resize(at + sizeof(attribute) + NLA_ALIGN(length));
    memcpy(bytes.data() + at, &attribute, sizeof(attribute));
    memcpy(bytes.data() + at + sizeof(attribute), reason, length);
    nlmsghdr header;
    memcpy(&header, bytes.data(), sizeof(header));
    header.nlmsg_flags |= NLM_F_ACK_TLVS;
    memcpy(bytes.data(), &header, sizeof(header));
    return bytes;
}

void NetlinkSocket::answer(const nlmsghdr& to, std::span<const std::byte> whole, NetlinkReply reply, int error) {
    if (error == 0 && reply.dump) return start_dump(to, std::move(reply));
    auto finish = [](NetlinkBytes& bytes) {
        auto size = static_cast<uint32_t>(bytes.size());
        memcpy(bytes.data(), &size, sizeof(size));
    };
    bool dump = (to.nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    if (error != 0 && dump && error != EOPNOTSUPP && error != EBUSY && error != EPERM) {
        // A dump that fails ends as one.
        NetlinkMessage done(NLMSG_DONE, NLM_F_MULTI, to.nlmsg_seq, port());
        done.put(int32_t{-error});
        NetlinkBytes bytes = explained(done.take(), reply.reason);
        finish(bytes);
        return deliver({std::move(bytes), 0, 0});
    }
    if (error == 0)
        for (NetlinkMessage& message : reply.messages) deliver({message.take(), 0, 0});
    if (error == 0 && !(to.nlmsg_flags & NLM_F_ACK)) return;
    bool capped = error == 0 || flag(NETLINK_CAP_ACK);
    NetlinkMessage message(NLMSG_ERROR, capped ? NLM_F_CAPPED : 0, to.nlmsg_seq, port());
    message.put(int32_t{-error});
    message.put(to);
    NetlinkBytes bytes = message.take();
    if (!capped) {
        bytes.insert(bytes.end(), whole.begin() + sizeof(nlmsghdr), whole.end());
        bytes.resize(NLMSG_ALIGN(bytes.size()));
    }
    bytes = explained(std::move(bytes), error != 0 ? reply.reason : nullptr);
    finish(bytes);
    deliver({std::move(bytes), 0, 0});
}

SysResult<void> NetlinkSocket::to_kernel(Task& task, std::span<const std::byte> bytes) {
    if (protocol() == NETLINK_KOBJECT_UEVENT) {
        // What a device manager passes on to who listens for events.
        if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
        network().netlink().broadcast(protocol(), 1, {bytes.begin(), bytes.end()}, 0, 0);
        return {};
    }
    while (bytes.size() >= sizeof(nlmsghdr)) {
        nlmsghdr header;
        memcpy(&header, bytes.data(), sizeof(header));
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > bytes.size()) return {};
        auto whole = bytes.first(header.nlmsg_len);
        bytes = bytes.subspan(std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), bytes.size()));
        if (!(header.nlmsg_flags & NLM_F_REQUEST)) continue;
        NetlinkReply reply;
        int error = 0;
        if (header.nlmsg_type >= NLMSG_MIN_TYPE) {
            NetlinkRequest request{task, *this, header, whole.subspan(sizeof(header)), flag(NETLINK_GET_STRICT_CHK)};
            bool busy = false;
            if (request.is_dump()) {
                std::lock_guard lock(mutex_);
                busy = !dump_.empty();
            }
            auto done = busy                            ? SysResult<void>(Errno(EBUSY))
                        : protocol() == NETLINK_ROUTE   ? answer_route_request(request, reply)
                        : protocol() == NETLINK_GENERIC ? answer_generic_request(request, reply)
                                                        : answer_diag_request(request, reply);
            if (!done.ok()) error = done.error().value;
        }
        answer(header, whole, std::move(reply), error);
    }
    return {};
}

SysResult<size_t> NetlinkSocket::send(Task& task, SendRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    size_t size = request.data.remaining();
    if (size == 0 && request.to == nullptr) return Errno(ENODATA);
    uint32_t port, groups;
    if (request.to != nullptr && request.to->size > 0) {
        auto to = TRY(parse(*request.to));
        port = to.nl_pid;
        groups = to.nl_groups;
        if ((port != 0 || groups != 0) && !task.has_capability(CAP_NET_ADMIN)) return Errno(EPERM);
    } else {
        std::lock_guard lock(mutex_);
        port = peer_port_;
        groups = peer_groups_;
    }
    if (!bound_) TRY(bind_port(task, 0));
    if (size > options_.send_buffer.load() - kSendReserve) return Errno(EMSGSIZE);
    NetlinkBytes bytes(size);
    size_t copied = size > 0 ? TRY(request.data.copy_from(bytes.data(), size)) : 0;
    if (copied < size) return Errno(EFAULT);
    auto credentials = ucred{task.tgid(), task.credentials().uid, task.credentials().gid};
    for (uint32_t group = 1; group <= 32; group++)
        if (groups & mask_of(group))
            network().netlink().broadcast(protocol(), group, bytes, this->port(), this->port());
    if (port != 0) {
        Ref<NetlinkSocket> target = network().netlink().find(protocol(), port);
        if (!target) return Errno(ECONNREFUSED);
        if (target->queued_bytes() >= target->options_.receive_buffer.load()) return Errno(EAGAIN);
        target->deliver({std::move(bytes), this->port(), 0, credentials});
        return size;
    }
    if (groups == 0) TRY(to_kernel(task, bytes));
    return size;
}

// ---- receiving

std::optional<NetlinkDatagram> NetlinkSocket::take(bool peek) {
    std::lock_guard lock(mutex_);
    std::deque<NetlinkDatagram>& from = queue_.empty() ? dump_ : queue_;
    if (from.empty()) return std::nullopt;
    if (peek) return from.front();
    NetlinkDatagram first = std::move(from.front());
    from.pop_front();
    if (&from == &queue_) queued_ -= first.bytes.size() + kOverhead;
    if (queue_.empty()) congested_ = false;
    return first;
}

SysResult<size_t> NetlinkSocket::receive(Task& task, ReceiveRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    auto datagram = TRY(block(task, waiters()->queue, EPOLLIN | EPOLLERR, request.flags & MSG_DONTWAIT,
                              options_.receive_timeout, [&]() -> std::optional<SysResult<NetlinkDatagram>> {
                                  if (int error = take_error(); error != 0)
                                      return SysResult<NetlinkDatagram>(Errno(error));
                                  auto taken = take(request.flags & MSG_PEEK);
                                  if (!taken) return std::nullopt;
                                  return SysResult<NetlinkDatagram>(std::move(*taken));
                              }));
    size_t size = datagram.bytes.size();
    size_t part = std::min(size, request.data.remaining());
    if (part > 0) {
        size_t copied = TRY(request.data.copy_to(datagram.bytes.data(), part));
        if (copied < part) return Errno(EFAULT);
    }
    if (part < size) request.out_flags |= MSG_TRUNC;
    if (request.from != nullptr) *request.from = format(datagram.port, mask_of(datagram.group));
    if (request.control != nullptr) {
        if (flag(NETLINK_PKTINFO)) request.control->add(kSolNetlink, NETLINK_PKTINFO, nl_pktinfo{datagram.group});
        if (has(kPassCredentials)) request.control->add(SOL_SOCKET, SCM_CREDENTIALS, datagram.credentials);
    }
    return request.flags & MSG_TRUNC ? size : part;
}

uint32_t NetlinkSocket::poll_events() {
    uint32_t events = EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    if (pending_error() != 0) events |= EPOLLERR;
    std::lock_guard lock(mutex_);
    if (!queue_.empty() || !dump_.empty()) events |= EPOLLIN | EPOLLRDNORM;
    return events;
}

void NetlinkSocket::closed() {
    if (bound_) network().netlink().release(*this);
    std::deque<NetlinkDatagram> queue, dump;
    std::lock_guard lock(mutex_);
    closed_ = true;
    queue.swap(queue_);
    dump.swap(dump_);
    queued_ = 0;
}

// ---- options

SysResult<bool> NetlinkSocket::set_family_option(Task& task, int level, int name, std::span<const std::byte> value) {
    if (level == SOL_SOCKET && name == SO_PASSCRED) {
        set_flag(kPassCredentials, TRY(option_value<int>(value)) != 0);
        return true;
    }
    if (level != kSolNetlink) return false;
    uint32_t number = 0;
    if (value.size() >= sizeof(number)) memcpy(&number, value.data(), sizeof(number));
    switch (name) {
        case NETLINK_ADD_MEMBERSHIP:
        case NETLINK_DROP_MEMBERSHIP: {
            TRY(check_groups(task));
            if (number == 0 || number > most_groups()) return Errno(EINVAL);
            // Messages only reach a socket that has a port.
            if (!bound_) TRY(bind_port(task, 0));
            std::lock_guard lock(mutex_);
            if (name == NETLINK_ADD_MEMBERSHIP)
                groups_.insert(number);
            else
                groups_.erase(number);
            return true;
        }
        case NETLINK_LISTEN_ALL_NSID:
            if (!task.has_capability(CAP_NET_BROADCAST)) return Errno(EPERM);
            [[fallthrough]];
        case NETLINK_PKTINFO:
        case NETLINK_BROADCAST_ERROR:
        case NETLINK_NO_ENOBUFS:
        case NETLINK_CAP_ACK:
        case NETLINK_EXT_ACK:
        case NETLINK_GET_STRICT_CHK: {
            std::lock_guard lock(mutex_);
            if (number != 0)
                flags_.insert(name);
            else
                flags_.erase(name);
            return true;
        }
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<OptionBytes> NetlinkSocket::get_family_option(Task&, int level, int name, size_t room) {
    if (level != kSolNetlink) return OptionBytes();
    std::lock_guard lock(mutex_);
    switch (name) {
        case NETLINK_LIST_MEMBERSHIPS: {
            std::vector<std::byte> bytes((most_groups() + 31) / 32 * 4);
            for (uint32_t group : groups_) bytes[(group - 1) / 8] |= static_cast<std::byte>(1 << ((group - 1) % 8));
            return OptionBytes(std::move(bytes));
        }
        case NETLINK_PKTINFO:
        case NETLINK_BROADCAST_ERROR:
        case NETLINK_NO_ENOBUFS:
        case NETLINK_LISTEN_ALL_NSID:
        case NETLINK_CAP_ACK:
        case NETLINK_EXT_ACK:
        case NETLINK_GET_STRICT_CHK:
            if (room < sizeof(int)) return Errno(EINVAL);
            return OptionBytes(option_bytes<int>(flags_.contains(name) ? 1 : 0));
        default:
            return Errno(ENOPROTOOPT);
    }
}

SysResult<Ref<Socket>> create_netlink_socket(Ref<Network> network, Task& task, int, int type, int protocol) {
    if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno(ESOCKTNOSUPPORT);
    switch (protocol) {
        case NETLINK_ROUTE:
        case NETLINK_SOCK_DIAG:
        case NETLINK_KOBJECT_UEVENT:
        case NETLINK_GENERIC:
            return Ref<Socket>(make_ref<NetlinkSocket>(type, protocol, std::move(network)));
        case NETLINK_NETFILTER:
            task.kernel().log().add(
                "nf_tables and nfnetlink are not there: packets are not filtered or redirected inside a sandbox");
            return Errno(EPROTONOSUPPORT);
        default:
            return Errno(EPROTONOSUPPORT);
    }
}

// ---- NETLINK_GENERIC: the controller, which knows itself only

SysResult<void> answer_generic_request(const NetlinkRequest& request, NetlinkReply& reply) {
    if (request.header.nlmsg_type != GENL_ID_CTRL) return Errno(ENOENT);
    genlmsghdr header;
    if (request.payload.size() < sizeof(header)) return Errno(EINVAL);
    memcpy(&header, request.payload.data(), sizeof(header));
    if (header.cmd != CTRL_CMD_GETFAMILY) return Errno(EOPNOTSUPP);
    auto attributes = TRY(NetlinkAttributes::parse(request.payload.subspan(sizeof(header)), request.strict));
    reply.dump = request.is_dump();
    if (!reply.dump) {
        auto id = TRY(attributes.value<uint16_t>(CTRL_ATTR_FAMILY_ID));
        auto name = TRY(attributes.text(CTRL_ATTR_FAMILY_NAME, GENL_NAMSIZ - 1));
        if (!id && !name) return Errno(EINVAL);
        if ((id && *id != GENL_ID_CTRL) || (name && *name != "nlctrl")) return Errno(ENOENT);
    }
    NetlinkMessage message(GENL_ID_CTRL, 0, request.header.nlmsg_seq, request.socket.port());
    message.put(genlmsghdr{CTRL_CMD_NEWFAMILY, 2, 0});
    message.text(CTRL_ATTR_FAMILY_NAME, "nlctrl");
    message.attribute<uint16_t>(CTRL_ATTR_FAMILY_ID, GENL_ID_CTRL);
    message.attribute<uint32_t>(CTRL_ATTR_VERSION, 2);
    message.attribute<uint32_t>(CTRL_ATTR_HDRSIZE, 0);
    message.attribute<uint32_t>(CTRL_ATTR_MAXATTR, CTRL_ATTR_OP);
    reply.messages.push_back(std::move(message));
    return {};
}

}  // namespace casemate::sentry
