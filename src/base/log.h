// The log of one process: a line per event, as text or JSON (the OCI command line's --log-format), to a descriptor.
//
// Thread-safe; a line is one write(2), so lines of several processes that share a file do not mix. Before set_sink()
// warnings and errors go to descriptor 2. Format strings are fmt's.
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace casemate::log {

enum class Level { kDebug, kInfo, kWarning, kError };
enum class Format { kText, kJson };

// `fd` is borrowed and must stay open; -1 silences the log.
void set_sink(int fd, Format format, Level least);
// A word put before each text line, and the key "component" in JSON; a string literal.
void set_component(const char* component);
bool enabled(Level level);
void write_line(Level level, std::string_view message);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(Level::kDebug)) write_line(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(Level::kInfo)) write_line(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(Level::kWarning)) write_line(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
    if (enabled(Level::kError)) write_line(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace casemate::log
