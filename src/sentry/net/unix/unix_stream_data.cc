// Data on connected Unix sockets.
#include <algorithm>

#include "sentry/net/unix/unix_stream.h"

namespace casemate::sentry {

namespace {

SysResult<size_t> broken_pipe(Task& task, const SendRequest& request) {
    if (!(request.flags & MSG_NOSIGNAL)) task.send_signal(SIGPIPE);
    return Errno(EPIPE);
}

}  // namespace

int UnixStream::take_connection_error(UnixConnection& connection) {
    if (connection.errors[side_].load(std::memory_order_relaxed) == 0) [[likely]]
        return pending_error() != 0 ? take_error() : 0;
    return connection.errors[side_].exchange(0);
}

SysResult<size_t> UnixStream::send(Task& task, SendRequest& request) {
    UnixConnection* mine = connection();
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    if (request.to != nullptr && request.to->size > 0 && !packets())
        return Errno(mine != nullptr ? EISCONN : EOPNOTSUPP);
    if (mine == nullptr) return Errno(ENOTCONN);
    return packets() ? send_packet(task, *mine, request) : send_bytes(task, *mine, request);
}

SysResult<size_t> UnixStream::send_bytes(Task& task, UnixConnection& connection, SendRequest& request) {
    StreamDirection& outgoing = connection.bytes.outgoing(side_);
    Ref<Passenger> passenger = TRY(
        passenger_for(task, request.control, connection.wants_credentials[1 - side_].load(std::memory_order_relaxed)));
    if (request.data.remaining() == 0) {
        if (outgoing.ended()) return broken_pipe(task, request);
        return size_t{0};
    }
    size_t limit = options_.send_buffer.load(std::memory_order_relaxed);
    size_t total = 0;
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                            while (request.data.remaining() > 0) {
                                auto progress = outgoing.write(request.data, limit, passenger);
                                if (progress.ended) return SysResult<size_t>(Errno(EPIPE));
                                if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                                if (progress.would_block) return std::nullopt;
                                total += progress.bytes;
                                // Files ride on the first bytes only.
                                if (passenger && passenger->files) {
                                    auto bare = make_ref<Passenger>();
                                    bare->credentials = passenger->credentials;
                                    passenger = std::move(bare);
                                }
                            }
                            return SysResult<size_t>(total);
                        });
    if (result.ok()) return result;
    if (result.error().value == EPIPE) {
        if (total > 0) return total;
        return broken_pipe(task, request);
    }
    if (total > 0) return total;
    return result;
}

SysResult<size_t> UnixStream::send_packet(Task& task, UnixConnection& connection, SendRequest& request) {
    PacketQueue& outgoing = connection.packets[side_];
    SendBudget& budget = *connection.budgets[side_];
    size_t limit = options_.send_buffer.load(std::memory_order_relaxed);
    if (request.data.remaining() > limit - 32) return Errno(EMSGSIZE);
    if (outgoing.ended()) return broken_pipe(task, request);
    Ref<Passenger> passenger = TRY(
        passenger_for(task, request.control, connection.wants_credentials[1 - side_].load(std::memory_order_relaxed)));
    Packet packet = TRY(Packet::copy_from(request.data, request.data.remaining()));
    size_t size = packet.size;
    packet.passenger = std::move(passenger);
    auto result = block(task, waiters()->queue, EPOLLOUT | EPOLLERR | EPOLLHUP, request.flags & MSG_DONTWAIT,
                        options_.send_timeout, [&]() -> std::optional<SysResult<size_t>> {
                            if (outgoing.ended()) return SysResult<size_t>(Errno(EPIPE));
                            if (budget.used() >= limit) return std::nullopt;
                            packet.charge(connection.budgets[side_]);
                            if (outgoing.put(packet, SIZE_MAX, SIZE_MAX) == PacketQueue::Put::kClosed)
                                return SysResult<size_t>(Errno(EPIPE));
                            return SysResult<size_t>(size);
                        });
    if (!result.ok() && result.error().value == EPIPE) return broken_pipe(task, request);
    return result;
}

SysResult<size_t> UnixStream::receive(Task& task, ReceiveRequest& request) {
    UnixConnection* mine = connection();
    if (mine == nullptr) return Errno(packets() ? ENOTCONN : EINVAL);
    if (request.flags & MSG_OOB) return Errno(EOPNOTSUPP);
    // Connected: no address, except that of seqpackets' peer on Linux's datagram path.
    if (request.from != nullptr) {
        request.from->size = 0;
        if (const Ref<UnixName>& peer = mine->names[1 - side_]) *request.from = peer->address();
    }
    return packets() ? receive_packet(task, *mine, request) : receive_bytes(task, *mine, request);
}

