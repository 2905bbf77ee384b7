// Token buckets: so many units a second with bursts of so many. A request may pass while the bucket is not in debt and
// then takes its full cost, so requests larger than the burst pass too and are paid for afterwards.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace casemate::virtio {

struct Rate {
    uint64_t per_second = 0;  // 0: without a limit
    uint64_t burst = 0;       // 0: as much as a tenth of a second brings
};

class TokenBucket {
  public:
    using Clock = std::chrono::steady_clock;

    explicit TokenBucket(Rate rate = {}, Clock::time_point now = Clock::now())
        : per_second_(static_cast<double>(rate.per_second)),
          burst_(static_cast<double>(rate.burst != 0 ? rate.burst : std::max<uint64_t>(rate.per_second / 10, 1))),
          tokens_(burst_),
          filled_(now) {}

    bool limited() const { return per_second_ > 0; }
    // How long until the next request may pass; zero if it may now.
    std::chrono::nanoseconds wait(Clock::time_point now) {
        if (!limited()) return std::chrono::nanoseconds(0);
        double seconds = std::chrono::duration<double>(now - filled_).count();
        if (seconds > 0) {
            tokens_ = std::min(burst_, tokens_ + seconds * per_second_);
            filled_ = now;
        }
        if (tokens_ > 0) return std::chrono::nanoseconds(0);
        // At most a second at a time: a rate of 1 must not overflow anything.
        double left = std::min(1.0, -tokens_ / per_second_ + 1e-4);
        return std::chrono::nanoseconds(static_cast<int64_t>(left * 1e9));
    }
    void spend(uint64_t units) {
        if (limited()) tokens_ -= static_cast<double>(units);
    }

  private:
    double per_second_;
    double burst_;
    double tokens_;
    Clock::time_point filled_;
};

// Operations and bytes of one direction.
class RateLimiter {
  public:
    RateLimiter() = default;
    RateLimiter(Rate operations, Rate bytes) : operations_(operations), bytes_(bytes) {}

    std::chrono::nanoseconds wait() {
        if (!operations_.limited() && !bytes_.limited()) return std::chrono::nanoseconds(0);
        auto now = TokenBucket::Clock::now();
        return std::max(operations_.wait(now), bytes_.wait(now));
    }
    void spend(uint64_t bytes) {
        operations_.spend(1);
        bytes_.spend(bytes);
    }

  private:
    TokenBucket operations_;
    TokenBucket bytes_;
};

}  // namespace casemate::virtio
