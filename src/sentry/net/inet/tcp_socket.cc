// Making and ending TCP connections over the loopback. Their data is in tcp_data.cc, options in tcp_options.cc.
#include "sentry/net/inet/tcp_socket.h"

#include <netinet/tcp.h>

#include <algorithm>

#include "sentry/net/net_counters.h"
#include "sentry/net/network.h"
#include "sentry/net/stack/connection.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostWaiting = 4096;  // connecters beyond a full queue; more are refused

}  // namespace

TcpSocket::TcpSocket(int family, Ref<Network> network, uint32_t uid)
    : InetSocket(family, SOCK_STREAM, IPPROTO_TCP, std::move(network), uid) {
    options_.send_buffer = 16384;  // what Linux shows before it tunes them
    options_.receive_buffer = 131072;
}

// A write is a segment, with IP's and TCP's headers as they would be.
void TcpConnection::settle() {
    std::lock_guard lock(settled_mutex_);
    uint64_t moved = 0, writes = 0;
    for (int side : {0, 1}) {
        StreamDirection::Total total = bytes.outgoing(side).total();
        moved += total.bytes;
        writes += total.writes;
    }
    uint64_t segments = writes - std::exchange(settled_writes_, writes);
    bool v6 = !ends[0].address.is_v4();
    uint64_t octets = moved - std::exchange(settled_bytes_, moved) + segments * (v6 ? 72 : 52);
    NetCounters::add(network_->counters().tcp_segments, segments);
    network_->count_loopback(v6, octets, segments);
}

void TcpSocket::settle_counters() {
    if (Attached mine = attached(); mine.connection && mine.side == 0) mine.connection->settle();
}

TcpSocket::Attached TcpSocket::attached() {
    std::lock_guard lock(attached_mutex_);
    return attached_;
}

bool TcpSocket::listening() {
    std::lock_guard lock(mutex_);
    return state_ == State::kListening;
}

SysResult<void> TcpSocket::listen(Task&, int backlog) {
    {
        std::lock_guard lock(mutex_);
        if (state_ != State::kClosed && state_ != State::kListening) return Errno(EINVAL);
        uint32_t most = network().settings().most_backlog;
        backlog_ = std::min(static_cast<uint32_t>(backlog), most);  // a negative number is a large one
        if (state_ == State::kClosed) {
            if (!bound_locked()) TRY(ports().bind(*this, {any(), 0}));
            TRY(ports().listen(*this));
            state_ = State::kListening;
        }
    }
    admit_waiting();
    return {};
}

void TcpSocket::establish_locked(TcpSocket& client) {
    auto child = make_ref<TcpSocket>(family(), Ref<Network>(&network()), uid());
    child->inherit_options(*this);
    child->inherit_kept(*this);
    child->buffers_chosen_ = buffers_chosen_.load();
    auto connection = make_ref<TcpConnection>(client, *child, Ref<Network>(&network()));
    NetCounters::add(network().counters().tcp_active_opens);
    NetCounters::add(network().counters().tcp_passive_opens);
    connection->ends[0] = client.local_;
    connection->ends[1] = client.peer_;
    {
        std::lock_guard lock(child->mutex_);
        child->state_ = State::kConnected;
        child->ports().add_accepted(*child, client.peer_, client.local_);
    }
    {
        std::lock_guard lock(child->attached_mutex_);
        child->attached_ = {connection, 1, nullptr};
    }
    {
        std::lock_guard lock(client.attached_mutex_);
        client.attached_ = {connection, 0, nullptr};
    }
    client.state_ = State::kConnected;
    client.target_.reset();
    pending_.push_back(std::move(child));
}

void TcpSocket::admit_waiting() {
    while (true) {
        Ref<TcpSocket> client, listener;
        {
            std::lock_guard lock(mutex_);
            if (state_ != State::kListening || waiting_.empty() || pending_.size() > backlog_) return;
            client = std::move(waiting_.front());
            waiting_.pop_front();
        }
        {
            std::scoped_lock lock(mutex_, client->mutex_);
            listener = std::move(client->target_);
            if (client->state_ != State::kConnecting || client->closed_ || closed_) continue;
            establish_locked(*client);
            client->connect_untold_ = true;
        }
        waiters()->readable();
        client->waiters()->everything();
    }
}

