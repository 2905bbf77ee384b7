// Data on TCP connections over the loopback.
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>

#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/stack/connection.h"

namespace casemate::sentry {
namespace {

// A direction's buffer while nobody has chosen one: Linux tunes towards megabytes, the loopback gains nothing above
// what caches hold.
constexpr size_t kTunedBuffer = 512 << 10;

SysResult<size_t> broken_pipe(Task& task, const SendRequest& request) {
    if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
    return Errno(EPIPE);
}

}  // namespace

size_t TcpSocket::send_limit(const Attached&) {
    if (!buffers_chosen_.load(std::memory_order_relaxed)) return kTunedBuffer;
    return size_t{options_.send_buffer.load(std::memory_order_relaxed)} +
           options_.receive_buffer.load(std::memory_order_relaxed);
}

int TcpSocket::take_connection_error(const Attached& mine) {
    std::atomic<int>& left = mine.connection->errors[mine.side];
    if (left.load(std::memory_order_relaxed) != 0) [[unlikely]]
        return left.exchange(0);
    return pending_error() != 0 ? take_error() : 0;
}

// The other end is closed. The first data that reaches it is answered by a reset; then nothing can be sent.
SysResult<size_t> TcpSocket::write_after_end(Task& task, const Attached& mine, const SendRequest& request) {
    TcpConnection& connection = *mine.connection;
    if (!connection.reset[mine.side].exchange(true)) {
        connection.errors[mine.side] = EPIPE;  // the end had come before
        ports().drop_waiting(connection.ends[1 - mine.side], connection.ends[mine.side]);
        size_t size = request.data.remaining();
        waiters()->everything();
        return size;
    }
    if (int error = take_connection_error(mine); error != 0 && error != EPIPE) return Errno(error);
    return broken_pipe(task, request);
}

SysResult<size_t> TcpSocket::send(Task& task, SendRequest& request) {
    if (request.flags & MSG_FASTOPEN) TRY(connect_to_send(task, request));
    Attached mine = attached();
    if (mine.outside) return send_outside(task, *mine.outside, request);
    if (!mine.connection) {
        // Waits for the end of connect().
        TRY(block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                  options_.send_timeout, [&]() -> std::optional<SysResult<void>> {
                      std::lock_guard lock(mutex_);
                      if (state_ == State::kConnecting) return std::nullopt;
                      return SysResult<void>();
                  }));
        mine = attached();
        if (!mine.connection) {
            if (int error = take_error(); error != 0) return Errno(error);
            return broken_pipe(task, request);
        }
    }
    TcpConnection& connection = *mine.connection;
    if (send_shut_.load(std::memory_order_relaxed)) return broken_pipe(task, request);
    if (connection.reset[mine.side].load(std::memory_order_relaxed)) return write_after_end(task, mine, request);
    if (request.data.remaining() == 0) return size_t{0};
    StreamDirection& outgoing = connection.bytes.outgoing(mine.side);
    size_t limit = send_limit(mine);
    size_t total = 0;
    bool at_end = false, urgent = request.flags & MSG_OOB;
    size_t wanted = request.data.remaining();
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                            while (request.data.remaining() > 0) {
                                auto progress = urgent ? outgoing.write_marked(request.data, limit, wanted - total,
                                                                               [&](uint64_t end, std::byte last) {
                                                                                   mark_urgent(mine, end, last);
                                                                               })
                                                       : outgoing.write(request.data, limit, nullptr);
                                if (progress.ended) {
                                    at_end = true;
                                    return SysResult<size_t>(total);
                                }
                                if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                                if (progress.would_block) return std::nullopt;
                                total += progress.bytes;
                            }
                            return SysResult<size_t>(total);
                        });
    if (at_end && total == 0) return write_after_end(task, mine, request);
    if (total > 0 && request.flags & MSG_ZEROCOPY && has(kZeroCopy)) {
        errors_.complete(zero_copies_.fetch_add(1));
        waiters()->everything();
    }
    if (!result.ok() && total > 0) return total;
    return result;
}

void TcpSocket::mark_urgent(const Attached& mine, uint64_t end, std::byte last) {
    TcpConnection::Urgent& urgent = mine.connection->urgent[mine.side];
    std::lock_guard lock(urgent.mutex);
    urgent.valid = urgent.unread = true;
    urgent.mark = end - 1;
    urgent.byte = last;
    urgent.sent = true;
}

