#include "sentry/net/unix/unix_datagram.h"

#include <algorithm>

namespace casemate::sentry {

UnixDatagram::UnixDatagram(Ref<Network> network)
    : UnixSocket(SOCK_DGRAM, std::move(network)), budget_(make_ref<SendBudget>(waiters())), queue_(waiters()) {
    inbox_->socket = this;
}

Ref<UnixDatagram> UnixDatagram::socket_of(Inbox& inbox) {
    std::lock_guard lock(inbox.mutex);
    if (inbox.socket == nullptr || !inbox.socket->try_ref()) return nullptr;
    return Ref<UnixDatagram>::adopt(inbox.socket);
}

Ref<UnixDatagram::Inbox> UnixDatagram::peer() {
    std::lock_guard lock(mutex_);
    return peer_;
}

void UnixDatagram::set_peer(Ref<Inbox> peer) {
    if (peer) {
        std::lock_guard lock(peer->mutex);
        peer->writers.push_back(waiters());
    }
    {
        std::lock_guard lock(mutex_);
        std::swap(peer, peer_);
    }
    if (peer) {
        std::lock_guard lock(peer->mutex);
        auto it = std::find(peer->writers.begin(), peer->writers.end(), waiters());
        if (it != peer->writers.end()) peer->writers.erase(it);
    }
}

void UnixDatagram::made_room() {
    inbox_->room->writable();
    std::lock_guard lock(inbox_->mutex);
    for (auto& writer : inbox_->writers) writer->writable();
}

// A connected socket takes from its peer only.
bool UnixDatagram::accepts_from(UnixDatagram& sender) {
    Ref<Inbox> mine = peer();
    return !mine || mine == sender.inbox_;
}

// The length of the queue bounds all senders but the one it is connected to, which its own buffer bounds.
bool UnixDatagram::full_for(UnixDatagram& sender) {
    if (queue_.count() < kMostPackets) return false;
    return peer() != sender.inbox_;
}

SysResult<void> UnixDatagram::connect(Task& task, const SocketAddress& address, bool) {
    if (address.family() == AF_UNSPEC && address.size >= sizeof(sa_family_t)) {
        set_peer(nullptr);
        return {};
    }
    Ref<UnixSocket> found = TRY(find(task, address));
    auto& other = static_cast<UnixDatagram&>(*found);
    if (has(kPassCredentials) && !name()) TRY(autobind());
    if (!other.accepts_from(*this)) return Errno(EPERM);
    set_peer(other.inbox_);
    waiters()->everything();
    return {};
}

SysResult<void> UnixDatagram::connect_pair(Task& task, Socket& other_socket) {
    auto& other = static_cast<UnixDatagram&>(other_socket);
    auto credentials = credentials_of(task);
    set_peer_credentials(credentials);
    other.set_peer_credentials(credentials);
    set_peer(other.inbox_);
    other.set_peer(inbox_);
    return {};
}

SysResult<size_t> UnixDatagram::send(Task& task, SendRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    size_t limit = options_.send_buffer.load(std::memory_order_relaxed);
    Ref<UnixDatagram> target;
    Ref<Inbox> connected;
    bool by_name = request.to != nullptr && request.to->size > 0;
    if (by_name) {
        Ref<UnixSocket> found = TRY(find(task, *request.to));
        target = Ref<UnixDatagram>(static_cast<UnixDatagram*>(found.get()));
    } else {
        connected = peer();
        if (!connected) return Errno(ENOTCONN);
    }
    if (has(kPassCredentials) && !name()) TRY(autobind());
    if (request.data.remaining() > limit - 32) return Errno(EMSGSIZE);
    if (connected) {
        target = socket_of(*connected);
        if (!target) {
            set_peer(nullptr);
            return Errno(ECONNREFUSED);
        }
    }
    if (!target->accepts_from(*this)) return Errno(EPERM);
    Ref<Passenger> passenger = TRY(passenger_for(task, request.control, target->has(kPassCredentials)));
    Packet packet = TRY(Packet::copy_from(request.data, request.data.remaining()));
    size_t size = packet.size;
    if (Ref<Filter> program = target->filter()) {
        size_t kept = target->kept_of({packet.data.get(), packet.size});
        if (kept == 0) return size;  // as lost on the way
        packet.size = kept;
    }
    packet.passenger = std::move(passenger);
    packet.sender = Ref<RefCounted>(name());

    auto broken = [&]() -> SysResult<size_t> {
        if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
        return Errno(EPIPE);
    };
    while (true) {
        if (send_shut_ || target->receive_shut_) return broken();
        if (int error = take_error(); error != 0) return Errno(error);
        // Room in our own buffer first, then in the receiver's queue.
        TRY(block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                  options_.send_timeout, [&]() -> std::optional<SysResult<void>> {
                      if (budget_->used() < limit || send_shut_) return SysResult<void>();
                      return std::nullopt;
                  }));
        if (send_shut_) return broken();
        bool bounded = target->peer() != inbox_;
        if (!packet.charged()) packet.charge(budget_);
        switch (target->queue_.put(packet, bounded ? kMostPackets : SIZE_MAX, SIZE_MAX)) {
            case PacketQueue::Put::kDone:
                return size;
            case PacketQueue::Put::kClosed:
                if (target->receive_shut_) return broken();
                if (connected) set_peer(nullptr);
                return Errno(ECONNREFUSED);
            case PacketQueue::Put::kFull:
                break;
        }
        TRY(block(task, target->inbox_->room->queue, EPOLLOUT, request.flags & MSG_DONTWAIT, options_.send_timeout,
                  [&]() -> std::optional<SysResult<void>> {
                      if (!target->full_for(*this) || target->queue_.ended()) return SysResult<void>();
                      return std::nullopt;
                  }));
    }
}

