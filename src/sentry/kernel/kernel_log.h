// The guest kernel's own log: what dmesg prints inside, with CAP_SYSLOG. What an operator is to know goes to the
// sentry's log as well.
#pragma once

#include <deque>
#include <mutex>
#include <string>
#include <string_view>

#include "sentry/kernel/clock.h"

namespace casemate::sentry {

class KernelLog {
  public:
    static constexpr size_t kSize = 64 << 10;  // bytes kept
    // A line without its end; non-printing bytes are replaced.
    void add(std::string_view line);
    // As syslog(2) gives it: "<6>[    0.000000] text\n" a line, the newest `limit` bytes in whole lines.
    std::string text(size_t limit);
    size_t size();
    void clear();  // for readers; as SYSLOG_ACTION_CLEAR

  private:
    std::mutex mutex_;
    const Nanoseconds start_ = monotonic_now();
    std::deque<std::string> lines_;  // guarded by mutex_
    size_t bytes_ = 0;               // guarded by mutex_
};

}  // namespace casemate::sentry
