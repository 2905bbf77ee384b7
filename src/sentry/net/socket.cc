#include "sentry/net/socket.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/kernel/async_notice.h"
#include "sentry/kernel/classic_bpf.h"
#include "sentry/kernel/kernel.h"
#include "sentry/net/interface_ioctl.h"
#include "sentry/net/network.h"
#include "sentry/net/unix/flight.h"

namespace casemate::sentry {

Socket::Socket(int family, int type, int protocol, Ref<Network> network)
    : family_(family),
      type_(type),
      protocol_(protocol),
      network_(std::move(network)),
      waiters_(make_ref<SocketWaiters>()) {}

Socket::~Socket() = default;

void Socket::inherit_options(Socket& from) {
    SocketOptions& other = from.options_;
    options_.flags = other.flags.load();
    options_.send_buffer = other.send_buffer.load();
    options_.receive_buffer = other.receive_buffer.load();
    options_.send_timeout = other.send_timeout.load();
    options_.receive_timeout = other.receive_timeout.load();
    options_.receive_low_water = other.receive_low_water.load();
    options_.linger_seconds = other.linger_seconds.load();
    options_.priority = other.priority.load();
    options_.mark = other.mark.load();
}

SysResult<void> Socket::connect_to_send(Task& task, SendRequest& request) {
    if (request.to == nullptr) return Errno(peer_address().ok() ? EISCONN : EINVAL);
    if (request.to->family() == AF_UNSPEC) return Errno(EOPNOTSUPP);
    TRY(connect(task, *request.to, request.flags & MSG_DONTWAIT));
    request.flags &= ~MSG_FASTOPEN;
    request.to = nullptr;
    return {};
}

SysResult<void> Socket::bind(Task&, const SocketAddress&) { return Errno(EOPNOTSUPP); }
SysResult<void> Socket::connect(Task&, const SocketAddress&, bool) { return Errno(EOPNOTSUPP); }
SysResult<void> Socket::listen(Task&, int) { return Errno(EOPNOTSUPP); }
SysResult<Ref<Socket>> Socket::accept(Task&, bool) { return Errno(EOPNOTSUPP); }
SysResult<void> Socket::connect_pair(Task&, Socket&) { return Errno(EOPNOTSUPP); }
SysResult<size_t> Socket::send(Task&, SendRequest&) { return Errno(EOPNOTSUPP); }
SysResult<size_t> Socket::receive(Task&, ReceiveRequest&) { return Errno(EOPNOTSUPP); }
SysResult<void> Socket::shutdown(int) { return Errno(EOPNOTSUPP); }
SysResult<SocketAddress> Socket::local_address() { return Errno(EOPNOTSUPP); }
SysResult<SocketAddress> Socket::peer_address() { return Errno(EOPNOTSUPP); }
SysResult<bool> Socket::set_family_option(Task&, int, int, std::span<const std::byte>) { return false; }
SysResult<OptionBytes> Socket::get_family_option(Task&, int, int, size_t) { return OptionBytes(); }

Ref<OfferedRead> Socket::offer_read(size_t, const OfferMaker&) { return nullptr; }
SysResult<void> Socket::prepare_map(MapRequest&) { return Errno(ENODEV); }

SysResult<void> Socket::attach_filter(Task& task, std::span<const std::byte> value) {
    if (!has_messages()) return Errno(ENOPROTOOPT);
    if (value.size() != sizeof(sock_fprog)) return Errno(EINVAL);
    auto program = TRY(option_value<sock_fprog>(value));
    if (filter_locked_) return Errno(EPERM);
    if (program.len == 0 || program.len > BPF_MAXINSNS || program.filter == nullptr) return Errno(EINVAL);
    auto filter = make_ref<Filter>();
    filter->code.resize(program.len);
    TRY(task.memory().copy_in(reinterpret_cast<GuestAddr>(program.filter), filter->code.data(),
                              filter->code.size() * sizeof(sock_filter)));
    TRY(check_packet_bpf(filter->code));
    std::lock_guard lock(filter_mutex_);
    filter_ = std::move(filter);
    filtered_ = true;
    return {};
}

size_t Socket::kept_of(std::span<const std::byte> message) {
    Ref<Filter> program = filter();
    if (!program) return message.size();
    // SAFETY: bytes as bytes.
    BpfPacket about{{reinterpret_cast<const uint8_t*>(message.data()), message.size()}};
    about.network_at = SIZE_MAX;
    return std::min<size_t>(run_packet_bpf(program->code, about), message.size());
}

SysResult<void> Socket::detach_filter() {
    if (filter_locked_) return Errno(EPERM);
    Ref<Filter> gone;
    std::lock_guard lock(filter_mutex_);
    if (!filter_) return Errno(ENOENT);
    gone = std::move(filter_);
    filtered_ = false;
    return {};
}

SysResult<int64_t> Socket::ioctl(Task& task, uint64_t command, uint64_t argument) {
    switch (command) {
        case FIONREAD: {
            size_t bytes = TRY(unread());
            TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(bytes)));
            return 0;
        }
        case SIOCOUTQ: {
            size_t bytes = TRY(unsent());
            TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(bytes)));
            return 0;
        }
        default:
            return interface_ioctl(task, *network_, family_, command, argument);
    }
}

Ref<File> SocketFile::create(Task& task, Ref<Socket> socket, int flags) {
    Path place = anonymous_place(task.kernel(), task.credentials(), S_IFSOCK | 0777, "socket");
    struct stat info {};
    if (place.inode().stat(info).ok()) socket->set_inode_number(info.st_ino);
    return make_ref<SocketFile>(std::move(place), flags, std::move(socket));
}

SocketFile::~SocketFile() {
    socket_->closed();
    collect_unreachable_after_close();
}

SysResult<int64_t> SocketFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command == FIOSETOWN || command == SIOCSPGRP) {
        auto id = TRY(task.read(UserPtr<int32_t>(argument)));
        if (id == INT32_MIN) return Errno(EINVAL);
        Owner whom = owner();
        whom.type = id < 0 ? F_OWNER_PGRP : F_OWNER_PID;
        whom.id = id < 0 ? -id : id;
        set_owner(whom);
        update_async_notice(task, *this, -1);
        return 0;
    }
    if (command == FIOGETOWN || command == SIOCGPGRP) {
        Owner whom = owner();
        TRY(task.write(UserPtr<int32_t>(argument), whom.type == F_OWNER_PGRP ? -whom.id : whom.id));
        return 0;
    }
    return socket_->ioctl(task, command, argument);
}

SysResult<size_t> SocketFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() == 0) return size_t{0};
    ReceiveRequest request{into};
    if (nonblocking()) request.flags |= MSG_DONTWAIT;
    return socket_->receive(task, request);
}

SysResult<size_t> SocketFile::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    SendRequest request{from};
    if (nonblocking()) request.flags |= MSG_DONTWAIT;
    return socket_->send(task, request);
}

}  // namespace casemate::sentry
