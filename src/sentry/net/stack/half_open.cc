#include "sentry/net/stack/half_open.h"

#include <algorithm>
#include <cstring>

namespace casemate::sentry::stack {
namespace {

constexpr Nanoseconds kFirstWait = kSecond, kMinute = 64 * kSecond;
constexpr unsigned kMostTries = 5;
constexpr uint16_t kCookieMss[] = {536, 1300, 1440, 1460, 4312, 8960, 16344, 65460};
constexpr uint16_t kFirstWindow = 65535;

}  // namespace

class HalfOpenTable::Ticker final : public TimerTarget {
  public:
    explicit Ticker(HalfOpenTable& table) : table_(&table) {}
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
    HalfOpenTable* table_;  // guarded by mutex_
};

HalfOpenTable::HalfOpenTable(Stack& stack) : stack_(stack), ticker_(make_ref<Ticker>(*this)) {}
HalfOpenTable::~HalfOpenTable() { stop(); }
void HalfOpenTable::stop() { ticker_->stop(); }

uint64_t HalfOpenTable::key_of(const Tuple& tuple) const {
    uint8_t bytes[40] = {};
    memcpy(bytes, tuple.local.address.bytes.data(), 16);
    memcpy(bytes + 16, tuple.peer.address.bytes.data(), 16);
    memcpy(bytes + 32, &tuple.local.port, 2);
    memcpy(bytes + 34, &tuple.peer.port, 2);
    return stack_.keyed_hash(bytes, 36, 2);
}

void HalfOpenTable::erase_locked(Entries::iterator entry) {
    by_key_.erase(key_of(entry->tuple));
    entries_.erase(entry);
}

size_t HalfOpenTable::size() {
    std::lock_guard lock(mutex_);
    return entries_.size();
}

uint32_t HalfOpenTable::cookie_of(const TcpSegment& segment, uint32_t initial_receive, unsigned mss_index,
                                  uint32_t minute) const {
    uint32_t facts[3] = {initial_receive, minute, mss_index};
    uint64_t hash = stack_.keyed_hash(facts, sizeof(facts), key_of(segment.tuple));
    return (static_cast<uint32_t>(hash) & 0xffffffe0) | (minute & 3) << 3 | mss_index;
}

bool HalfOpenTable::check_cookie(const TcpSegment& segment, Agreement& agreement) const {
    uint32_t cookie = segment.acknowledged - 1, initial = segment.sequence - 1;
    auto minute = static_cast<uint32_t>(stack_.now() / kMinute);
    if ((minute & 3) != (cookie >> 3 & 3)) minute--;
    if (cookie_of(segment, initial, cookie & 7, minute) != cookie) {
        stack_.counters().happened(TcpEvent::kCookieRefused);
        return false;
    }
    stack_.counters().happened(TcpEvent::kCookieConfirmed);
    agreement.initial_send = cookie;
    agreement.initial_receive = initial;
    agreement.mss = kCookieMss[cookie & 7];
    agreement.window = segment.window;
    return true;
}

void HalfOpenTable::answer(const Entry& entry, bool cookie) {
    const Agreement& agreed = entry.agreement;
    uint8_t options[40];
    uint8_t* p = options;
    auto way = stack_.route(entry.tuple.peer.address, entry.tuple.local.address, 0);
    uint32_t headers = kTcpHeader + (entry.tuple.peer.address.is_v4() ? kIpv4Header : kIpv6Header);
    uint32_t mtu = way.ok() ? way->mtu : 1500;
    *p++ = 2;
    *p++ = 4;
    store16(p, std::min<uint32_t>(mtu > headers ? mtu - headers : 536, 65495));
    p += 2;
    if (!cookie) {
        if (agreed.sack) {
            *p++ = 4;
            *p++ = 2;
        } else {
            *p++ = 1;
            *p++ = 1;
        }
        if (agreed.timestamps) {
            *p++ = 8;
            *p++ = 10;
            store32(p, static_cast<uint32_t>(stack_.now() / 1'000'000) + agreed.timestamp_offset);
            store32(p + 4, agreed.recent_timestamp);
            p += 8;
        }
        if (agreed.send_scale >= 0) {
            *p++ = 1;
            *p++ = 3;
            *p++ = 3;
            *p++ = Connection::kScale;
        }
        while ((p - options) % 4 != 0) *p++ = 1;
    }
    uint16_t window = kFirstWindow;
    if (agreed.receive_buffer != 0) window = static_cast<uint16_t>(std::min<size_t>(agreed.receive_buffer, window));
    stack_.send_tcp_bare(entry.tuple, entry.link, agreed.initial_send, agreed.initial_receive + 1,
                         agreed.ecn ? kSyn | kAck | kEce : kSyn | kAck, window,
                         {options, static_cast<size_t>(p - options)});
}

void HalfOpenTable::syn(TcpSegment& segment, const FoundListener& found) {
    if (!found.listener->has_room()) return;
    Entry entry;
    entry.tuple = segment.tuple;
    entry.link = segment.link;
    Agreement& agreed = entry.agreement;
    agreed.initial_receive = segment.sequence;
    agreed.mss = segment.mss != 0 ? std::max<uint16_t>(segment.mss, 64) : 536;
    agreed.sack = segment.sack_permitted;
    agreed.ecn =
        (segment.flags & (kEce | kCwr)) == (kEce | kCwr) && segment.mark == kNotCapable && stack_.sockets().ecn() != 0;
    agreed.timestamps = segment.has_timestamp;
    agreed.recent_timestamp = segment.timestamp;
    agreed.receive_buffer = found.listener->receive_buffer();
    if (segment.scale >= 0) {
        agreed.send_scale = segment.scale;
        agreed.receive_scale = Connection::kScale;
    }
    Nanoseconds now = stack_.now();
    bool cookie = false;
    {
        std::lock_guard lock(mutex_);
        if (entries_.size() >= kMostEntries) {
            cookie = true;
            overflowed_ = now;
        }
    }
    if (cookie) {
        stack_.counters().syn_cookies.fetch_add(1, std::memory_order_relaxed);
        unsigned index = 7;
        while (index > 0 && kCookieMss[index] > agreed.mss) index--;
        agreed.initial_send = cookie_of(segment, segment.sequence, index, static_cast<uint32_t>(now / kMinute));
        answer(entry, true);
        return;
    }
    agreed.initial_send = segment.begin_at != 0 ? segment.begin_at : stack_.initial_sequence(segment.tuple);
    agreed.timestamp_offset = static_cast<uint32_t>(key_of(segment.tuple));
    entry.born = now;
    entry.deadline = now + kFirstWait;
    {
        std::lock_guard lock(mutex_);
        auto [it, added] = by_key_.try_emplace(key_of(segment.tuple));
        if (!added) return;
        entries_.push_back(entry);
        it->second = std::prev(entries_.end());
    }
    stack_.timers().arm(*ticker_, entry.deadline);
    answer(entry, false);
}

Ref<Connection> HalfOpenTable::confirm(const TcpSegment& segment, const Agreement& agreement,
                                       const FoundListener& found) {
    if (!found.listener->has_room()) return nullptr;
    auto connection = make_ref<Connection>(Ref<Stack>(&stack_), segment.tuple, 0, agreement);
    if (!stack_.add_connection(*connection)) return nullptr;
    connection->list();
    if (!found.listener->established(connection)) {
        connection->close(true);
        return nullptr;
    }
    stack_.counters().tcp_passive_opens.fetch_add(1, std::memory_order_relaxed);
    return connection;
}

Ref<Connection> HalfOpenTable::input(TcpSegment& segment) {
    std::optional<Entry> known;
    bool cookies;
    {
        std::lock_guard lock(mutex_);
        auto it = by_key_.find(key_of(segment.tuple));
        if (it != by_key_.end() && it->second->tuple == segment.tuple) known = *it->second;
        cookies = overflowed_ != 0 && stack_.now() - overflowed_ < 2 * kMinute;
    }
    auto forget = [&] {
        std::lock_guard lock(mutex_);
        auto it = by_key_.find(key_of(segment.tuple));
        if (it != by_key_.end()) erase_locked(it->second);
    };
    if (known) {
        const Agreement& agreed = known->agreement;
        if (segment.flags & kRst) {
            if (segment.sequence != agreed.initial_receive + 1) return nullptr;
            stack_.counters().happened(TcpEvent::kEmbryonicReset);
            forget();
            return nullptr;
        }
        if (segment.flags & kSyn) {
            if (segment.sequence == agreed.initial_receive && !(segment.flags & kAck)) answer(*known, false);
            return nullptr;
        }
        if (!(segment.flags & kAck)) return nullptr;
        if (segment.acknowledged != agreed.initial_send + 1 ||
            segment.sequence - (agreed.initial_receive + 1) > kFirstWindow) {
            stack_.send_reset(segment);
            return nullptr;
        }
    }
    FoundListener found = stack_.sockets().tcp_listener(segment.tuple.local, segment.tuple.peer, segment.link);
    if (found.listener == nullptr) {
        if (known) forget();
        stack_.send_reset(segment);
        return nullptr;
    }
    if (known) {
        Agreement agreement = known->agreement;
        agreement.window = segment.window;
        if (agreement.send_scale > 0) agreement.window <<= agreement.send_scale;
        if (known->tries == 0) agreement.round_trip = stack_.now() - known->born;
        Ref<Connection> connection = confirm(segment, agreement, found);
        if (connection) forget();  // else it stays: the peer's next segment tries again
        return connection;
    }
    if (segment.flags & kRst) return nullptr;
    if (segment.flags & kAck) {
        Agreement agreement;
        if (!(segment.flags & kSyn) && cookies && check_cookie(segment, agreement))
            return confirm(segment, agreement, found);
        stack_.send_reset(segment);
        return nullptr;
    }
    if ((segment.flags & (kSyn | kFin)) == kSyn) syn(segment, found);
    return nullptr;
}

void HalfOpenTable::tick(Nanoseconds now) {
    std::vector<Entry> again;
    Nanoseconds next = 0;
    {
        std::lock_guard lock(mutex_);
        for (auto it = entries_.begin(); it != entries_.end();) {
            auto entry = it++;
            if (entry->deadline <= now) {
                if (entry->tries >= kMostTries) {
                    erase_locked(entry);
                    continue;
                }
                entry->tries++;
                entry->deadline = now + (kFirstWait << entry->tries);
                again.push_back(*entry);
            }
            if (next == 0 || entry->deadline < next) next = entry->deadline;
        }
    }
    for (const Entry& entry : again) answer(entry, false);
    if (next != 0) stack_.timers().arm(*ticker_, next);
}

}  // namespace casemate::sentry::stack