size_t TcpSocket::up_to_mark(const Attached& mine, bool peek) {
    TcpConnection::Urgent& urgent = mine.connection->urgent[1 - mine.side];
    if (!urgent.sent.load(std::memory_order_acquire)) return SIZE_MAX;
    StreamDirection& incoming = mine.connection->bytes.incoming(mine.side);
    std::lock_guard lock(urgent.mutex);
    uint64_t at = incoming.position();
    if (!urgent.valid || urgent.mark < at) return SIZE_MAX;
    if (urgent.mark > at) return urgent.mark - at;
    // At the mark: the byte is part of the stream, or stepped over.
    if (has(kOobInline)) return SIZE_MAX;
    if (peek) return 0;
    StreamDirection::Reading reading;
    incoming.skip(1, reading);
    return SIZE_MAX;
}

SysResult<size_t> TcpSocket::receive_urgent(const Attached& mine, ReceiveRequest& request) {
    TcpConnection::Urgent& urgent = mine.connection->urgent[1 - mine.side];
    std::lock_guard lock(urgent.mutex);
    if (has(kOobInline) || !urgent.valid || !urgent.unread) return Errno(EINVAL);
    request.out_flags |= MSG_OOB;
    if (request.data.remaining() == 0) {
        request.out_flags |= MSG_TRUNC;
        return size_t{0};
    }
    size_t copied = TRY(request.data.copy_to(&urgent.byte, 1));
    if (!(request.flags & MSG_PEEK)) urgent.unread = false;
    return copied;
}

SysResult<int64_t> TcpSocket::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command != SIOCATMARK) return InetSocket::ioctl(task, command, argument);
    Attached mine = attached();
    int at_mark = mine.outside && mine.outside->at_mark() ? 1 : 0;
    if (mine.connection) {
        TcpConnection::Urgent& urgent = mine.connection->urgent[1 - mine.side];
        std::lock_guard lock(urgent.mutex);
        at_mark = urgent.valid && urgent.mark == mine.connection->bytes.incoming(mine.side).position();
    }
    TRY(task.write(UserPtr<int32_t>(argument), at_mark));
    return 0;
}

SysResult<size_t> TcpSocket::receive(Task& task, ReceiveRequest& request) {
    Attached mine = attached();
    if (request.flags & MSG_ERRQUEUE) {
        int next = 0;
        std::optional<QueuedError> error = errors_.take(next);
        if (!error) return Errno(EAGAIN);
        request.out_flags |= MSG_ERRQUEUE;
        struct {
            sock_extended_err what;
            sockaddr_in6 offender;
        } told{error->what, {}};
        if (request.control != nullptr)
            request.control->add(v6() ? IPPROTO_IPV6 : IPPROTO_IP, v6() ? IPV6_RECVERR : IP_RECVERR, told);
        return size_t{0};
    }
    if (mine.outside) return receive_outside(task, *mine.outside, request);
    if (!mine.connection) {
        if (int error = take_error(); error != 0) return Errno(error);
        {
            std::lock_guard lock(mutex_);
            if (state_ != State::kConnecting) return Errno(ENOTCONN);
        }
        TRY(block(task, waiters()->queue, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                  options_.receive_timeout, [&]() -> std::optional<SysResult<void>> {
                      std::lock_guard lock(mutex_);
                      if (state_ == State::kConnecting) return std::nullopt;
                      return SysResult<void>();
                  }));
        mine = attached();
        if (!mine.connection) {
            int error = take_error();
            return Errno(error != 0 ? error : ENOTCONN);
        }
    }
    if (request.flags & MSG_OOB) return receive_urgent(mine, request);
    if (request.from != nullptr) request.from->size = 0;
    TcpConnection& connection = *mine.connection;
    StreamDirection& incoming = connection.bytes.incoming(mine.side);
    StreamDirection::Reading reading;
    reading.peek = request.flags & MSG_PEEK;
    bool discard = (request.flags & (MSG_TRUNC | MSG_PEEK)) == MSG_TRUNC;
    size_t wanted = request.data.remaining();
    if (wanted == 0) return size_t{0};
    size_t target = request.flags & MSG_WAITALL
                        ? wanted
                        : std::min<size_t>(options_.receive_low_water.load(std::memory_order_relaxed), wanted);
    size_t total = 0;
    auto result = block(
        task, waiters(), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
        options_.receive_timeout,
        [&]() -> std::optional<SysResult<size_t>> {
            while (true) {
                // A read ends at an urgent mark that lies ahead.
                size_t most = up_to_mark(mine, reading.peek);
                if (reading.peek && most != SIZE_MAX) most -= std::min(most, reading.peeked);
                if (most != SIZE_MAX && total > 0 && !reading.peek && most == 0) return SysResult<size_t>(total);
                auto progress = discard ? incoming.skip(std::min(wanted - total, most), reading)
                                        : incoming.read(request.data, reading, most);
                total += progress.bytes;
                if (progress.bytes > 0 && progress.bytes == most) return SysResult<size_t>(total);
                if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                if (total >= target) return SysResult<size_t>(total);
                if (progress.bytes > 0) continue;
                bool over = progress.ended || receive_shut_.load(std::memory_order_relaxed) ||
                            connection.reset[mine.side].load(std::memory_order_relaxed);
                if (total > 0) {
                    if (over) return SysResult<size_t>(total);
                    return std::nullopt;
                }
                // An end that came in order is no error, whatever followed it.
                if (int error = connection.errors[mine.side]; error != 0 && error != EPIPE)
                    return SysResult<size_t>(Errno(take_connection_error(mine)));
                if (over) return SysResult<size_t>(size_t{0});
                return std::nullopt;
            }
        },
        [&] { return total == 0 && target <= 1; });
    if (!result.ok() && total > 0) return total;
    return result;
}

