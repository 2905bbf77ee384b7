// TCP sockets whose peer is outside the pod: the operations on a connection of the stack (net/stack/connection.h).
#include <linux/tcp.h>
#include <netinet/in.h>

#include <algorithm>

#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/link/wire.h"
#include "sentry/net/network.h"
#include "sentry/net/stack/connection.h"

namespace casemate::sentry {
namespace {

constexpr int kPortAttempts = 64;

using stack::Connection;
using stack::TcpState;

}  // namespace

// What the options say, to the connection.
void TcpSocket::tune(Connection& connection) {
    stack::Tuning& tuning = connection.tuning;
    auto number = [&](int name, int fallback) { return static_cast<uint32_t>(option(IPPROTO_TCP, name, fallback)); };
    tuning.no_delay = number(TCP_NODELAY, 0) != 0;
    tuning.cork = number(TCP_CORK, 0) != 0;
    tuning.urgent_inline = has(kOobInline);
    tuning.keep_alive = has(kKeepAlive);
    tuning.keep_idle = number(TCP_KEEPIDLE, 7200);
    tuning.keep_interval = number(TCP_KEEPINTVL, 75);
    tuning.keep_count = number(TCP_KEEPCNT, 9);
    tuning.syn_retries = number(TCP_SYNCNT, 6);
    tuning.user_timeout_ms = number(TCP_USER_TIMEOUT, 0);
    tuning.most_segment = number(TCP_MAXSEG, 0);
    bool v4 = connection.tuple().peer.address.is_v4();
    tuning.hop_limit =
        static_cast<uint8_t>(v4 ? option(IPPROTO_IP, IP_TTL, 64) : option(IPPROTO_IPV6, IPV6_UNICAST_HOPS, 64));
    tuning.traffic_class =
        static_cast<uint8_t>(v4 ? option(IPPROTO_IP, IP_TOS, 0) : option(IPPROTO_IPV6, IPV6_TCLASS, 0));
    tuning.send_buffer = send_buffer_chosen_ ? options_.send_buffer.load() : 0;
    tuning.receive_buffer = receive_buffer_chosen_ ? options_.receive_buffer.load() : 0;
}

void TcpSocket::options_changed() {
    Attached mine = attached();
    if (!mine.outside) return;
    tune(*mine.outside);
    mine.outside->options_changed();
}

// Binds and sends the SYN; afterwards the socket is connecting.
SysResult<void> TcpSocket::start_outside(const InetEndpoint& peer, const RouteChoice& way) {
    Wire* wire = network().wire();
    if (wire == nullptr || way.link == Interfaces::kLoopback) return Errno(ENETUNREACH);
    std::lock_guard lock(mutex_);
    switch (state_) {
        case State::kClosed:
            break;
        case State::kConnecting:
            return Errno(EALREADY);
        case State::kConnected:
        case State::kListening:
            return Errno(EISCONN);
    }
    if (int error = take_error(); error != 0) return Errno(error);
    bool own_port = bound_locked();
    InetAddress source = own_port && !local_.address.is_any() ? local_.address : way.source;
    for (int attempt = 0;; attempt++) {
        if (own_port)
            ports().set_peer(*this, {source, local_.port}, peer);
        else
            TRY(ports().bind_ephemeral(*this, source, peer));
        stack::Tuple tuple{{source, local_.port}, peer};
        auto connection = make_ref<Connection>(Ref<stack::Stack>(&wire->stack()), tuple,
                                               static_cast<uint32_t>(options_.bound_device.load()), waiters());
        tune(*connection);
        {
            std::lock_guard attached_lock(attached_mutex_);
            attached_ = {nullptr, 0, connection};
        }
        auto started = wire->stack().connect(connection);
        if (started.ok()) break;
        {
            std::lock_guard attached_lock(attached_mutex_);
            attached_ = {};
        }
        if (!own_port) {
            ports().release(*this);
            local_.address = any();
        }
        // A connection of before that waits for its time holds this pair of ends.
        if (own_port || started.error().value != EADDRNOTAVAIL || attempt >= kPortAttempts) return started;
    }
    state_ = State::kConnecting;
    bound_by_connect_ = !own_port;
    return {};
}

// After the stack has come to an end with connecting: connected, or closed with the error.
SysResult<void> TcpSocket::finish_outside(Connection& connection) {
    std::lock_guard lock(mutex_);
    if (state_ == State::kConnected) {
        connect_untold_ = false;
        return {};
    }
    TcpState reached = connection.state();
    if (reached != TcpState::kClosed) {
        state_ = State::kConnected;
        connect_untold_ = false;
        return {};
    }
    int error = connection.take_error();
    {
        std::lock_guard attached_lock(attached_mutex_);
        attached_ = {};
    }
    state_ = State::kClosed;
    told_ = false;
    if (bound_by_connect_) {
        ports().release(*this);
        local_.address = any();
    }
    return Errno(error != 0 ? error : ECONNABORTED);
}

SysResult<void> TcpSocket::connect_outside(Task& task, const InetEndpoint& peer, const RouteChoice& way,
                                           bool nonblocking) {
    Attached mine = attached();
    bool fresh = !mine.outside;
    if (fresh) {
        TRY(start_outside(peer, way));
        mine = attached();
        if (!mine.outside) return Errno(ECONNABORTED);
    } else {
        std::unique_lock lock(mutex_);
        if (state_ == State::kConnected) {
            if (std::exchange(connect_untold_, false)) return {};
            return Errno(EISCONN);
        }
    }
    Connection& connection = *mine.outside;
    if (nonblocking && connection.connecting()) return Errno(fresh ? EINPROGRESS : EALREADY);
    auto done = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, nonblocking, options_.send_timeout,
                      [&]() -> std::optional<SysResult<void>> {
                          if (connection.connecting()) return std::nullopt;
                          return finish_outside(connection);
                      });
    if (!done.ok() && done.error().value == EAGAIN) return Errno(EINPROGRESS);
    return done;
}

