// How much may be under way: CUBIC (RFC 9438), with Reno's growth where that is faster.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sentry/kernel/clock.h"

namespace casemate::sentry::stack {

class Congestion {
  public:
    void start(uint32_t segment) {
        segment_ = segment;
        window_ = uint64_t{segment} * 10;  // RFC 6928
    }
    void set_segment(uint32_t segment) { segment_ = segment; }
    uint64_t window() const { return window_; }
    uint64_t threshold() const { return threshold_; }

    void acknowledged(uint64_t bytes, Nanoseconds now, Nanoseconds round_trip);
    // A loss, once per window. `flight`: what was under way.
    void lost(uint64_t flight, Nanoseconds now);
    void timed_out(uint64_t flight, Nanoseconds now, bool first);
    // Nothing was sent for so long that what is known has aged.
    void idle() { window_ = std::min(window_, uint64_t{segment_} * 10); }
    void set_reno(bool reno) { reno_ = reno; }

  private:
    uint32_t segment_ = 536;
    uint64_t window_ = 5360, threshold_ = UINT64_MAX;
    bool reno_ = false;
    double most_ = 0, estimate_ = 0, period_ = 0;  // W_max and W_est in segments; K in seconds
    Nanoseconds epoch_ = 0;                        // 0: none yet
    uint64_t credit_ = 0;
};

}  // namespace casemate::sentry::stack