SysResult<size_t> UnixStream::receive_bytes(Task& task, UnixConnection& connection, ReceiveRequest& request) {
    StreamDirection& incoming = connection.bytes.incoming(side_);
    StreamDirection::Reading reading;
    reading.peek = request.flags & MSG_PEEK;
    reading.by_sender = has(kPassCredentials);
    size_t total = 0;
    size_t target =
        request.flags & MSG_WAITALL
            ? request.data.remaining()
            : std::min<size_t>(options_.receive_low_water.load(std::memory_order_relaxed), request.data.remaining());
    auto result = block(
        task, waiters(), EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP, request.flags & MSG_DONTWAIT,
        options_.receive_timeout,
        [&]() -> std::optional<SysResult<size_t>> {
            while (true) {
                auto progress = incoming.read(request.data, reading);
                total += progress.bytes;
                if (progress.error != 0) return SysResult<size_t>(Errno(progress.error));
                if (reading.stop || (total >= target && total > 0) || request.data.remaining() == 0)
                    return SysResult<size_t>(total);
                if (progress.ended) {
                    if (total > 0) return SysResult<size_t>(total);
                    if (int error = take_connection_error(connection); error != 0)
                        return SysResult<size_t>(Errno(error));
                    return SysResult<size_t>(size_t{0});
                }
                if (progress.would_block) {
                    if (total == 0)
                        if (int error = take_connection_error(connection); error != 0)
                            return SysResult<size_t>(Errno(error));
                    return std::nullopt;
                }
            }
        },
        [&] { return total == 0 && target <= 1 && !reading.started; });
    if (!result.ok() && total == 0) return result;
    if (total > 0 || reading.started) deliver(task, reading.sender.get(), reading.files, request);
    return total;
}

SysResult<size_t> UnixStream::receive_packet(Task& task, UnixConnection& connection, ReceiveRequest& request) {
    PacketQueue& incoming = connection.packets[1 - side_];
    auto hand_out = [&](Packet& packet) -> SysResult<size_t> {
        size_t part = std::min(packet.size, request.data.remaining());
        if (part > 0) {
            size_t copied = TRY(request.data.copy_to(packet.data.get(), part));
            if (copied < part) return Errno(EFAULT);
        }
        request.out_flags |= MSG_EOR;
        if (part < packet.size) request.out_flags |= MSG_TRUNC;
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
                incoming.peek([&](Packet& packet) {
                    passenger = packet.passenger;
                    answer = hand_out(packet);
                });
            } else if (taken = incoming.take(); taken) {
                passenger = taken->passenger;
                answer = hand_out(*taken);
            }
            if (answer) {
                if (answer->ok()) deliver(task, passenger.get(), passenger ? passenger->files : nullptr, request);
                return answer;
            }
            if (int error = take_connection_error(connection); error != 0) return SysResult<size_t>(Errno(error));
            if (incoming.ended()) return SysResult<size_t>(size_t{0});
            return std::nullopt;
        },
        [] { return true; });
}

uint32_t UnixStream::poll_events() {
    UnixConnection* mine = connection();
    if (mine == nullptr) {
        std::lock_guard lock(mutex_);
        if (listening_) return pending_.empty() ? 0u : EPOLLIN | EPOLLRDNORM;
        return EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND | EPOLLHUP;
    }
    uint32_t events = 0;
    bool in_ended = ended(*mine, 1 - side_), out_ended = ended(*mine, side_);
    size_t limit = options_.send_buffer.load(std::memory_order_relaxed);
    bool readable, writable;
    if (packets()) {
        readable = mine->packets[1 - side_].count() > 0;
        writable = mine->budgets[side_]->used() <= limit / 2;
    } else {
        readable = mine->bytes.incoming(side_).readable();
        writable = mine->bytes.outgoing(side_).writable(limit);
    }
    if (pending_error() != 0 || mine->errors[side_].load(std::memory_order_relaxed) != 0) events |= EPOLLERR;
    if (in_ended && out_ended) events |= EPOLLHUP;
    if (in_ended) events |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM;
    if (readable) events |= EPOLLIN | EPOLLRDNORM;
    if (writable) events |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    return events;
}

Ref<OfferedRead> UnixStream::offer_read(size_t most, const OfferMaker& place) {
    UnixConnection* mine = connection();
    if (mine == nullptr || packets()) return nullptr;
    auto failed = [&] { return pending_error() != 0 || mine->errors[side_].load(std::memory_order_seq_cst) != 0; };
    if (failed()) return nullptr;
    Ref<OfferedRead> offer = mine->bytes.incoming(side_).offer(most, place);
    if (offer && failed()) offer->end();
    return offer;
}

SysResult<size_t> UnixStream::unread() {
    UnixConnection* mine = connection();
    if (mine == nullptr) return listening() ? SysResult<size_t>(Errno(EINVAL)) : SysResult<size_t>(size_t{0});
    return packets() ? mine->packets[1 - side_].first_size() : mine->bytes.incoming(side_).bytes();
}

SysResult<size_t> UnixStream::unsent() {
    UnixConnection* mine = connection();
    if (mine == nullptr) return listening() ? SysResult<size_t>(Errno(EINVAL)) : SysResult<size_t>(size_t{0});
    return packets() ? mine->budgets[side_]->used() : mine->bytes.outgoing(side_).bytes();
}

}  // namespace casemate::sentry
