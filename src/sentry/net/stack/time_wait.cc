#include "sentry/net/stack/time_wait.h"

#include "sentry/net/stack/wire.h"

namespace casemate::sentry::stack {

TimeWait::TimeWait(Ref<Stack> stack, const Rest& rest) : stack_(std::move(stack)), rest_(rest), until_(rest.until) {}

bool TimeWait::may_be_replaced(const TcpSegment& syn) const {
    if (rest_.timestamps && syn.has_timestamp && before(rest_.recent_timestamp, syn.timestamp)) return true;
    return before(rest_.receive_next, syn.sequence);
}

bool TimeWait::input(const TcpSegment& segment) {
    bool old = rest_.timestamps && segment.has_timestamp && before(segment.timestamp, rest_.recent_timestamp);
    if (old) stack_->counters().happened(TcpEvent::kOldTimestamp);
    bool expected = !old && segment.sequence == rest_.receive_next;
    if (segment.flags & kRst) {
        if (!expected) return true;
        stack_->counters().tcp_resets_in.fetch_add(1, std::memory_order_relaxed);
        return false;
    }
    if (expected && segment.length() == 0) return true;
    if (segment.flags & kAck) until_.store(stack_->now() + kTime, std::memory_order_relaxed);
    // The peer repeats what it has no answer to; two that only answer each other are slowed down.
    bool repeats = segment.length() > 0 && !(segment.flags & kSyn);
    if (repeats || stack_->within_rate(Stack::kRateChallenge)) answer();
    return true;
}

void TimeWait::answer() {
    uint8_t options[12] = {1, 1, 8, 10};
    store32(options + 4, static_cast<uint32_t>(stack_->now() / 1'000'000) + rest_.timestamp_offset);
    store32(options + 8, rest_.recent_timestamp);
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
