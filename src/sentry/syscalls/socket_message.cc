// send*, recv*: messages through sockets.
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "sentry/kernel/task_parts.h"
#include "sentry/syscalls/socket.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMaxTransfer = 0x7ffff000;  // MAX_RW_COUNT
constexpr size_t kMaxPieces = 1024;          // UIO_MAXIOV

// The kernel's struct user_msghdr: what glibc's msghdr is on x86-64.
static_assert(sizeof(msghdr) == 56 && sizeof(mmsghdr) == 64);

// The pieces of a message, copied in once.
class Pieces {
  public:
    SysResult<void> read(Task& task, GuestAddr from, size_t count) {
        if (count > kMaxPieces) return Errno(EMSGSIZE);
        iovec* into = few_.data();
        if (count > few_.size()) {
            many_.resize(count);
            into = many_.data();
        }
        if (count > 0) TRY(task.memory().copy_in(from, into, count * sizeof(iovec)));
        size_t total = 0;
        for (size_t i = 0; i < count; i++) {
            if (static_cast<ssize_t>(into[i].iov_len) < 0) return Errno(EINVAL);
            into[i].iov_len = std::min(into[i].iov_len, kMaxTransfer - total);
            total += into[i].iov_len;
        }
        pieces_ = {into, count};
        return {};
    }
    IoBuffer buffer(Task& task) const {
        if (pieces_.empty()) return IoBuffer::user(task.memory(), 0, 0);
        return IoBuffer::user(task.memory(), pieces_);
    }

  private:
    std::array<iovec, 8> few_;
    std::vector<iovec> many_;
    std::span<const iovec> pieces_;
};

// SAFETY: pointers in a guest's msghdr are numbers to us.
GuestAddr address_of(const void* pointer) { return reinterpret_cast<GuestAddr>(pointer); }

SysResult<msghdr> read_header(Task& task, GuestAddr from) {
    auto header = TRY(task.read(UserPtr<msghdr>(from)));
    if (header.msg_name == nullptr) header.msg_namelen = 0;
    if (static_cast<int32_t>(header.msg_namelen) < 0) return Errno(EINVAL);
    header.msg_namelen = std::min<socklen_t>(header.msg_namelen, sizeof(sockaddr_storage));
    return header;
}

SysResult<int64_t> send_message(Task& task, const SocketDescriptor& it, GuestAddr from, int flags) {
    msghdr header = TRY(read_header(task, from));
    Pieces pieces;
    TRY(pieces.read(task, address_of(header.msg_iov), header.msg_iovlen));
    SocketAddress address;
    if (header.msg_namelen > 0) address = TRY(read_address(task, address_of(header.msg_name), header.msg_namelen));
    SentControl control;
    if (header.msg_control != nullptr && header.msg_controllen > 0)
        control = TRY(read_control(task, address_of(header.msg_control), header.msg_controllen));
    IoBuffer data = pieces.buffer(task);
    SendRequest request{data, it.message_flags(flags)};
    if (header.msg_namelen > 0) request.to = &address;
    if (header.msg_control != nullptr && header.msg_controllen > 0) request.control = &control;
    size_t sent = TRY(it.socket->send(task, request));
    return static_cast<int64_t>(sent);
}

SysResult<int64_t> receive_message(Task& task, const SocketDescriptor& it, GuestAddr into, int flags) {
    msghdr header = TRY(read_header(task, into));
    Pieces pieces;
    TRY(pieces.read(task, address_of(header.msg_iov), header.msg_iovlen));
    IoBuffer data = pieces.buffer(task);
    ReceivedControl control;
    SocketAddress from;
    ReceiveRequest request{data, it.message_flags(flags)};
    request.control = &control;
    if (header.msg_name != nullptr) request.from = &from;
    size_t received = TRY(it.socket->receive(task, request));
    if (header.msg_name != nullptr)
        TRY(write_address(task, from, address_of(header.msg_name), into + offsetof(msghdr, msg_namelen)));
    size_t used = 0;
    if (!control.items.empty() || !control.files.empty()) {
        size_t room = header.msg_control != nullptr ? header.msg_controllen : 0;
        used = TRY(write_control(task, control, address_of(header.msg_control), room, flags & MSG_CMSG_CLOEXEC));
        if (control.truncated) request.out_flags |= MSG_CTRUNC;
    }
    int out_flags = request.out_flags | (flags & MSG_CMSG_CLOEXEC);
    TRY(task.write(UserPtr<int32_t>(into + offsetof(msghdr, msg_flags)), out_flags));
    TRY(task.write(UserPtr<uint64_t>(into + offsetof(msghdr, msg_controllen)), static_cast<uint64_t>(used)));
    return static_cast<int64_t>(received);
}

