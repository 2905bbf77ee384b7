// The first line of a script: "#! interpreter [argument]".
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace casemate::sentry {

constexpr size_t kProbeSize = 256;  // how much of a file decides its format

struct ScriptLine {
    std::string interpreter;
    std::optional<std::string> argument;  // everything behind the interpreter, as one
};
// `head`: the first bytes of the file, at most kProbeSize. nullopt: no script. ENOEXEC: a broken one.
SysResult<std::optional<ScriptLine>> parse_script(std::string_view head);

}  // namespace casemate::sentry
