// The stack's tables: links, settings, routes, connections.
#include "sentry/net/stack/stack.h"

#include <sys/random.h>

#include <algorithm>

#include "sentry/net/stack/connection.h"
#include "sentry/net/stack/delivery.h"
#include "sentry/net/stack/half_open.h"
#include "sentry/net/stack/link.h"
#include "sentry/net/stack/reassembly.h"
#include "sentry/net/stack/time_wait.h"

namespace casemate::sentry::stack {
namespace {

constexpr size_t kMostPathMtus = 256;
constexpr Nanoseconds kPathMtuLife = 600 * kSecond;
constexpr unsigned kMostPerSecond[] = {1000, 1000, 1000};

bool matches(const InetAddress& address, const InetAddress& network, uint8_t prefix) {
    size_t whole = prefix / 8;
    if (memcmp(address.bytes.data(), network.bytes.data(), whole) != 0) return false;
    if (prefix % 8 == 0) return true;
    auto mask = static_cast<uint8_t>(0xff00 >> (prefix % 8));
    return ((address.bytes[whole] ^ network.bytes[whole]) & mask) == 0;
}

size_t common_bits(const InetAddress& a, const InetAddress& b) {
    size_t bits = 0;
    while (bits < 128 && ((a.bytes[bits / 8] ^ b.bytes[bits / 8]) & (0x80 >> bits % 8)) == 0) bits++;
    return bits;
}

uint64_t rotate(uint64_t value, int by) { return value << by | value >> (64 - by); }

}  // namespace

Stack::Stack(Sockets& sockets, Surroundings surroundings)
    : sockets_(sockets),
      surroundings_(std::move(surroundings)),
      timers_(surroundings_.alarm),
      half_open_(std::make_unique<HalfOpenTable>(*this)),
      reassembly_(std::make_unique<Reassembly>()) {
    if (getrandom(key_, sizeof(key_), GRND_NONBLOCK) != sizeof(key_)) {
        key_[0] = static_cast<uint64_t>(now()) * 0x9e3779b97f4a7c15;
        key_[1] = reinterpret_cast<uintptr_t>(this);
    }
}

// Connections hold references to the stack: stop() comes before.
Stack::~Stack() { stop(); }

void Stack::stop() {
    half_open_->stop();
    std::vector<Ref<Link>> links;
    {
        std::lock_guard lock(settings_mutex_);
        links = links_;
    }
    for (auto& link : links) link->neighbours.stop();
    for (auto& connection : connections()) connection->abandon(ENETDOWN);
    for (auto& rest : time_waits()) forget(*rest);
    timers_.clear();
}

// SipHash-2-4.
uint64_t Stack::keyed_hash(const void* bytes, size_t size, uint64_t more) const {
    uint64_t v0 = key_[0] ^ 0x736f6d6570736575, v1 = key_[1] ^ 0x646f72616e646f6d;
    uint64_t v2 = key_[0] ^ 0x6c7967656e657261, v3 = key_[1] ^ 0x7465646279746573;
    auto round = [&] {
        v0 += v1, v1 = rotate(v1, 13) ^ v0, v0 = rotate(v0, 32);
        v2 += v3, v3 = rotate(v3, 16) ^ v2;
        v0 += v3, v3 = rotate(v3, 21) ^ v0;
        v2 += v1, v1 = rotate(v1, 17) ^ v2, v2 = rotate(v2, 32);
    };
    auto word = [&](uint64_t value) {
        v3 ^= value;
        round();
        round();
        v0 ^= value;
    };
    const auto* p = static_cast<const uint8_t*>(bytes);
    word(more);
    for (; size > 0; size -= std::min<size_t>(size, 8), p += 8) {
        uint64_t value = 0;
        memcpy(&value, p, std::min<size_t>(size, 8));
        word(value);
    }
    v2 ^= 0xff;
    for (int i = 0; i < 4; i++) round();
    return v0 ^ v1 ^ v2 ^ v3;
}

uint64_t Stack::hash_of(const Tuple& tuple) const {
    uint8_t bytes[40];
    memcpy(bytes, tuple.local.address.bytes.data(), 16);
    memcpy(bytes + 16, tuple.peer.address.bytes.data(), 16);
    memcpy(bytes + 32, &tuple.local.port, 2);
    memcpy(bytes + 34, &tuple.peer.port, 2);
    return keyed_hash(bytes, 36);
}

// RFC 6528.
uint32_t Stack::initial_sequence(const Tuple& tuple) const {
    uint64_t hash = hash_of(tuple);
    return static_cast<uint32_t>(keyed_hash(&hash, sizeof(hash), 1)) + static_cast<uint32_t>(now() / 64);
}

// ------------------------------------------------------------------------------------------- links and settings

Ref<Link> Stack::add_link(uint32_t index, const MacAddress& mac, uint32_t mtu, std::shared_ptr<Device> device,
                          Ref<LinkCounters> counters) {
    auto link = make_ref<Link>(*this, index, mac, mtu, std::move(device), std::move(counters));
    std::lock_guard lock(settings_mutex_);
    links_.push_back(link);
    generation_.fetch_add(1, std::memory_order_acq_rel);
    return link;
}

void Stack::remove_link(uint32_t index) {
    Ref<Link> removed;
    {
        std::lock_guard lock(settings_mutex_);
        auto it = std::find_if(links_.begin(), links_.end(), [&](auto& one) { return one->index == index; });
        if (it == links_.end()) return;
        removed = std::move(*it);
        links_.erase(it);
        std::erase_if(settings_.addresses, [&](auto& one) { return one.link == index; });
        std::erase_if(settings_.routes, [&](auto& one) { return one.link == index; });
        generation_.fetch_add(1, std::memory_order_acq_rel);
    }
    removed->neighbours.stop();
}

Ref<Link> Stack::link(uint32_t index) {
    std::shared_lock lock(settings_mutex_);
    for (auto& link : links_)
        if (link->index == index) return link;
    return nullptr;
}

void Stack::configure(Settings settings) {
    // The longest prefix first, then the lowest metric: the first match is the route.
    std::stable_sort(settings.routes.begin(), settings.routes.end(), [](const RouteSetting& a, const RouteSetting& b) {
        return a.prefix != b.prefix ? a.prefix > b.prefix : a.metric < b.metric;
    });
    std::lock_guard lock(settings_mutex_);
    settings_ = std::move(settings);
    generation_.fetch_add(1, std::memory_order_acq_rel);
}

bool Stack::is_local(const InetAddress& address) {
    std::shared_lock lock(settings_mutex_);
    return std::any_of(settings_.addresses.begin(), settings_.addresses.end(),
                       [&](const AddressSetting& one) { return one.address == address; });
}

SysResult<Egress> Stack::route(const InetAddress& to, const InetAddress& from, uint32_t wanted_link) {
    std::shared_lock lock(settings_mutex_);
    bool v4 = to.is_v4();
    auto by_index = [&](uint32_t index) -> Link* {
        for (auto& link : links_)
            if (link->index == index) return link.get();
        return nullptr;
    };
    // A link-local source or a group without a wish: the source tells the link.
    bool scoped = to.is_multicast() || (!v4 && is_link_local(to)) || (v4 && to.as_v4() == INADDR_BROADCAST);
    if (scoped && wanted_link == 0 && !from.is_any())
        for (auto& one : settings_.addresses)
            if (one.address == from) wanted_link = one.link;
    Egress egress;
    InetAddress preferred;
    uint32_t mtu = 0;
    for (auto& route : settings_.routes) {
        if (route.destination.is_v4() != v4) continue;
        if (wanted_link != 0 && route.link != wanted_link) continue;
        if (!matches(to, route.destination, route.prefix)) continue;
        Link* link = by_index(route.link);
        if (link == nullptr) continue;
        egress.link = Ref<Link>(link);
        egress.next_hop = route.gateway.is_any() || scoped ? to : route.gateway;
        preferred = route.source;
        mtu = route.mtu;
        break;
    }
    if (!egress.link && scoped) {
        Link* link = wanted_link != 0 ? by_index(wanted_link) : links_.empty() ? nullptr : links_.front().get();
        egress.link = Ref<Link>(link);
        egress.next_hop = to;
    }
    if (!egress.link) return Errno(ENETUNREACH);
    // Broadcast of one of the link's networks.
    if (v4)
        for (auto& one : settings_.addresses)
            if (one.link == egress.link->index && !one.broadcast.is_any() && one.broadcast == to)
                egress.next_hop = InetAddress::v4(INADDR_BROADCAST);
    egress.mtu = egress.link->mtu.load(std::memory_order_relaxed);
    if (mtu != 0) egress.mtu = std::min(egress.mtu, mtu);
    if (!from.is_any()) {
        egress.source = from;
        return egress;
    }
    if (!preferred.is_any()) {
        egress.source = preferred;
        return egress;
    }
    // RFC 6724 in short: of the link, of the same scope, the longest common prefix.
    const AddressSetting* best = nullptr;
    int best_score = -1;
    for (auto& one : settings_.addresses) {
        if (one.address.is_v4() != v4) continue;
        int score = 0;
        if (one.link == egress.link->index) score += 1000;
        if (v4 ? matches(egress.next_hop, one.address, one.prefix) : is_link_local(one.address) == is_link_local(to))
            score += 500;
        if (!v4) score += static_cast<int>(common_bits(one.address, to));
        if (score <= best_score) continue;
        best_score = score;
        best = &one;
    }
    if (best == nullptr) return Errno(v4 ? ENETUNREACH : EADDRNOTAVAIL);
    egress.source = best->address;
    return egress;
}

uint32_t Stack::path_mtu(const InetAddress& to, uint32_t mtu) {
    std::lock_guard lock(path_mutex_);
    auto it = path_mtus_.find(to);
    if (it == path_mtus_.end()) return mtu;
    if (now() >= it->second.until) {
        path_mtus_.erase(it);
        return mtu;
    }
    return std::min(mtu, it->second.mtu);
}

void Stack::learn_path_mtu(const InetAddress& to, uint32_t mtu) {
    mtu = std::max<uint32_t>(mtu, to.is_v4() ? 552 : 1280);
    {
        std::lock_guard lock(path_mutex_);
        if (!path_mtus_.contains(to) && path_mtus_.size() >= kMostPathMtus) path_mtus_.erase(path_mtus_.begin());
        auto& entry = path_mtus_[to];
        if (entry.mtu != 0 && entry.mtu < mtu && now() < entry.until) return;
        entry = {mtu, now() + kPathMtuLife};
    }
    generation_.fetch_add(1, std::memory_order_acq_rel);
}

bool Stack::within_rate(size_t kind) {
    Rate& rate = rates_[kind];
    std::lock_guard lock(rate.mutex);
    Nanoseconds second = now() / kSecond;
    if (rate.second != second) {
        rate.second = second;
        rate.count = 0;
    }
    return rate.count++ < kMostPerSecond[kind];
}

// -------------------------------------------------------------------------------------------------- connections

Ref<Connection> Stack::find_connection(const Tuple& tuple) {
    uint64_t hash = hash_of(tuple);
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    auto it = shard.connections.find(hash);
    if (it == shard.connections.end()) return nullptr;
    for (Connection* connection : it->second)
        if (connection->tuple() == tuple) return Ref<Connection>(connection);
    return nullptr;
}

TimeWait* Stack::time_wait_locked(Shard& shard, uint64_t hash, const Tuple& tuple) {
    auto [it, end] = shard.time_waits.equal_range(hash);
    for (; it != end; ++it)
        if (it->second->tuple() == tuple) return it->second.get();
    return nullptr;
}

bool Stack::has_connection(const Tuple& tuple) {
    if (find_connection(tuple)) return true;
    uint64_t hash = hash_of(tuple);
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    return time_wait_locked(shard, hash, tuple) != nullptr;
}

bool Stack::add_connection(Connection& connection) {
    if (connection_count_.fetch_add(1, std::memory_order_relaxed) >= kMostConnections) {
        connection_count_.fetch_sub(1, std::memory_order_relaxed);
        return false;
    }
    uint64_t hash = hash_of(connection.tuple());
    Shard& shard = shards_[hash % kShards];
    std::lock_guard lock(shard.mutex);
    auto& list = shard.connections[hash];
    if (time_wait_locked(shard, hash, connection.tuple()) != nullptr ||
        std::ranges::any_of(list, [&](Connection* other) { return other->tuple() == connection.tuple(); })) {
        connection_count_.fetch_sub(1, std::memory_order_relaxed);
        if (list.empty()) shard.connections.erase(hash);
        return false;
    }
    connection.ref();
    list.push_back(&connection);
    return true;
}

Ref<Connection> Stack::take_connection_locked(Shard& shard, uint64_t hash, Connection& connection) {
    auto it = shard.connections.find(hash);
    if (it == shard.connections.end() || std::erase(it->second, &connection) == 0) return nullptr;
    connection_count_.fetch_sub(1, std::memory_order_relaxed);
    if (it->second.empty()) shard.connections.erase(it);
    return Ref<Connection>::adopt(&connection);
}

void Stack::remove_connection(Connection& connection) {
    uint64_t hash = hash_of(connection.tuple());
    Shard& shard = shards_[hash % kShards];
    Ref<Connection> dropped;
    std::lock_guard lock(shard.mutex);
    dropped = take_connection_locked(shard, hash, connection);
}

bool Stack::replace_connection(Connection& connection, Ref<TimeWait> rest) {
    if (time_waiting.fetch_add(1, std::memory_order_relaxed) >= kMostTimeWait) {
        time_waiting.fetch_sub(1, std::memory_order_relaxed);
        return false;
    }
    uint64_t hash = hash_of(connection.tuple());
    Shard& shard = shards_[hash % kShards];
    Ref<Connection> dropped;
    std::lock_guard lock(shard.mutex);
    dropped = take_connection_locked(shard, hash, connection);
    timers_.arm(*rest, rest->until());
    shard.time_waits.emplace(hash, std::move(rest));
    return true;
}

void Stack::forget(TimeWait& rest) {
    uint64_t hash = hash_of(rest.tuple());
    Shard& shard = shards_[hash % kShards];
    Ref<TimeWait> dropped;
    {
        std::lock_guard lock(shard.mutex);
        auto [it, end] = shard.time_waits.equal_range(hash);
        while (it != end && it->second.get() != &rest) ++it;
        if (it == end) return;
        dropped = std::move(it->second);
        shard.time_waits.erase(it);
    }
    time_waiting.fetch_sub(1, std::memory_order_relaxed);
    timers_.disarm(rest);
}

bool Stack::time_wait_input(TcpSegment& segment) {
    uint64_t hash = hash_of(segment.tuple);
    Shard& shard = shards_[hash % kShards];
    Ref<TimeWait> found;
    {
        std::lock_guard lock(shard.mutex);
        found = Ref<TimeWait>(time_wait_locked(shard, hash, segment.tuple));
    }
    if (!found) return false;
    if (segment.opens() && found->may_be_replaced(segment) &&
        sockets_.tcp_listener(segment.tuple.local, segment.tuple.peer, segment.link).listener != nullptr) {
        segment.begin_at = found->sequence_beyond();
        forget(*found);
        return false;
    }
    if (!found->input(segment)) forget(*found);
    return true;
}

std::vector<Ref<TimeWait>> Stack::time_waits() {
    std::vector<Ref<TimeWait>> all;
    for (Shard& shard : shards_) {
        std::lock_guard lock(shard.mutex);
        for (auto& [hash, one] : shard.time_waits) all.push_back(one);
    }
    return all;
}

std::vector<Ref<Connection>> Stack::connections() {
    std::vector<Ref<Connection>> all;
    for (Shard& shard : shards_) {
        std::lock_guard lock(shard.mutex);
        for (auto& [hash, list] : shard.connections)
            for (Connection* connection : list) all.push_back(Ref<Connection>(connection));
    }
    return all;
}

void Stack::host_unreachable(Link& link, const InetAddress& neighbour) {
    for (auto& connection : connections()) {
        auto egress = route(connection->tuple().peer.address, connection->tuple().local.address, 0);
        if (egress.ok() && egress->link.get() == &link && egress->next_hop == neighbour)
            connection->soft_error(EHOSTUNREACH);
    }
}

}  // namespace casemate::sentry::stack