bool TcpSocket::connected_once() {
    std::lock_guard lock(mutex_);
    return state_ == State::kConnected;
}

// Binds and finds the listener; afterwards the socket is connecting or connected.
SysResult<void> TcpSocket::start_connect(const InetEndpoint& peer, const InetAddress& source) {
    InetEndpoint from;
    bool own_port;
    {
        std::lock_guard lock(mutex_);
        switch (state_) {
            case State::kClosed:
                break;
            case State::kConnecting:
                return Errno(EALREADY);
            case State::kConnected:
                if (std::exchange(connect_untold_, false)) return {};
                return Errno(EISCONN);
            case State::kListening:
                return Errno(EISCONN);
        }
        if (int error = take_error(); error != 0) return Errno(error);
        own_port = bound_locked();
        if (own_port) {
            InetAddress local = local_.address.is_any() ? source : local_.address;
            ports().set_peer(*this, {local, local_.port}, peer);
        } else {
            TRY(ports().bind_ephemeral(*this, source, peer));
        }
        state_ = State::kConnecting;
        from = local_;
    }
    auto refuse_locked = [&]() -> SysResult<void> {
        state_ = State::kClosed;
        if (!own_port) {
            ports().release(*this);
            local_.address = any();
        }
        NetCounters::add(network().counters().tcp_failed);
        return Errno(ECONNREFUSED);
    };
    Ref<InetSocket> found = ports().find(peer, from, false, Interfaces::kLoopback);
    if (!found || found.get() == this) {
        std::lock_guard lock(mutex_);
        return refuse_locked();
    }
    auto& listener = static_cast<TcpSocket&>(*found);
    {
        std::scoped_lock lock(mutex_, listener.mutex_);
        if (closed_ || listener.state_ != State::kListening || listener.closed_) {
            return refuse_locked();
        }
        if (listener.pending_.size() > listener.backlog_) {
            NetCounters::add(network().counters().tcp_overflows);
            if (listener.waiting_.size() >= kMostWaiting) return refuse_locked();
            listener.waiting_.push_back(Ref<TcpSocket>(this));
            target_ = Ref<TcpSocket>(&listener);
            return {};
        }
        listener.establish_locked(*this);
    }
    listener.waiters()->readable();
    return {};
}

SysResult<Ref<TcpSocket>> TcpSocket::dial(Ref<Network> network, const InetEndpoint& peer) {
    auto socket = make_ref<TcpSocket>(peer.address.is_v4() ? AF_INET : AF_INET6, std::move(network), 0u);
    auto started = socket->start_connect(peer, peer.address);
    if (started.ok()) return socket;
    socket->closed();
    return started.take_error();
}

SysResult<void> TcpSocket::connect(Task& task, const SocketAddress& address, bool nonblocking) {
    if (address.size < sizeof(sa_family_t)) return Errno(EINVAL);
    if (address.family() == AF_UNSPEC) return disconnect();
    InetEndpoint peer = TRY(parse(address, Use::kConnect));
    InetAddress source;
    {
        std::lock_guard lock(mutex_);
        source = local_.address;
    }
    Attached present = attached();
    if (present.outside && present.outside->state() == stack::TcpState::kClosed && !connected_once())
        TRY(finish_outside(*present.outside));
    RouteChoice way = TRY(route(peer.address, source, scope_of(address)));
    if (way.type == RTN_MULTICAST) return Errno(ENETUNREACH);
    if (way.type != RTN_LOCAL || present.outside) return connect_outside(task, peer, way, nonblocking);
    auto started = start_connect(peer, way.source);
    bool already = !started.ok() && started.error().value == EALREADY;
    if (nonblocking) {
        if (already) return Errno(EALREADY);
        if (!started.ok()) {
            // A refusal comes back later, as over a real network.
            if (started.error().value != ECONNREFUSED) return started;
            set_error(ECONNREFUSED);
            waiters()->everything();
            return Errno(EINPROGRESS);
        }
        std::lock_guard lock(mutex_);
        if (std::exchange(connect_untold_, false)) return {};
        if (state_ == State::kConnected && !told_) {
            told_ = true;
            connect_untold_ = true;
            return Errno(EINPROGRESS);
        }
        return state_ == State::kConnected ? SysResult<void>() : SysResult<void>(Errno(EINPROGRESS));
    }
    if (!started.ok() && !already) return started;
    auto done = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, false, options_.send_timeout,
                      [&]() -> std::optional<SysResult<void>> {
                          std::lock_guard lock(mutex_);
                          if (state_ == State::kConnecting) return std::nullopt;
                          connect_untold_ = false;
                          if (state_ == State::kConnected) return SysResult<void>();
                          int error = take_error();
                          return SysResult<void>(Errno(error != 0 ? error : ECONNREFUSED));
                      });
    if (!done.ok() && done.error().value == EAGAIN) return Errno(EINPROGRESS);
    return done;
}

