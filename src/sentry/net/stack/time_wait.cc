#include "sentry/net/stack/time_wait.h"

#include "sentry/net/stack/wire.h"

namespace casemate::sentry::stack {
namespace {

constexpr Nanoseconds kAnswerInterval = 500'000'000;  // net.ipv4.tcp_invalid_ratelimit

}  // namespace

TimeWait::TimeWait(Ref<Stack> stack, const Rest& rest)
    : stack_(std::move(stack)), rest_(rest), recent_timestamp_(rest.recent_timestamp), until_(stack_->now() + kTime) {}

bool TimeWait::is_old(const TcpSegment& segment) const {
    return rest_.timestamps && segment.has_timestamp &&
           before(segment.timestamp, recent_timestamp_.load(std::memory_order_relaxed));
}

bool TimeWait::may_be_replaced(const TcpSegment& syn) const {
    if (is_old(syn)) return false;
    bool later = rest_.timestamps && syn.has_timestamp &&
                 before(recent_timestamp_.load(std::memory_order_relaxed), syn.timestamp);
    return later || before(rest_.receive_next, syn.sequence);
}

// Behind everything the old connection can have under way.
uint32_t TimeWait::sequence_beyond() const {
    uint32_t sequence = rest_.send_next + 65535 + 2;
    return sequence != 0 ? sequence : 1;
}

bool TimeWait::input(const TcpSegment& segment) {
    bool old = is_old(segment);
    bool expected = !old && segment.sequence == rest_.receive_next && (segment.length() == 0 || segment.flags & kRst);
    if (expected && segment.flags & kRst) {
        stack_->counters().tcp_resets_in.fetch_add(1, std::memory_order_relaxed);
        return false;
    }
    if (expected) {
        if (segment.has_timestamp) recent_timestamp_.store(segment.timestamp, std::memory_order_relaxed);
        begin_anew();
        return true;
    }
    if (old) stack_->counters().happened(TcpEvent::kOldTimestamp);
    if (segment.flags & kRst) return true;
    // A SYN without an ACK may be a new one with an unlucky number: the time goes on.
    if (old || segment.flags & kAck) begin_anew();
    // Data and FINs are no answers to our answers; of what may be, two could make each other send without end.
    bool repeats = segment.length() > 0 && !(segment.flags & kSyn);
    Nanoseconds now = stack_->now(), last = answered_.load(std::memory_order_relaxed);
    if (!repeats && last != 0 && now - last < kAnswerInterval) return true;
    if (!repeats) answered_.store(now, std::memory_order_relaxed);
    answer();
    return true;
}

void TimeWait::begin_anew() { until_.store(stack_->now() + kTime, std::memory_order_relaxed); }

void TimeWait::answer() {
    uint8_t options[12] = {1, 1, 8, 10};
    store32(options + 4, static_cast<uint32_t>(stack_->now() / 1'000'000) + rest_.timestamp_offset);
    store32(options + 8, recent_timestamp_.load(std::memory_order_relaxed));
    stack_->send_tcp_bare(rest_.tuple, rest_.link, rest_.send_next, rest_.receive_next, kAck, rest_.window,
                          rest_.timestamps ? Bytes(options) : Bytes());
}

void TimeWait::timer_fired(Nanoseconds now) {
    if (Nanoseconds end = until(); now < end)
        stack_->timers().arm(*this, end);
    else
        stack_->forget(*this);
}

}  // namespace casemate::sentry::stack