SysResult<int64_t> sys_sendto(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    IoBuffer data = IoBuffer::user(task.memory(), args.u64(1), std::min(args.u64(2), kMaxTransfer));
    SendRequest request{data, it.message_flags(args.i32(3))};
    SocketAddress address;
    if (args.u64(4) != 0) {
        address = TRY(read_address(task, args.u64(4), args.i32(5)));
        if (address.size > 0) request.to = &address;
    }
    size_t sent = TRY(it.socket->send(task, request));
    return static_cast<int64_t>(sent);
}

SysResult<int64_t> sys_recvfrom(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    IoBuffer data = IoBuffer::user(task.memory(), args.u64(1), std::min(args.u64(2), kMaxTransfer));
    ReceiveRequest request{data, it.message_flags(args.i32(3))};
    SocketAddress from;
    if (args.u64(4) != 0) request.from = &from;
    auto received = it.socket->receive(task, request);
    if (args.i32(3) == 0)
        task.parts().standing_answers.after_read(task, args.nr, args.fd(0), *it.file, *it.socket, received);
    if (!received.ok()) return received.error();
    if (args.u64(4) != 0) TRY(write_address(task, from, args.u64(4), args.u64(5)));
    return static_cast<int64_t>(*received);
}

SysResult<int64_t> sys_sendmsg(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    return send_message(task, it, args.u64(1), args.i32(2));
}

SysResult<int64_t> sys_recvmsg(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    return receive_message(task, it, args.u64(1), args.i32(2));
}

SysResult<int64_t> sys_sendmmsg(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    uint32_t count = std::min<uint32_t>(args.u32(2), kMaxPieces);
    int64_t done = 0;
    for (uint32_t i = 0; i < count; i++) {
        GuestAddr at = args.u64(1) + i * sizeof(mmsghdr);
        auto sent = send_message(task, it, at, args.i32(3));
        if (!sent.ok()) {
            if (done > 0) return done;
            return sent;
        }
        auto told = task.write(UserPtr<uint32_t>(at + offsetof(mmsghdr, msg_len)), static_cast<uint32_t>(*sent));
        if (!told.ok()) {
            if (done > 0) return done;
            return told.take_error();
        }
        done++;
    }
    return done;
}

SysResult<int64_t> sys_recvmmsg(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    uint32_t count = std::min<uint32_t>(args.u32(2), kMaxPieces);
    int flags = args.i32(3);
    UserPtr<timespec> timeout_at(args.u64(4));
    Deadline deadline;
    if (timeout_at) {
        auto timeout = TRY(task.read(timeout_at));
        if (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= kSecond) return Errno(EINVAL);
        Nanoseconds total;
        if (!__builtin_mul_overflow(timeout.tv_sec, kSecond, &total) &&
            !__builtin_add_overflow(total, timeout.tv_nsec + monotonic_now(), &total))
            deadline = total;
    }
    if (int error = it.socket->take_error(); error != 0) return Errno(error);
    int64_t done = 0;
    std::optional<Errno> failure;
    for (uint32_t i = 0; i < count; i++) {
        GuestAddr at = args.u64(1) + i * sizeof(mmsghdr);
        auto received = receive_message(task, it, at, flags & ~MSG_WAITFORONE);
        if (!received.ok()) {
            failure = received.error();
            break;
        }
        auto told = task.write(UserPtr<uint32_t>(at + offsetof(mmsghdr, msg_len)), static_cast<uint32_t>(*received));
        if (!told.ok()) {
            failure = told.error();
            break;
        }
        done++;
        if (flags & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
        // As on Linux, the time is looked at between messages only.
        if (deadline && monotonic_now() >= *deadline) break;
    }
    if (timeout_at && deadline) {
        Nanoseconds rest = std::max<Nanoseconds>(*deadline - monotonic_now(), 0);
        TRY(task.write(timeout_at, timespec{rest / kSecond, rest % kSecond}));
    }
    if (done > 0) return done;
    if (failure) return *failure;
    return done;
}

constexpr SyscallRow kRows[] = {
    {44, "sendto", sys_sendto, Support::kFull},      {45, "recvfrom", sys_recvfrom, Support::kFull},
    {46, "sendmsg", sys_sendmsg, Support::kFull},    {47, "recvmsg", sys_recvmsg, Support::kFull},
    {299, "recvmmsg", sys_recvmmsg, Support::kFull}, {307, "sendmmsg", sys_sendmmsg, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> socket_message_syscalls() { return kRows; }

}  // namespace casemate::sentry