SysResult<Ref<Socket>> TcpSocket::accept(Task& task, bool nonblocking) {
    if (!listening()) return Errno(EINVAL);
    auto child = block(
        task, waiters(), EPOLLIN, nonblocking, options_.receive_timeout,
        [&]() -> std::optional<SysResult<Ref<TcpSocket>>> {
            std::lock_guard lock(mutex_);
            if (closed_ || state_ != State::kListening) return SysResult<Ref<TcpSocket>>(Errno(EINVAL));
            if (pending_.empty()) return std::nullopt;
            Ref<TcpSocket> first = std::move(pending_.front());
            pending_.pop_front();
            return SysResult<Ref<TcpSocket>>(std::move(first));
        },
        [] { return true; });
    if (!child.ok()) return child.take_error();
    admit_waiting();
    return Ref<Socket>(child.take_value());
}

// The end of this side. `abort`: with a reset, which drops what is under way.
void TcpSocket::end_connection(const Attached& mine, bool abort) {
    if (!mine.connection) return;
    TcpConnection& connection = *mine.connection;
    int other = 1 - mine.side;
    StreamDirection& incoming = connection.bytes.incoming(mine.side);
    // Data that nobody will read is answered by a reset, as is a wish not to linger.
    if (abort || incoming.bytes() > 0) {
        if (!connection.reset[other].exchange(true)) {
            NetCounters::add(network().counters().tcp_resets);
            bool half_closed = connection.bytes.incoming(other).ended();
            connection.errors[other] = half_closed ? EPIPE : ECONNRESET;
        }
    }
    bool reset = connection.reset[0] || connection.reset[1];
    incoming.close_reader();
    end_outgoing(mine);
    // Only the end that closed first waits, and none after a reset.
    if (!abort && !reset && connection.first_end == mine.side)
        ports().add_waiting(connection.ends[mine.side], connection.ends[other], has(kReuseAddress));
}

void TcpSocket::end_outgoing(const Attached& mine) {
    int nobody = -1;
    mine.connection->first_end.compare_exchange_strong(nobody, mine.side);
    mine.connection->bytes.outgoing(mine.side).end();
}

SysResult<void> TcpSocket::disconnect() {
    Attached mine;
    {
        std::lock_guard lock(attached_mutex_);
        std::swap(mine, attached_);
    }
    {
        std::lock_guard lock(mutex_);
        if (state_ == State::kListening) return Errno(EOPNOTSUPP);
        state_ = State::kClosed;
        connect_untold_ = told_ = false;
        ports().release(*this);
        local_.address = any();
    }
    receive_shut_ = send_shut_ = false;
    take_error();
    end_connection(mine, true);
    if (mine.outside) mine.outside->close(true);
    waiters()->everything();
    return {};
}

SysResult<void> TcpSocket::shutdown(int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
    Attached mine = attached();
    if (mine.outside) {
        stack::TcpState reached = mine.outside->state();
        if (reached == stack::TcpState::kClosed || mine.outside->connecting()) return Errno(ENOTCONN);
        if (how != SHUT_WR) {
            receive_shut_ = true;
            mine.outside->shutdown_receive();
        }
        if (how != SHUT_RD) {
            send_shut_ = true;
            mine.outside->shutdown_send();
        }
        return {};
    }
    if (!mine.connection) {
        std::deque<Ref<TcpSocket>> pending, waiting;
        {
            std::lock_guard lock(mutex_);
            if (state_ != State::kListening) {
                // Refused, but done all the same: it wakes those who poll.
                if (how != SHUT_WR) receive_shut_ = true;
                if (how != SHUT_RD) send_shut_ = true;
                return Errno(ENOTCONN);
            }
            if (how == SHUT_WR) return {};
            // A listener that reads no more listens no more.
            state_ = State::kClosed;
            pending.swap(pending_);
            waiting.swap(waiting_);
            ports().release(*this);
        }
        for (auto& child : pending) child->closed();
        for (auto& client : waiting) client->refused();
        waiters()->everything();
        return {};
    }
    if (how != SHUT_WR) receive_shut_ = true;
    if (how != SHUT_RD && !send_shut_.exchange(true)) end_outgoing(mine);
    waiters()->everything();
    return {};
}

