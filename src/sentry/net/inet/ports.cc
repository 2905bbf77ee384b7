#include "sentry/net/inet/ports.h"

#include <sys/random.h>

#include <algorithm>

#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/network.h"

namespace casemate::sentry {
namespace {

// Whether a socket bound to `a` could get what another bound to `b` gets.
bool overlap(const InetAddress& a, bool a_v6_only, const InetAddress& b, bool b_v6_only) {
    if (a == b) return true;
    auto covers = [](const InetAddress& any, bool v6_only, const InetAddress& other) {
        if (any.is_any6()) return !(v6_only && other.is_v4());
        return any.is_v4() && any.is_any() && other.is_v4();
    };
    return covers(a, a_v6_only, b) || covers(b, b_v6_only, a);
}

size_t mix(const InetEndpoint& endpoint) {
    uint64_t hash = endpoint.port;
    for (uint8_t byte : endpoint.address.bytes) hash = (hash ^ byte) * 0x100000001b3;
    return hash ^ hash >> 29;
}

}  // namespace

bool PortTable::conflicts_locked(InetSocket& socket, const InetEndpoint& wanted) {
    auto it = by_port_.find(wanted.port);
    if (it == by_port_.end()) return false;
    for (InetSocket* other : it->second) {
        if (!overlap(wanted.address, socket.v6_only(), other->local_.address, other->v6_only())) continue;
        int mine = socket.options().bound_device, theirs = other->options().bound_device;
        if (mine != 0 && theirs != 0 && mine != theirs) continue;
        bool reuse = socket.has(kReuseAddress) && other->has(kReuseAddress) && !other->listens_;
        bool share = socket.has(kReusePort) && other->has(kReusePort) && socket.uid() == other->uid();
        if (!reuse && !share) return true;
    }
    return false;
}

bool PortTable::waits_locked(InetSocket& socket, const InetEndpoint& wanted) {
    Nanoseconds now = monotonic_now();
    while (!waiting_.empty() && waiting_.front().until <= now) waiting_.pop_front();
    return std::any_of(waiting_.begin(), waiting_.end(), [&](const Waiting& one) {
        if (one.local.port != wanted.port) return false;
        if (!overlap(wanted.address, socket.v6_only(), one.local.address, false)) return false;
        return !(socket.has(kReuseAddress) && one.reuse);
    });
}

void PortTable::add_waiting(const InetEndpoint& local, const InetEndpoint& peer, bool reuse) {
    std::lock_guard lock(mutex_);
    if (waiting_.size() >= kMostWaiting) waiting_.pop_front();
    waiting_.push_back({local, peer, reuse, monotonic_now() + kTimeWait});
}

void PortTable::drop_waiting(const InetEndpoint& local, const InetEndpoint& peer) {
    std::lock_guard lock(mutex_);
    std::erase_if(waiting_, [&](const Waiting& one) { return one.local == local && one.peer == peer; });
}

std::vector<PortTable::Waiting> PortTable::waiting() {
    std::lock_guard lock(mutex_);
    Nanoseconds now = monotonic_now();
    while (!waiting_.empty() && waiting_.front().until <= now) waiting_.pop_front();
    return {waiting_.begin(), waiting_.end()};
}

void PortTable::insert_locked(InetSocket& socket, const InetEndpoint& local) {
    socket.local_ = local;
    socket.bound_ = true;
    by_port_[local.port].push_back(&socket);
}

SysResult<uint16_t> PortTable::bind(InetSocket& socket, const InetEndpoint& wanted) {
    std::lock_guard lock(mutex_);
    if (wanted.port != 0) {
        if (conflicts_locked(socket, wanted) || waits_locked(socket, wanted)) return Errno(EADDRINUSE);
        insert_locked(socket, wanted);
        socket.chose_port_ = true;
        if (serves_locked(socket)) listeners_changed_locked();
        return wanted.port;
    }
    auto [first, last] = socket.network().settings().port_range();
    uint32_t count = uint32_t{last} - first + 1;
    if (next_ == 0 && getrandom(&next_, sizeof(next_), GRND_NONBLOCK) < 0) next_ = 1;
    for (uint32_t i = 0; i < count; i++) {
        auto port = static_cast<uint16_t>(first + next_++ % count);
        InetEndpoint candidate{wanted.address, port};
        if (by_port_.contains(port)) continue;
        insert_locked(socket, candidate);
        return port;
    }
    for (uint32_t i = 0; i < count; i++) {
        InetEndpoint candidate{wanted.address, static_cast<uint16_t>(first + next_++ % count)};
        if (conflicts_locked(socket, candidate)) continue;
        insert_locked(socket, candidate);
        return candidate.port;
    }
    return Errno(EADDRINUSE);
}

SysResult<uint16_t> PortTable::bind_ephemeral(InetSocket& socket, const InetAddress& local, const InetEndpoint& peer) {
    auto port = bind(socket, {local, 0});
    if (port.ok()) {
        set_peer(socket, {local, *port}, peer);
        return port;
    }
    // All ports are taken: one that is not used for this peer, and not listened on.
    std::lock_guard lock(mutex_);
    auto [first, last] = socket.network().settings().port_range();
    for (uint32_t number = first; number <= last; number++) {
        auto candidate = static_cast<uint16_t>(number);
        auto& users = by_port_[candidate];
        bool free = std::none_of(users.begin(), users.end(), [&](InetSocket* other) {
            return other->listens_ || !other->has_peer_ || other->peer_ == peer;
        });
        if (!free) continue;
        insert_locked(socket, {local, candidate});
        socket.peer_ = peer;
        socket.has_peer_ = true;
        return candidate;
    }
    return Errno(EADDRNOTAVAIL);
}

void PortTable::add_accepted(InetSocket& socket, const InetEndpoint& local, const InetEndpoint& peer) {
    std::lock_guard lock(mutex_);
    insert_locked(socket, local);
    socket.accepted_ = true;
    socket.peer_ = peer;
    socket.has_peer_ = true;
}

void PortTable::set_peer(InetSocket& socket, const InetEndpoint& local, const InetEndpoint& peer) {
    std::lock_guard lock(mutex_);
    bool served = serves_locked(socket);
    socket.local_.address = local.address;
    socket.peer_ = peer;
    socket.has_peer_ = peer.port != 0 || !peer.address.is_any();
    if (served != serves_locked(socket)) listeners_changed_locked();
}

SysResult<void> PortTable::listen(InetSocket& socket) {
    std::lock_guard lock(mutex_);
    auto it = by_port_.find(socket.local_.port);
    if (it == by_port_.end()) return Errno(EINVAL);
    for (InetSocket* other : it->second) {
        if (other == &socket || !other->listens_) continue;
        if (!overlap(socket.local_.address, socket.v6_only(), other->local_.address, other->v6_only())) continue;
        if (socket.has(kReusePort) && other->has(kReusePort) && socket.uid() == other->uid()) continue;
        return Errno(EADDRINUSE);
    }
    socket.listens_ = true;
    listeners_changed_locked();
    return {};
}

bool PortTable::serves_locked(const InetSocket& socket) {
    if (socket.type() == SOCK_STREAM) return socket.listens_;
    return socket.protocol() == IPPROTO_UDP && socket.bound_ && socket.chose_port_ && !socket.has_peer_;
}

void PortTable::listeners_changed_locked() {
    listener_generation_.fetch_add(1, std::memory_order_acq_rel);
    listener_changes_.notify(~0u, ~0u);
}

std::vector<PortTable::Reached> PortTable::loopback_listeners(size_t most) {
    const InetAddress loopback4 = InetAddress::v4(INADDR_LOOPBACK), loopback6 = InetAddress::loopback6();
    std::vector<Reached> found;
    std::lock_guard lock(mutex_);
    for (auto& [port, users] : by_port_) {
        Reached reached{port, false, false, false, false};
        for (InetSocket* socket : users) {
            int bound = socket->options().bound_device;
            if (!serves_locked(*socket) || (bound != 0 && bound != Interfaces::kLoopback)) continue;
            bool v4 = overlap(socket->local_.address, socket->v6_only(), loopback4, false);
            bool v6 = socket->v6() && overlap(socket->local_.address, socket->v6_only(), loopback6, false);
            bool any = socket->local_.address.is_any() && bound == 0;
            reached.v4 |= v4;
            reached.v6 |= v6;
            reached.any4 |= v4 && any;
            reached.any6 |= v6 && any;
        }
        if (reached.v4 || reached.v6) found.push_back(reached);
    }
    std::ranges::sort(found, {}, &Reached::port);
    if (found.size() > most) found.resize(most);
    return found;
}

void PortTable::release(InetSocket& socket) {
    std::lock_guard lock(mutex_);
    if (!socket.bound_) return;
    auto it = by_port_.find(socket.local_.port);
    if (it != by_port_.end()) {
        std::erase(it->second, &socket);
        if (it->second.empty()) by_port_.erase(it);
    }
    if (serves_locked(socket)) listeners_changed_locked();
    socket.bound_ = socket.listens_ = socket.has_peer_ = socket.accepted_ = socket.chose_port_ = false;
    socket.local_ = {};
}

std::vector<Ref<InetSocket>> PortTable::find_all(const InetEndpoint& to, const InetEndpoint& from, int link) {
    std::vector<Ref<InetSocket>> all;
    std::lock_guard lock(mutex_);
    auto it = by_port_.find(to.port);
    if (it == by_port_.end()) return all;
    for (InetSocket* socket : it->second) {
        if (!socket->v6() && !to.address.is_v4()) continue;
        if (!overlap(socket->local_.address, socket->v6_only(), to.address, false)) continue;
        if (socket->has_peer_ && socket->peer_ != from) continue;
        int bound = socket->options().bound_device;
        if (bound != 0 && bound != link) continue;
        if (socket->try_ref()) all.push_back(Ref<InetSocket>::adopt(socket));
    }
    return all;
}

Ref<InetSocket> PortTable::find(const InetEndpoint& to, const InetEndpoint& from, bool datagram, int link) {
    std::lock_guard lock(mutex_);
    auto it = by_port_.find(to.port);
    if (it == by_port_.end()) return nullptr;
    std::vector<InetSocket*> best;
    int best_score = 0;
    for (InetSocket* socket : it->second) {
        if (!datagram && !socket->listens_) continue;
        if (!socket->v6() && !to.address.is_v4()) continue;
        int bound = socket->options().bound_device;
        if (bound != 0 && bound != link) continue;
        int score = bound != 0 ? 3 : 1;
        if (socket->local_.address == to.address)
            score += 8;
        else if (!overlap(socket->local_.address, socket->v6_only(), to.address, false))
            continue;
        if (datagram && socket->has_peer_) {
            if (socket->peer_.address != from.address || (socket->peer_.port != 0 && socket->peer_.port != from.port))
                continue;
            score += 16;
        }
        // A socket of the address's own family goes before a dual one.
        if (socket->v6() != to.address.is_v4()) score += 1;
        if (score < best_score) continue;
        if (score > best_score) best.clear();
        best_score = score;
        best.push_back(socket);
    }
    if (best.empty()) return nullptr;
    // Several: they share by SO_REUSEPORT; one peer always gets to the same. With SO_REUSEADDR alone the last wins.
    size_t first = best.back()->has(kReusePort) ? mix(from) % best.size() : best.size() - 1;
    for (size_t i = 0; i < best.size(); i++) {
        InetSocket* socket = best[(first + i) % best.size()];
        if (socket->try_ref()) return Ref<InetSocket>::adopt(socket);
    }
    return nullptr;
}

SysResult<void> PortTable::bind_raw(InetSocket& socket, const InetAddress& local) {
    std::lock_guard lock(mutex_);
    if (socket.bound_)
        socket.local_.address = local;
    else
        insert_locked(socket, {local, 0});
    return {};
}

std::vector<Ref<InetSocket>> PortTable::find_raw(int protocol, const InetAddress& to, const InetAddress& from,
                                                 int link) {
    std::vector<Ref<InetSocket>> all;
    std::lock_guard lock(mutex_);
    auto it = by_port_.find(0);
    if (it == by_port_.end()) return all;
    for (InetSocket* socket : it->second) {
        if (socket->protocol() != protocol) continue;
        if (!socket->local_.address.is_any() && socket->local_.address != to) continue;
        if (socket->has_peer_ && socket->peer_.address != from) continue;
        int bound = socket->options().bound_device;
        if (bound != 0 && bound != link) continue;
        if (socket->try_ref()) all.push_back(Ref<InetSocket>::adopt(socket));
    }
    return all;
}

bool PortTable::empty() {
    std::lock_guard lock(mutex_);
    return by_port_.empty();
}

void PortTable::for_each(const std::function<void(InetSocket&)>& visit) {
    std::vector<Ref<InetSocket>> all;
    {
        std::lock_guard lock(mutex_);
        for (auto& [port, users] : by_port_)
            for (InetSocket* socket : users)
                if (socket->try_ref()) all.push_back(Ref<InetSocket>::adopt(socket));
    }
    for (auto& socket : all) visit(*socket);
}

}  // namespace casemate::sentry
