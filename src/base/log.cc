#include "base/log.h"

#include <time.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>

namespace casemate::log {
namespace {

struct Sink {
    std::atomic<int> fd{2};
    std::atomic<Format> format{Format::kText};
    std::atomic<Level> least{Level::kWarning};
    std::atomic<const char*> component{"casemate"};
};
Sink sink;  // The one process-wide log; its fields are independent, so no lock.

const char* name_of(Level level) {
    switch (level) {
        case Level::kDebug:
            return "debug";
        case Level::kInfo:
            return "info";
        case Level::kWarning:
            return "warning";
        case Level::kError:
            return "error";
    }
    return "error";
}

// RFC 3339 with nanoseconds, UTC; what containerd and Podman parse. Not by gmtime_r, which opens the file of time zones
// first: in a process that has taken a seccomp list its first line would be its last.
std::string timestamp() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    std::chrono::sys_seconds at{std::chrono::seconds(now.tv_sec)};
    auto day = std::chrono::floor<std::chrono::days>(at);
    std::chrono::year_month_day date(day);
    std::chrono::hh_mm_ss time(at - day);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", static_cast<int>(date.year()),
                       static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), time.hours().count(),
                       time.minutes().count(), time.seconds().count(), now.tv_nsec);
}

void append_json_string(std::string& out, std::string_view text) {
    out += '"';
    for (unsigned char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += static_cast<char>(c);
        } else if (c < 0x20 || c == 0x7f) {
            out += fmt::format("\\u{:04x}", c);
        } else {
            out += static_cast<char>(c);
        }
    }
    out += '"';
}

}  // namespace

void set_sink(int fd, Format format, Level least) {
    sink.fd = fd;
    sink.format = format;
    sink.least = least;
}

void set_component(const char* component) { sink.component = component; }

bool enabled(Level level) { return sink.fd >= 0 && level >= sink.least.load(std::memory_order_relaxed); }

void write_line(Level level, std::string_view message) {
    int saved_errno = errno;
    std::string line;
    if (sink.format == Format::kJson) {
        line = fmt::format(R"({{"level":"{}","component":"{}","msg":)", name_of(level), sink.component.load());
        append_json_string(line, message);
        line += fmt::format(R"(,"time":"{}"}})", timestamp());
    } else {
        line = fmt::format("{} {} {}: ", timestamp(), sink.component.load(), name_of(level));
        // One event is one line: a newline from a guest or a client must not forge a second one.
        for (char c : message) line += (static_cast<unsigned char>(c) < 0x20) ? ' ' : c;
    }
    line += '\n';
    // A full or closed log must never stop the work; the result is of no use here.
    ssize_t written = ::write(sink.fd, line.data(), line.size());
    static_cast<void>(written);
    errno = saved_errno;
}

}  // namespace casemate::log
