// Whether a task waits soon after it has made another: then that begins best on the same CPU (cpu_binding.h).
#pragma once

#include <algorithm>
#include <optional>

#include "sentry/kernel/clock.h"

namespace casemate::sentry {

class CloneRhythm {
  public:
    // Each is told when, in nanoseconds.
    void cloned(Nanoseconds now) {
        if (cloned_) count(false);  // goes on working, as far as is known
        cloned_ = now;
    }
    void sleeps(Nanoseconds now) {
        if (!cloned_) return;
        count(now - *cloned_ < kSoon);
        cloned_.reset();
    }
    bool undecided() const { return cloned_.has_value(); }
    bool waits_soon() const { return waits_ >= 2; }

  private:
    static constexpr Nanoseconds kSoon = 500'000;
    void count(bool waited) { waits_ = std::clamp(waits_ + (waited ? 1 : -1), 0, 3); }

    std::optional<Nanoseconds> cloned_;
    int waits_ = 2;
};

}  // namespace casemate::sentry
