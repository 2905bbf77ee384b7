// Points in time inside the sentry: nanoseconds of CLOCK_MONOTONIC (or of the clock named).
#pragma once

#include <cstdint>
#include <optional>

namespace casemate::sentry {

using Nanoseconds = int64_t;
// Absolute, on the host's CLOCK_MONOTONIC; nullopt waits for ever.
using Deadline = std::optional<Nanoseconds>;

constexpr Nanoseconds kSecond = 1'000'000'000;
Nanoseconds monotonic_now();
Nanoseconds realtime_now();

}  // namespace casemate::sentry
