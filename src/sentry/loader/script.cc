#include "sentry/loader/script.h"

namespace casemate::sentry {
namespace {
constexpr std::string_view kBlank = " \t";
}

SysResult<std::optional<ScriptLine>> parse_script(std::string_view head) {
    if (!head.starts_with("#!")) return std::optional<ScriptLine>();
    std::string_view line = head.substr(2);
    size_t end = line.find_first_of(std::string_view("\n\0", 2));
    if (end == std::string_view::npos) {
        // Cut off by the probe: fine as long as the interpreter itself is whole.
        size_t start = line.find_first_not_of(kBlank);
        if (start == std::string_view::npos) return Errno(ENOEXEC);
        if (head.size() >= kProbeSize && line.find_first_of(kBlank, start) == std::string_view::npos)
            return Errno(ENOEXEC);
        end = line.size();
    }
    line = line.substr(0, end);
    size_t start = line.find_first_not_of(kBlank);
    if (start == std::string_view::npos) return Errno(ENOEXEC);
    size_t last = line.find_last_not_of(kBlank);
    line = line.substr(start, last - start + 1);
    ScriptLine script;
    size_t blank = line.find_first_of(kBlank);
    script.interpreter = std::string(line.substr(0, blank));
    if (blank != std::string_view::npos) {
        size_t argument = line.find_first_not_of(kBlank, blank);
        if (argument != std::string_view::npos) script.argument = std::string(line.substr(argument));
    }
    return std::optional<ScriptLine>(std::move(script));
}

}  // namespace casemate::sentry
