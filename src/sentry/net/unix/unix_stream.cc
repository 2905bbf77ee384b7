// Making and ending connections of Unix sockets. Their data is in unix_stream_data.cc.
#include "sentry/net/unix/unix_stream.h"

#include <algorithm>

namespace casemate::sentry {
namespace {

constexpr int kMostBacklog = 4096;  // net.core.somaxconn

}  // namespace

UnixConnection::UnixConnection(UnixSocket& side0, UnixSocket& side1)
    : bytes(side0.waiters(), side1.waiters()),
      packets{PacketQueue(side1.waiters()), PacketQueue(side0.waiters())},
      budgets{make_ref<SendBudget>(side0.waiters()), make_ref<SendBudget>(side1.waiters())} {}

UnixStream::~UnixStream() {
    if (UnixConnection* mine = connection()) mine->unref();
}

void UnixStream::attach_locked(const Ref<UnixConnection>& connection, int side) {
    side_ = side;
    connection->wants_credentials[side] = has(kPassCredentials);
    connection_.store(Ref<UnixConnection>(connection).release(), std::memory_order_release);
}

bool UnixStream::listening() {
    std::lock_guard lock(mutex_);
    return listening_;
}

SysResult<void> UnixStream::listen(Task& task, int backlog) {
    auto credentials = credentials_of(task);
    std::lock_guard lock(mutex_);
    if (!name_ || connection() != nullptr) return Errno(EINVAL);
    // As Linux: a negative number is a large one.
    backlog_ = static_cast<size_t>(backlog < 0 || backlog > kMostBacklog ? kMostBacklog : backlog);
    listening_ = true;
    set_peer_credentials(std::move(credentials));
    room_->everything();
    return {};
}

SysResult<void> UnixStream::connect(Task& task, const SocketAddress& address, bool nonblocking) {
    auto credentials = credentials_of(task);
    while (true) {
        if (has(kPassCredentials) && !name()) TRY(autobind());
        Ref<UnixSocket> found = TRY(find(task, address));
        auto& listener = static_cast<UnixStream&>(*found);
        // The socket that accept() will give out.
        auto child = make_ref<UnixStream>(type(), Ref<Network>(&network()));
        bool full = false;
        auto attempt = [&]() -> SysResult<void> {
            if (&listener == this) return Errno(listening() ? EINVAL : ECONNREFUSED);
            std::scoped_lock lock(mutex_, listener.mutex_);
            if (connection() != nullptr) return Errno(EISCONN);
            if (listening_) return Errno(EINVAL);
            if (!listener.listening_ || listener.closed_) return Errno(ECONNREFUSED);
            if (listener.pending_.size() > listener.backlog_) {
                full = true;
                return Errno(EAGAIN);
            }
            auto connection = make_ref<UnixConnection>(*this, *child);
            connection->names[0] = name_;
            connection->names[1] = listener.name_;
            child->name_ = listener.name_;
            child->inherit_options(listener);
            child->set_peer_credentials(credentials);
            set_peer_credentials(listener.peer_credentials());
            child->attach_locked(connection, 1);
            attach_locked(connection, 0);
            listener.pending_.push_back(child);
            return {};
        };
        auto done = attempt();
        if (done.ok()) {
            listener.waiters()->readable();
            waiters()->writable();
            return {};
        }
        if (!full) return done;
        // Until there is a place, or the listener is gone: then look the name up again.
        TRY(block(task, listener.room_->queue, EPOLLOUT, nonblocking, options_.send_timeout,
                  [&]() -> std::optional<SysResult<void>> {
                      std::lock_guard lock(listener.mutex_);
                      if (listener.closed_ || listener.pending_.size() <= listener.backlog_) return SysResult<void>();
                      return std::nullopt;
                  }));
    }
}

SysResult<Ref<Socket>> UnixStream::accept(Task& task, bool nonblocking) {
    if (!listening()) return Errno(EINVAL);
    auto child = block(
        task, waiters(), EPOLLIN, nonblocking, options_.receive_timeout,
        [&]() -> std::optional<SysResult<Ref<UnixStream>>> {
            std::lock_guard lock(mutex_);
            if (closed_) return SysResult<Ref<UnixStream>>(Errno(EINVAL));
            if (pending_.empty()) return std::nullopt;
            Ref<UnixStream> first = std::move(pending_.front());
            pending_.pop_front();
            return SysResult<Ref<UnixStream>>(std::move(first));
        },
        [] { return true; });
    if (!child.ok()) return child.take_error();
    room_->writable();
    return Ref<Socket>(child.take_value());
}

SysResult<void> UnixStream::connect_pair(Task& task, Socket& other_socket) {
    auto& other = static_cast<UnixStream&>(other_socket);
    auto credentials = credentials_of(task);
    set_peer_credentials(credentials);
    other.set_peer_credentials(credentials);
    std::scoped_lock lock(mutex_, other.mutex_);
    auto connection = make_ref<UnixConnection>(*this, other);
    attach_locked(connection, 0);
    other.attach_locked(connection, 1);
    return {};
}

bool UnixStream::ended(UnixConnection& connection, int writer) {
    return packets() ? connection.packets[writer].ended() : connection.bytes.outgoing(writer).ended();
}

void UnixStream::end_direction(UnixConnection& connection, int writer) {
    if (packets())
        connection.packets[writer].end();
    else
        connection.bytes.outgoing(writer).end();
}

SysResult<void> UnixStream::shutdown(int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
    UnixConnection* mine = connection();
    if (mine == nullptr) return Errno(ENOTCONN);
    if (how == SHUT_RD || how == SHUT_RDWR) end_direction(*mine, 1 - side_);
    if (how == SHUT_WR || how == SHUT_RDWR) end_direction(*mine, side_);
    // Both ends look at both directions.
    waiters()->everything();
    mine->budgets[1 - side_]->wake();
    return {};
}

void UnixStream::closed() {
    unbind();
    std::deque<Ref<UnixStream>> orphans;
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        orphans.swap(pending_);
    }
    room_->everything();
    waiters()->everything();
    for (auto& orphan : orphans) {
        // Never accepted: the other end is reset.
        UnixConnection* lost = orphan->connection();
        lost->errors[1 - orphan->side_] = ECONNRESET;
        orphan->closed();
    }
    orphans.clear();
    UnixConnection* mine = connection();
    if (mine == nullptr) return;
    bool unread;
    if (packets()) {
        unread = mine->packets[1 - side_].close_reader();
        if (unread) mine->errors[1 - side_] = ECONNRESET;
        mine->packets[side_].end();
    } else {
        StreamDirection& incoming = mine->bytes.incoming(side_);
        if (incoming.bytes() > 0) mine->errors[1 - side_] = ECONNRESET;
        incoming.close_reader();
        mine->bytes.outgoing(side_).end();
    }
    mine->budgets[1 - side_]->wake();
}

