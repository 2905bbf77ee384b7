// The table of system calls for people: `casemate syscalls`, docs/syscalls.md.
#pragma once

#include <string>
#include <string_view>

namespace casemate::sentry {

// "table", "json" or "markdown".
std::string syscall_report(std::string_view format);

}  // namespace casemate::sentry
