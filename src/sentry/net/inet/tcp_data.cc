// Data on TCP connections over the loopback.
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
        size_t size = request.data.remaining();
        waiters()->everything();
        return size;
    }
    if (int error = take_connection_error(mine); error != 0 && error != EPIPE) return Errno(error);
    return broken_pipe(task, request);
}

SysResult<size_t> TcpSocket::send(Task& task, SendRequest& request) {
    if (request.flags & (MSG_OOB | MSG_FASTOPEN)) return Errno(EOPNOTSUPP);
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
    bool at_end = false;
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                            while (request.data.remaining() > 0) {
                                auto progress = outgoing.write(request.data, limit, nullptr);
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
    if (!result.ok() && total > 0) return total;
    return result;
}

SysResult<size_t> TcpSocket::receive(Task& task, ReceiveRequest& request) {
    Attached mine = attached();
    if (request.flags & MSG_ERRQUEUE) return Errno(EAGAIN);
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
    if (request.flags & MSG_OOB) return Errno(EINVAL);  // no urgent data came
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
        task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
        options_.receive_timeout, [&]() -> std::optional<SysResult<size_t>> {
            while (true) {
                auto progress = discard ? incoming.skip(wanted - total, reading) : incoming.read(request.data, reading);
                total += progress.bytes;
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
        });
    if (!result.ok() && total > 0) return total;
    return result;
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
