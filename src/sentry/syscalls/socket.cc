// Sockets: making, naming, connecting, options. Messages are in socket_message.cc.
#include "sentry/syscalls/socket.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/net/family.h"
#include "sentry/net/packet/packet_ring.h"

namespace casemate::sentry {

static_assert(SOCK_NONBLOCK == O_NONBLOCK && SOCK_CLOEXEC == O_CLOEXEC);

SysResult<SocketDescriptor> socket_descriptor(Task& task, int fd) {
    Ref<File> file = TRY(task.files().get(fd));
    Socket* socket = file->as_socket();
    if (socket == nullptr) return Errno(ENOTSOCK);
    return SocketDescriptor{std::move(file), socket};
}

namespace {

constexpr int kTypeMask = 0xf;
constexpr int kCreationFlags = SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kMostOptionBytes = 64 << 10;

SysResult<int64_t> install(Task& task, Ref<File> file, int flags) {
    return TRY(task.files().insert(std::move(file), flags & SOCK_CLOEXEC, task.limit(RLIMIT_NOFILE)));
}

SysResult<int64_t> sys_socket(Task& task, const SyscallArgs& args) {
    int type = args.i32(1) & kTypeMask, flags = args.i32(1) & ~kTypeMask;
    if (flags & ~kCreationFlags) return Errno(EINVAL);
    Ref<Socket> socket = TRY(create_socket(task, args.i32(0), type, args.i32(2)));
    return install(task, SocketFile::create(task, std::move(socket), flags), flags);
}

SysResult<int64_t> sys_socketpair(Task& task, const SyscallArgs& args) {
    int type = args.i32(1) & kTypeMask, flags = args.i32(1) & ~kTypeMask;
    if (flags & ~kCreationFlags) return Errno(EINVAL);
    Ref<Socket> first = TRY(create_socket(task, args.i32(0), type, args.i32(2)));
    Ref<Socket> second = TRY(create_socket(task, args.i32(0), type, args.i32(2)));
    Ref<File> files[2] = {SocketFile::create(task, first, flags), SocketFile::create(task, second, flags)};
    TRY(first->connect_pair(task, *second));
    int fds[2];
    fds[0] = static_cast<int>(TRY(install(task, files[0], flags)));
    auto other = install(task, files[1], flags);
    if (!other.ok()) {
        static_cast<void>(task.files().remove(fds[0]));
        return other.take_error();
    }
    fds[1] = static_cast<int>(*other);
    auto written = task.memory().copy_out(args.u64(3), fds, sizeof(fds));
    if (!written.ok()) {
        static_cast<void>(task.files().remove(fds[0]));
        static_cast<void>(task.files().remove(fds[1]));
        return written.take_error();
    }
    return 0;
}

SysResult<int64_t> sys_bind(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    SocketAddress address = TRY(read_address(task, args.u64(1), args.i32(2)));
    TRY(it.socket->bind(task, address));
    return 0;
}

SysResult<int64_t> sys_connect(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    SocketAddress address = TRY(read_address(task, args.u64(1), args.i32(2)));
    TRY(it.socket->connect(task, address, it.file->nonblocking()));
    return 0;
}

SysResult<int64_t> sys_listen(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    TRY(it.socket->listen(task, args.i32(1)));
    return 0;
}

SysResult<int64_t> do_accept(Task& task, int fd, GuestAddr address, GuestAddr size_at, int flags) {
    if (flags & ~kCreationFlags) return Errno(EINVAL);
    SocketDescriptor it = TRY(socket_descriptor(task, fd));
    Ref<Socket> accepted = TRY(it.socket->accept(task, it.file->nonblocking()));
    // From here on the file owns the connection: it is closed if anything below fails.
    Ref<File> file = SocketFile::create(task, accepted, flags);
    if (address != 0) {
        auto peer = accepted->peer_address();
        SocketAddress name = peer.ok() ? *peer : SocketAddress(static_cast<sa_family_t>(accepted->family()));
        TRY(write_address(task, name, address, size_at));
    }
    return install(task, std::move(file), flags);
}
SysResult<int64_t> sys_accept(Task& task, const SyscallArgs& args) {
    return do_accept(task, args.fd(0), args.u64(1), args.u64(2), 0);
}
SysResult<int64_t> sys_accept4(Task& task, const SyscallArgs& args) {
    return do_accept(task, args.fd(0), args.u64(1), args.u64(2), args.i32(3));
}

SysResult<int64_t> sys_shutdown(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    TRY(it.socket->shutdown(args.i32(1)));
    return 0;
}

SysResult<int64_t> sys_getsockname(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    SocketAddress address = TRY(it.socket->local_address());
    TRY(write_address(task, address, args.u64(1), args.u64(2)));
    return 0;
}

SysResult<int64_t> sys_getpeername(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    SocketAddress address = TRY(it.socket->peer_address());
    TRY(write_address(task, address, args.u64(1), args.u64(2)));
    return 0;
}

SysResult<int64_t> sys_setsockopt(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    int size = args.i32(4);
    if (size < 0 || size > kMostOptionBytes) return Errno(EINVAL);
    std::vector<std::byte> value(static_cast<size_t>(size));
    TRY(task.memory().copy_in(args.u64(3), value.data(), value.size()));
    TRY(it.socket->set_option(task, args.i32(1), args.i32(2), value));
    it.socket->options_changed();
    return 0;
}

SysResult<int64_t> sys_getsockopt(Task& task, const SyscallArgs& args) {
    SocketDescriptor it = TRY(socket_descriptor(task, args.fd(0)));
    UserPtr<int32_t> size_at(args.u64(4));
    int32_t room = TRY(task.read(size_at));
    if (room < 0) return Errno(EINVAL);
    // The one option whose answer depends on what is in the buffer: a version.
    if (it.socket->family() == AF_PACKET && args.i32(1) == SOL_PACKET && args.i32(2) == PACKET_HDRLEN) {
        int version = 0;
        if (static_cast<size_t>(room) < sizeof(version)) return Errno(EINVAL);
        TRY(task.memory().copy_in(args.u64(3), &version, sizeof(version)));
        unsigned header = TRY(PacketRing::header_size(version));
        TRY(task.memory().copy_out(args.u64(3), &header, sizeof(header)));
        TRY(task.write(size_at, static_cast<int32_t>(sizeof(header))));
        return 0;
    }
    auto value = TRY(it.socket->get_option(task, args.i32(1), args.i32(2), static_cast<size_t>(room)));
    size_t part = std::min(value.size(), static_cast<size_t>(room));
    TRY(task.memory().copy_out(args.u64(3), value.data(), part));
    TRY(task.write(size_at, static_cast<int32_t>(part)));
    return 0;
}

constexpr SyscallRow kRows[] = {
    {41, "socket", sys_socket, Support::kPartial,
     "AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET; with --net host the host's TCP, UDP and ICMP echo"},
    {42, "connect", sys_connect, Support::kFull},
    {43, "accept", sys_accept, Support::kFull},
    {48, "shutdown", sys_shutdown, Support::kFull},
    {49, "bind", sys_bind, Support::kFull},
    {50, "listen", sys_listen, Support::kFull},
    {51, "getsockname", sys_getsockname, Support::kFull},
    {52, "getpeername", sys_getpeername, Support::kFull},
    {53, "socketpair", sys_socketpair, Support::kFull},
    {54, "setsockopt", sys_setsockopt, Support::kPartial, "filters of classic BPF, not on TCP and Unix SEQPACKET"},
    {55, "getsockopt", sys_getsockopt, Support::kPartial, "TCP_INFO in outline"},
    {288, "accept4", sys_accept4, Support::kFull},
};

std::vector<SyscallRow> joined_rows() {
    std::vector<SyscallRow> rows(std::begin(kRows), std::end(kRows));
    auto messages = socket_message_syscalls();
    rows.insert(rows.end(), messages.begin(), messages.end());
    return rows;
}

}  // namespace

std::span<const SyscallRow> socket_syscalls() {
    static const std::vector<SyscallRow> rows = joined_rows();
    return rows;
}

}  // namespace casemate::sentry