SysResult<SocketAddress> UnixStream::peer_address() {
    UnixConnection* mine = connection();
    if (mine == nullptr) return Errno(ENOTCONN);
    const Ref<UnixName>& peer = mine->names[1 - side_];
    return peer ? peer->address() : SocketAddress(AF_UNIX);
}

SysResult<bool> UnixStream::set_family_option(Task&, int level, int name, std::span<const std::byte> value) {
    if (level != SOL_SOCKET || name != SO_PASSCRED) return false;
    int on = TRY(option_value<int>(value));
    std::lock_guard lock(mutex_);
    set_flag(kPassCredentials, on != 0);
    if (UnixConnection* mine = connection()) mine->wants_credentials[side_] = on != 0;
    return true;
}

void UnixStream::for_each_passed(const std::function<void(PassedFiles&)>& visit) {
    if (UnixConnection* mine = connection()) {
        mine->bytes.incoming(side_).for_each_passed(visit);
        mine->packets[1 - side_].for_each_passed(visit);
    }
    std::lock_guard lock(mutex_);
    for (auto& child : pending_) child->for_each_passed(visit);
}

void UnixStream::take_passed(std::vector<Ref<PassedFiles>>& into) {
    if (UnixConnection* mine = connection()) {
        mine->bytes.incoming(side_).take_passed(into);
        mine->packets[1 - side_].take_passed(into);
    }
    std::lock_guard lock(mutex_);
    for (auto& child : pending_) child->take_passed(into);
}

UnixSocket::Diagnosis UnixStream::diagnosis() {
    Diagnosis result;
    UnixConnection* mine = connection();
    if (mine == nullptr) {
        std::lock_guard lock(mutex_);
        if (listening_) result = {.state = 10, .receiving = pending_.size(), .sending = backlog_};
        return result;
    }
    result.state = 1;
    result.connection = mine;
    result.side = side_;
    if (ended(*mine, 1 - side_)) result.shutdown |= 1;
    if (ended(*mine, side_)) result.shutdown |= 2;
    if (packets()) {
        result.receiving = mine->packets[1 - side_].first_size();
        result.sending = mine->budgets[side_]->used();
    } else {
        result.receiving = mine->bytes.incoming(side_).bytes();
        result.sending = mine->bytes.outgoing(side_).bytes();
    }
    return result;
}

int UnixStream::state_number() {
    return connection() != nullptr ? 3 : 1;  // SS_CONNECTED, SS_UNCONNECTED
}

}  // namespace casemate::sentry