TcpSocket::Moved TcpSocket::push(std::span<std::byte> bytes) {
    Attached mine = attached();
    if (!mine.connection) {
        std::lock_guard lock(mutex_);
        bool over = state_ != State::kConnecting;
        return {.over = over, .reset = over};
    }
    if (mine.connection->reset[mine.side]) return {.over = true, .reset = true};
    IoBuffer data = IoBuffer::kernel(bytes);
    auto progress = mine.connection->bytes.outgoing(mine.side).write(data, send_limit(mine), nullptr);
    return {.bytes = progress.bytes, .over = progress.ended};
}

TcpSocket::Moved TcpSocket::pull(std::span<std::byte> into) {
    Attached mine = attached();
    if (!mine.connection) {
        std::lock_guard lock(mutex_);
        bool over = state_ != State::kConnecting;
        return {.over = over, .reset = over};
    }
    StreamDirection::Reading reading;
    IoBuffer data = IoBuffer::kernel(into);
    auto progress = mine.connection->bytes.incoming(mine.side).read(data, reading);
    bool reset = progress.bytes == 0 && mine.connection->reset[mine.side];
    return {.bytes = progress.bytes, .over = progress.ended || reset, .reset = reset};
}

uint32_t TcpSocket::poll_events() {
    Attached mine = attached();
    if (mine.outside) return mine.outside->poll_events();
    if (!mine.connection) {
        std::lock_guard lock(mutex_);
        uint32_t error = pending_error() != 0 ? EPOLLERR | EPOLLIN | EPOLLRDNORM | EPOLLRDHUP : 0u;
        switch (state_) {
            case State::kListening:
                return pending_.empty() ? 0u : EPOLLIN | EPOLLRDNORM;
            case State::kConnecting:
                return error;
            default:
                if (receive_shut_) error |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
                return error | EPOLLOUT | EPOLLWRNORM | EPOLLHUP;
        }
    }
    TcpConnection& connection = *mine.connection;
    StreamDirection& incoming = connection.bytes.incoming(mine.side);
    StreamDirection& outgoing = connection.bytes.outgoing(mine.side);
    uint32_t events = 0;
    bool reset = connection.reset[mine.side].load(std::memory_order_relaxed);
    bool receive_over = receive_shut_.load(std::memory_order_relaxed) || reset || incoming.ended();
    bool send_over = send_shut_.load(std::memory_order_relaxed) || reset;
    if (connection.errors[mine.side].load(std::memory_order_relaxed) != 0 || pending_error() != 0) events |= EPOLLERR;
    if (receive_over && send_over) events |= EPOLLHUP;
    if (receive_over) events |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
    if (incoming.readable()) events |= EPOLLIN | EPOLLRDNORM;
    if (!errors_.empty()) events |= EPOLLERR;
    if (connection.urgent[1 - mine.side].sent.load(std::memory_order_acquire)) {
        TcpConnection::Urgent& urgent = connection.urgent[1 - mine.side];
        std::lock_guard lock(urgent.mutex);
        if (urgent.valid && urgent.unread) events |= EPOLLPRI;
    }
    if (send_over || outgoing.writable(send_limit(mine))) events |= EPOLLOUT | EPOLLWRNORM;
    return events;
}

SysResult<size_t> TcpSocket::unread() {
    Attached mine = attached();
    if (mine.outside) return mine.outside->unread();
    if (!mine.connection) return listening() ? SysResult<size_t>(Errno(EINVAL)) : SysResult<size_t>(size_t{0});
    return mine.connection->bytes.incoming(mine.side).bytes();
}

// What the other end's kernel has taken is no longer ours: all of it, in the pod.
SysResult<size_t> TcpSocket::unsent() {
    if (Attached mine = attached(); mine.outside) return mine.outside->unsent();
    if (listening()) return Errno(EINVAL);
    return size_t{0};
}

}  // namespace casemate::sentry
