// Reading of configuration files. toml++ throws; nothing of that leaves this file.
#include <fmt/core.h>

#include "linux/file.h"
#include "sandbox/config.h"

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace casemate::sandbox {

namespace {

// Scalars as text; an array of strings joined by commas, as annotations spell lists.
Result<std::string> text_of(const toml::node& node) {
    if (auto text = node.value_exact<std::string>()) return std::move(*text);
    if (auto number = node.value_exact<int64_t>()) return fmt::format("{}", *number);
    if (auto flag = node.value_exact<bool>()) return std::string(*flag ? "true" : "false");
    if (const toml::array* list = node.as_array()) {
        std::string out;
        for (const toml::node& item : *list) {
            auto text = item.value_exact<std::string>();
            if (!text) return Error("must be a list of strings", EINVAL);
            out += (out.empty() ? "" : ",") + *text;
        }
        return out;
    }
    return Error("has a type that no key takes", EINVAL);
}

}  // namespace

Result<void> read_config_file(Config& config, const std::string& path) {
    auto content = linux::read_file(path);
    if (!content.ok()) return sys_error("read the configuration " + path, content.error().value);
    toml::parse_result parsed = toml::parse(*content, path);
    if (!parsed)
        return Error(fmt::format("{}:{}: {}", path, parsed.error().source().begin.line, parsed.error().description()),
                     EINVAL);
    for (auto&& [key, node] : parsed.table()) {
        unsigned line = key.source().begin.line;
        auto text = text_of(node);
        if (!text.ok())
            return Error(fmt::format("{}:{}: {} {}", path, line, key.str(), text.error().message()), EINVAL);
        auto done = config.set(key.str(), *text, path);
        if (!done.ok()) return Error(fmt::format("{}:{}: {}", path, line, done.error().message()), EINVAL);
    }
    return {};
}

}  // namespace casemate::sandbox
