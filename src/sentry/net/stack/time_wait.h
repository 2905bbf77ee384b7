// TimeWait: what is left of a connection that both ends have ended, while segments of it may still be under way (RFC
// 9293 3.6.1). It answers the peer's FIN when that comes again, and tells a new connection between the same two ends
// from the old one (RFC 6191, 1122 4.2.2.13). A tenth of a Connection: there may be thousands.
#pragma once

#include <atomic>

#include "sentry/net/stack/segment.h"

namespace casemate::sentry::stack {

class TimeWait final : public TimerTarget {
  public:
    static constexpr Nanoseconds kTime = 60 * kSecond;

    struct Rest {
        Tuple tuple;
        uint16_t window = 0;  // as it is announced
        bool timestamps = false;
        uint32_t link = 0;
        uint32_t send_next = 0, receive_next = 0;  // sequence numbers behind the two FINs
        uint32_t recent_timestamp = 0, timestamp_offset = 0;
    };
    TimeWait(Ref<Stack> stack, const Rest& rest);

    const Tuple& tuple() const { return rest_.tuple; }
    Nanoseconds until() const { return until_.load(std::memory_order_relaxed); }
    // A SYN for the same ends may replace it; the new connection then begins at sequence_beyond().
    bool may_be_replaced(const TcpSegment& syn) const;
    uint32_t sequence_beyond() const;
    // As Linux' tcp_timewait_state_process(). False: it was reset, and is to leave the table.
    bool input(const TcpSegment& segment);
    void timer_fired(Nanoseconds now) override;

  private:
    bool is_old(const TcpSegment& segment) const;
    void begin_anew();
    void answer();

    const Ref<Stack> stack_;
    const Rest rest_;
    std::atomic<uint32_t> recent_timestamp_;
    std::atomic<Nanoseconds> until_, answered_{0};
};

}  // namespace casemate::sentry::stack