SysResult<size_t> TcpSocket::send_outside(Task& task, Connection& connection, SendRequest& request) {
    auto broken = [&]() -> SysResult<size_t> {
        if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
        return Errno(EPIPE);
    };
    if (send_shut_.load(std::memory_order_relaxed)) return broken();
    if (request.data.remaining() == 0 && !connection.connecting()) return size_t{0};
    size_t total = 0;
    bool ended = false;
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                            while (request.data.remaining() > 0) {
                                auto progress =
                                    connection.send(request.data, request.flags & MSG_MORE, request.flags & MSG_OOB);
                                if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                                if (progress.ended) {
                                    ended = true;
                                    return SysResult<size_t>(total);
                                }
                                if (progress.would_block) return std::nullopt;
                                total += progress.bytes;
                            }
                            return SysResult<size_t>(total);
                        });
    if (total > 0) return total;
    if (ended || (!result.ok() && result.error().value == EPIPE)) return broken();
    return result;
}

SysResult<size_t> TcpSocket::receive_outside(Task& task, Connection& connection, ReceiveRequest& request) {
    if (request.flags & MSG_OOB) {
        std::byte byte = TRY(connection.receive_urgent(request.flags & MSG_PEEK));
        request.out_flags |= MSG_OOB;
        if (request.data.remaining() > 0) return request.data.copy_to(&byte, 1);
        request.out_flags |= MSG_TRUNC;
        return size_t{0};
    }
    if (request.from != nullptr) request.from->size = 0;
    Connection::Reading reading;
    reading.peek = request.flags & MSG_PEEK;
    reading.discard = (request.flags & (MSG_TRUNC | MSG_PEEK)) == MSG_TRUNC;
    size_t wanted = request.data.remaining();
    if (wanted == 0) return size_t{0};
    size_t target = request.flags & MSG_WAITALL
                        ? wanted
                        : std::min<size_t>(options_.receive_low_water.load(std::memory_order_relaxed), wanted);
    size_t total = 0;
    auto result =
        block(task, waiters()->queue, EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
              options_.receive_timeout, [&]() -> std::optional<SysResult<size_t>> {
                  while (true) {
                      reading.want = wanted - total;
                      auto progress = connection.receive(request.data, reading);
                      total += progress.bytes;
                      if (progress.at_mark) return SysResult<size_t>(total);
                      if (progress.bytes > 0 && total < wanted) continue;
                      if (total >= target) return SysResult<size_t>(total);
                      if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                      if (progress.ended) return SysResult<size_t>(total);
                      return std::nullopt;
                  }
              });
    if (!result.ok() && total > 0) return total;
    if (!result.ok() && result.error().value == EPIPE) return size_t{0};  // the end had come in order
    return result;
}

void TcpSocket::outside_info(Connection& connection, tcp_info& info) { connection.info(info); }

// -------------------------------------------------------------------------------------------- as a listener

bool TcpSocket::has_room() {
    std::lock_guard lock(mutex_);
    return !closed_ && state_ == State::kListening && pending_.size() <= backlog_;
}

size_t TcpSocket::receive_buffer() { return receive_buffer_chosen_ ? options_.receive_buffer.load() : 0; }

bool TcpSocket::established(Ref<Connection> connection) {
    auto child = make_ref<TcpSocket>(family(), Ref<Network>(&network()), uid());
    child->inherit_options(*this);
    child->buffers_chosen_ = buffers_chosen_.load();
    child->send_buffer_chosen_ = send_buffer_chosen_.load();
    child->receive_buffer_chosen_ = receive_buffer_chosen_.load();
    child->inherit_kept(*this);
    {
        std::lock_guard lock(child->mutex_);
        child->state_ = State::kConnected;
        child->ports().add_accepted(*child, connection->tuple().local, connection->tuple().peer);
    }
    child->tune(*connection);
    connection->set_waiters(child->waiters());
    {
        std::lock_guard lock(child->attached_mutex_);
        child->attached_ = {nullptr, 0, connection};
    }
    {
        std::lock_guard lock(mutex_);
        if (closed_ || state_ != State::kListening || pending_.size() > backlog_) {
            std::lock_guard attached_lock(child->attached_mutex_);
            child->attached_ = {};
            return false;
        }
        pending_.push_back(std::move(child));
    }
    connection->options_changed();
    waiters()->readable();
    return true;
}

}  // namespace casemate::sentry
