#include "sentry/net/stack/congestion.h"

#include <cmath>

namespace casemate::sentry::stack {
namespace {

constexpr double kC = 0.4, kBeta = 0.7;
constexpr uint64_t kMostWindow = 1 << 30;

}  // namespace

void Congestion::acknowledged(uint64_t bytes, Nanoseconds now, Nanoseconds round_trip) {
    if (window_ < threshold_) {
        window_ = std::min(window_ + bytes, kMostWindow);
        return;
    }
    double segments = static_cast<double>(window_) / segment_;
    double got = static_cast<double>(bytes) / segment_;
    double growth;
    if (reno_) {
        growth = got / segments;
    } else {
        if (epoch_ == 0) {
            epoch_ = now;
            estimate_ = segments;
            if (most_ < segments) most_ = segments;
            period_ = std::cbrt((most_ - segments) / kC);
        }
        double t = static_cast<double>(now - epoch_ + round_trip) / 1e9 - period_;
        double target = std::clamp(kC * t * t * t + most_, segments, segments * 1.5);
        estimate_ += 3 * (1 - kBeta) / (1 + kBeta) * got / segments;
        growth = std::max((target - segments) / segments * got, estimate_ - segments);
        growth = std::min(growth, got);
    }
    if (growth <= 0) return;
    credit_ += static_cast<uint64_t>(growth * segment_ * 256);
    window_ = std::min(window_ + credit_ / 256, kMostWindow);
    credit_ %= 256;
}

void Congestion::lost(uint64_t flight, Nanoseconds) {
    double segments = static_cast<double>(window_) / segment_;
    most_ = segments < most_ ? segments * (1 + kBeta) / 2 : segments;
    epoch_ = 0;
    double beta = reno_ ? 0.5 : kBeta;
    uint64_t base = std::min(window_, std::max(flight, uint64_t{2} * segment_));
    threshold_ = std::max(static_cast<uint64_t>(static_cast<double>(base) * beta), uint64_t{2} * segment_);
    window_ = threshold_;
    credit_ = 0;
}

void Congestion::timed_out(uint64_t flight, Nanoseconds now, bool first) {
    if (first) lost(flight, now);
    window_ = segment_;
}

}  // namespace casemate::sentry::stack