// The listener that it waited for is gone.
void TcpSocket::refused() {
    Ref<TcpSocket> listener;
    {
        std::lock_guard lock(mutex_);
        listener = std::move(target_);
        if (state_ != State::kConnecting) return;
        state_ = State::kClosed;
        set_error(ECONNREFUSED);
    }
    waiters()->everything();
}

void TcpSocket::closed() {
    std::deque<Ref<TcpSocket>> pending, waiting;
    Ref<TcpSocket> target;
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        pending.swap(pending_);
        waiting.swap(waiting_);
        target = std::move(target_);
        ports().release(*this);
    }
    if (target) {
        std::lock_guard lock(target->mutex_);
        auto& list = target->waiting_;
        auto it = std::find_if(list.begin(), list.end(), [this](auto& one) { return one.get() == this; });
        if (it != list.end()) list.erase(it);
    }
    for (auto& child : pending) {
        child->options_.linger_seconds = 0;  // never accepted: reset
        child->closed();
    }
    for (auto& client : waiting) client->refused();
    Attached mine = attached();
    end_connection(mine, options_.linger_seconds == 0);
    if (mine.outside) mine.outside->close(options_.linger_seconds == 0);
    waiters()->everything();
}

SysResult<SocketAddress> TcpSocket::peer_address() {
    Attached mine = attached();
    if (mine.outside) {
        if (mine.outside->state() == stack::TcpState::kClosed || mine.outside->connecting()) return Errno(ENOTCONN);
        return format(mine.outside->tuple().peer);
    }
    if (!mine.connection || mine.connection->reset[mine.side]) return Errno(ENOTCONN);
    return format(mine.connection->ends[1 - mine.side]);
}

// TCP's state machine as it would stand, for TCP_INFO and /proc/net/tcp.
int TcpSocket::tcp_state(const Attached& mine) {
    if (mine.outside) return static_cast<int>(mine.outside->state());
    if (!mine.connection) {
        std::lock_guard lock(mutex_);
        if (state_ == State::kListening) return TCP_LISTEN;
        return state_ == State::kConnecting ? TCP_SYN_SENT : TCP_CLOSE;
    }
    if (mine.connection->reset[mine.side]) return TCP_CLOSE;
    bool sent_end = mine.connection->bytes.outgoing(mine.side).ended();
    bool got_end = mine.connection->bytes.incoming(mine.side).ended();
    if (sent_end && got_end) return TCP_CLOSE;
    if (sent_end) return TCP_FIN_WAIT2;
    return got_end ? TCP_CLOSE_WAIT : TCP_ESTABLISHED;
}

InetSocket::Status TcpSocket::status() {
    Status status;
    Attached mine = attached();
    status.state = tcp_state(mine);
    if (mine.outside) {
        status.local = mine.outside->tuple().local;
        status.peer = mine.outside->tuple().peer;
        status.sending = mine.outside->unsent();
        status.receiving = mine.outside->unread();
        return status;
    }
    if (mine.connection) {
        // The end counts as one until it is read.
        StreamDirection& incoming = mine.connection->bytes.incoming(mine.side);
        status.receiving = incoming.bytes() + (status.state == TCP_CLOSE_WAIT ? 1 : 0);
        status.local = mine.connection->ends[mine.side];
        status.peer = mine.connection->ends[1 - mine.side];
        return status;
    }
    std::lock_guard lock(mutex_);
    status.local = local_;
    if (state_ == State::kConnecting)
        status.peer = peer_;
    else
        status.peer.address = any();
    status.receiving = pending_.size();
    if (state_ == State::kListening) status.sending = backlog_;
    return status;
}

}  // namespace casemate::sentry
