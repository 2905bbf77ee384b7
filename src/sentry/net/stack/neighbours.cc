#include "sentry/net/stack/neighbours.h"

#include <algorithm>

#include "sentry/net/stack/link.h"
#include "sentry/net/stack/stack.h"

namespace casemate::sentry::stack {
namespace {

constexpr Nanoseconds kReachable = 30 * kSecond, kRetry = kSecond, kForgetFailure = 3 * kSecond;
constexpr unsigned kProbes = 3, kUnicastProbes = 3;

}  // namespace

// The timer of a table, which may outlive it by a moment.
class NeighbourTable::Ticker final : public TimerTarget {
  public:
    explicit Ticker(NeighbourTable& table) : table_(&table) {}
    void timer_fired(Nanoseconds now) override {
        std::lock_guard lock(mutex_);
        if (table_ != nullptr) table_->tick(now);
    }
    void stop() {
        std::lock_guard lock(mutex_);
        table_ = nullptr;
    }

  private:
    std::mutex mutex_;
    NeighbourTable* table_;  // guarded by mutex_
};

NeighbourTable::NeighbourTable(Stack& stack, Link& link)
    : stack_(stack), link_(link), ticker_(make_ref<Ticker>(*this)) {}
NeighbourTable::~NeighbourTable() { stop(); }

void NeighbourTable::stop() { ticker_->stop(); }

bool NeighbourTable::make_room_locked() {
    if (neighbours_.size() < kMostEntries) return true;
    auto oldest = neighbours_.end();
    for (auto it = neighbours_.begin(); it != neighbours_.end(); ++it)
        if (it->second.state != State::kPermanent &&
            (oldest == neighbours_.end() || it->second.used < oldest->second.used))
            oldest = it;
    if (oldest == neighbours_.end()) return false;
    neighbours_.erase(oldest);
    return true;
}

SysResult<std::optional<MacAddress>> NeighbourTable::resolve(const InetAddress& address, uint16_t type,
                                                             const OutFrame& frame) {
    Nanoseconds now = stack_.now();
    std::optional<MacAddress> unicast;
    {
        std::lock_guard lock(mutex_);
        auto it = neighbours_.find(address);
        if (it == neighbours_.end()) {
            if (!make_room_locked()) return Errno(ENOBUFS);
            it = neighbours_.try_emplace(address).first;
            it->second.state = State::kFailed;
        }
        Neighbour& neighbour = it->second;
        neighbour.used = now;
        switch (neighbour.state) {
            case State::kPermanent:
            case State::kProbe:
                return std::optional(neighbour.mac);
            case State::kReachable:
                if (now < neighbour.deadline) return std::optional(neighbour.mac);
                [[fallthrough]];
            case State::kStale:
                // Still used, and asked whether it is still there.
                neighbour.state = State::kProbe;
                neighbour.probes = 1;
                neighbour.deadline = now + kRetry;
                unicast = neighbour.mac;
                break;
            case State::kFailed:
                if (now < neighbour.deadline) return Errno(EHOSTUNREACH);
                neighbour.state = State::kIncomplete;
                neighbour.probes = 1;
                neighbour.deadline = now + kRetry;
                break;
            case State::kIncomplete: {
                break;
            }
        }
        if (!unicast) {
            bool first = neighbour.queue.empty();
            size_t size = frame.head_size + frame.payload_size;
            while (!neighbour.queue.empty() &&
                   (neighbour.queue.size() >= kMostQueued || neighbour.queued_bytes + size > kMostQueuedBytes)) {
                neighbour.queued_bytes -= neighbour.queue.front().bytes.size();
                neighbour.queue.pop_front();
            }
            Waiting waiting{type, {}, frame.virtio, static_cast<uint16_t>(frame.head_size)};
            waiting.bytes.reserve(size);
            waiting.bytes.insert(waiting.bytes.end(), frame.head.begin(),
                                 frame.head.begin() + static_cast<ptrdiff_t>(frame.head_size));
            for (size_t i = 0; i < frame.piece_count; i++) {
                const auto* bytes = static_cast<const uint8_t*>(frame.pieces[i].iov_base);
                waiting.bytes.insert(waiting.bytes.end(), bytes, bytes + frame.pieces[i].iov_len);
            }
            neighbour.queued_bytes += size;
            neighbour.queue.push_back(std::move(waiting));
            if (!first) return std::optional<MacAddress>();
        }
    }
    ask(address, unicast ? &*unicast : nullptr);
    stack_.timers().arm(*ticker_, now + kRetry);
    return unicast;
}

// An ARP request, or a neighbour solicitation; to everybody, or to whom it is believed to be.
void NeighbourTable::ask(const InetAddress& address, const MacAddress* to) {
    auto egress = stack_.route(address, InetAddress(), link_.index);
    InetAddress source = egress.ok() ? egress->source : InetAddress();
    OutFrame frame;
    uint8_t* p = frame.ip();
    if (address.is_v4()) {
        store16(p, 1);  // Ethernet
        store16(p + 2, kEtherIpv4);
        p[4] = 6;
        p[5] = 4;
        store16(p + 6, 1);  // request
        memcpy(p + 8, link_.mac.data(), 6);
        if (source.is_v4())
            store_v4(p + 14, source);
        else
            memset(p + 14, 0, 4);
        memset(p + 18, 0, 6);
        store_v4(p + 24, address);
        frame.head_size = kEthernetHeader + 28;
        static_cast<void>(link_.send(to != nullptr ? *to : kBroadcastMac, kEtherArp, frame));
        return;
    }
    // RFC 4861 4.3, to the solicited-node group or the neighbour itself.
    InetAddress group = address;
    MacAddress mac;
    if (to != nullptr) {
        mac = *to;
    } else {
        group = InetAddress();
        group.bytes = {0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff};
        memcpy(group.bytes.data() + 13, address.bytes.data() + 13, 3);
        mac = {0x33, 0x33, 0xff, address.bytes[13], address.bytes[14], address.bytes[15]};
    }
    constexpr size_t kSize = 24 + 8;
    p[0] = 0x60;
    p[1] = p[2] = p[3] = 0;
    store16(p + 4, kSize);
    p[6] = kIcmp6;
    p[7] = 255;
    store_v6(p + 8, source);
    store_v6(p + 24, group);
    uint8_t* icmp = p + kIpv6Header;
    memset(icmp, 0, kSize);
    icmp[0] = 135;
    store_v6(icmp + 8, address);
    icmp[24] = 1;  // source link-layer address
    icmp[25] = 1;
    memcpy(icmp + 26, link_.mac.data(), 6);
    store16(icmp + 2, static_cast<uint16_t>(
                          ~checksum_fold(checksum_add(pseudo_header(source, group, kIcmp6, kSize), icmp, kSize))));
    frame.head_size = kEthernetHeader + kIpv6Header + kSize;
    static_cast<void>(link_.send(mac, kEtherIpv6, frame));
}

void NeighbourTable::send_waiting(std::deque<Waiting>& queue, const MacAddress& mac) {
    for (Waiting& waiting : queue) {
        OutFrame frame;
        frame.virtio = waiting.virtio;
        frame.head_size = waiting.head_size;
        memcpy(frame.head.data(), waiting.bytes.data(), frame.head_size);
        frame.add(waiting.bytes.data() + frame.head_size, waiting.bytes.size() - frame.head_size);
        static_cast<void>(link_.send(mac, waiting.type, frame));
    }
}

void NeighbourTable::learn(const InetAddress& address, const MacAddress& mac, bool create, bool solicited,
                           bool override_known) {
    if (mac[0] & 1) return;  // a group is nobody's address
    Nanoseconds now = stack_.now();
    std::deque<Waiting> queue;
    {
        std::lock_guard lock(mutex_);
        auto it = neighbours_.find(address);
        if (it == neighbours_.end()) {
            if (!create || !make_room_locked()) return;
            it = neighbours_.try_emplace(address).first;
            it->second.used = now;
        }
        Neighbour& neighbour = it->second;
        if (neighbour.state == State::kPermanent) return;
        bool known = neighbour.state != State::kIncomplete && neighbour.state != State::kFailed;
        if (known && !override_known && neighbour.mac != mac) return;
        bool changed = neighbour.mac != mac;
        neighbour.mac = mac;
        if (solicited) {
            neighbour.state = State::kReachable;
            neighbour.deadline = now + kReachable;
        } else if (!known || changed) {
            neighbour.state = State::kStale;
        }
        neighbour.probes = 0;
        queue.swap(neighbour.queue);
        neighbour.queued_bytes = 0;
    }
    send_waiting(queue, mac);
}

void NeighbourTable::set_permanent(const InetAddress& address, const MacAddress& mac) {
    std::deque<Waiting> queue;
    {
        std::lock_guard lock(mutex_);
        if (!neighbours_.contains(address) && !make_room_locked()) return;
        Neighbour& neighbour = neighbours_[address];
        neighbour.mac = mac;
        neighbour.state = State::kPermanent;
        queue.swap(neighbour.queue);
        neighbour.queued_bytes = 0;
    }
    send_waiting(queue, mac);
}

void NeighbourTable::remove(const InetAddress& address) {
    std::lock_guard lock(mutex_);
    neighbours_.erase(address);
}

std::vector<NeighbourTable::Entry> NeighbourTable::entries() {
    std::vector<Entry> all;
    Nanoseconds now = stack_.now();
    std::lock_guard lock(mutex_);
    for (auto& [address, neighbour] : neighbours_) {
        State state = neighbour.state;
        if (state == State::kReachable && now >= neighbour.deadline) state = State::kStale;
        all.push_back({address, neighbour.mac, state});
    }
    return all;
}

void NeighbourTable::tick(Nanoseconds now) {
    struct Question {
        InetAddress address;
        std::optional<MacAddress> to;
    };
    std::vector<Question> questions;
    std::vector<InetAddress> failed;
    Nanoseconds next = 0;
    {
        std::lock_guard lock(mutex_);
        for (auto& [address, neighbour] : neighbours_) {
            bool asking = neighbour.state == State::kIncomplete || neighbour.state == State::kProbe;
            if (!asking) continue;
            if (now >= neighbour.deadline) {
                unsigned most = neighbour.state == State::kProbe ? kUnicastProbes + kProbes : kProbes;
                if (neighbour.probes >= most) {
                    neighbour.state = State::kFailed;
                    neighbour.deadline = now + kForgetFailure;
                    neighbour.queue.clear();
                    neighbour.queued_bytes = 0;
                    failed.push_back(address);
                    continue;
                }
                bool unicast = neighbour.state == State::kProbe && neighbour.probes < kUnicastProbes;
                neighbour.probes++;
                neighbour.deadline = now + kRetry;
                questions.push_back({address, unicast ? std::optional(neighbour.mac) : std::nullopt});
            }
            if (next == 0 || neighbour.deadline < next) next = neighbour.deadline;
        }
    }
    for (auto& question : questions) ask(question.address, question.to ? &*question.to : nullptr);
    for (auto& address : failed) stack_.host_unreachable(link_, address);
    if (next != 0) stack_.timers().arm(*ticker_, next);
}

SysResult<void> Link::send_to(const InetAddress& next_hop, uint16_t type, OutFrame& frame) {
    MacAddress mac;
    if (next_hop.is_multicast()) {
        const uint8_t* a = next_hop.bytes.data();
        if (next_hop.is_v4())
            mac = {0x01, 0x00, 0x5e, static_cast<uint8_t>(a[13] & 0x7f), a[14], a[15]};
        else
            mac = {0x33, 0x33, a[12], a[13], a[14], a[15]};
    } else if (next_hop.is_broadcast()) {
        mac = kBroadcastMac;
    } else {
        auto known = TRY(neighbours.resolve(next_hop, type, frame));
        if (!known) return {};
        mac = *known;
    }
    if (!send(mac, type, frame)) return Errno(ENOBUFS);
    return {};
}

}  // namespace casemate::sentry::stack
