#include "sentry/kernel/clock.h"

#include <time.h>

namespace casemate::sentry {
namespace {

Nanoseconds read_clock(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return now.tv_sec * kSecond + now.tv_nsec;
}

}  // namespace

Nanoseconds monotonic_now() { return read_clock(CLOCK_MONOTONIC); }
Nanoseconds realtime_now() { return read_clock(CLOCK_REALTIME); }

}  // namespace casemate::sentry