SysResult<size_t> UnixDatagram::receive(Task& task, ReceiveRequest& request) {
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    auto hand_out = [&](Packet& packet) -> SysResult<size_t> {
        size_t part = std::min(packet.size, request.data.remaining());
        if (part > 0) {
            size_t copied = TRY(request.data.copy_to(packet.data.get(), part));
            if (copied < part) return Errno(EFAULT);
        }
        if (part < packet.size) request.out_flags |= MSG_TRUNC;
        if (request.from != nullptr) {
            request.from->size = 0;
            // SAFETY: a Unix packet's sender is a UnixName.
            if (packet.sender) *request.from = static_cast<UnixName&>(*packet.sender).address();
        }
        return request.flags & MSG_TRUNC ? packet.size : part;
    };
    return block(
        task, waiters(), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
        options_.receive_timeout,
        [&]() -> std::optional<SysResult<size_t>> {
            Ref<Passenger> passenger;
            std::optional<SysResult<size_t>> answer;
            std::optional<Packet> taken;
            if (request.flags & MSG_PEEK) {
                queue_.peek([&](Packet& packet) {
                    passenger = packet.passenger;
                    answer = hand_out(packet);
                });
            } else if (taken = queue_.take(); taken) {
                made_room();
                passenger = taken->passenger;
                answer = hand_out(*taken);
            }
            if (answer) {
                if (answer->ok()) deliver(task, passenger.get(), passenger ? passenger->files : nullptr, request);
                return answer;
            }
            if (int error = take_error(); error != 0) return SysResult<size_t>(Errno(error));
            if (receive_shut_) return SysResult<size_t>(size_t{0});
            return std::nullopt;
        },
        [] { return true; });
}

SysResult<void> UnixDatagram::shutdown(int how) {
    if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
    if (!peer()) return Errno(ENOTCONN);
    if (how != SHUT_WR) {
        receive_shut_ = true;
        queue_.end();
        made_room();
    }
    if (how != SHUT_RD) send_shut_ = true;
    waiters()->everything();
    return {};
}

SysResult<SocketAddress> UnixDatagram::peer_address() {
    Ref<Inbox> mine = peer();
    if (!mine) return Errno(ENOTCONN);
    Ref<UnixDatagram> other = socket_of(*mine);
    Ref<UnixName> name = other ? other->name() : nullptr;
    return name ? name->address() : SocketAddress(AF_UNIX);
}

uint32_t UnixDatagram::poll_events() {
    uint32_t events = 0;
    bool receive_shut = receive_shut_;
    if (pending_error() != 0) events |= EPOLLERR;
    if (receive_shut && send_shut_) events |= EPOLLHUP;
    if (receive_shut) events |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM;
    if (queue_.count() > 0) events |= EPOLLIN | EPOLLRDNORM;
    bool writable = budget_->used() <= options_.send_buffer.load(std::memory_order_relaxed) / 2;
    if (writable) {
        if (Ref<Inbox> mine = peer())
            if (Ref<UnixDatagram> other = socket_of(*mine); other && other->full_for(*this)) writable = false;
    }
    if (writable) events |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    return events;
}

void UnixDatagram::closed() {
    unbind();
    set_peer(nullptr);
    {
        std::lock_guard lock(inbox_->mutex);
        inbox_->socket = nullptr;
    }
    queue_.close_reader();
    inbox_->room->everything();
    made_room();
    waiters()->everything();
}

UnixSocket::Diagnosis UnixDatagram::diagnosis() {
    Diagnosis result;
    result.receiving = queue_.first_size();
    result.sending = budget_->used();
    if (receive_shut_) result.shutdown |= 1;
    if (send_shut_) result.shutdown |= 2;
    if (Ref<Inbox> other = peer()) {
        result.state = 1;
        if (Ref<UnixDatagram> socket = socket_of(*other)) result.peer_inode = socket->inode_number();
    }
    return result;
}

}  // namespace casemate::sentry
