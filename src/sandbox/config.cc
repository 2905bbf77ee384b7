#include "sandbox/config.h"

#include <dirent.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "base/checked.h"

namespace casemate::sandbox {

namespace {

constexpr const char* kFile = "/etc/casemate/config.toml";
constexpr const char* kFolder = "/etc/casemate/config.d";
constexpr std::string_view kAnnotationPrefix = "dev.casemate.";

std::string quoted(std::string_view text) { return fmt::format("\"{}\"", text); }

// The keys of the configuration as data: how each is set from text and printed.
struct Key {
    const char* name;
    Result<void> (*set)(Config& config, std::string_view text);
    std::string (*print)(const Config& config);
};

Result<void> set_bool(bool& value, std::string_view text) {
    if (text != "true" && text != "false") return Error("must be true or false", EINVAL);
    value = text == "true";
    return {};
}

constexpr Key kKeys[] = {
    {"engine",
     [](Config& config, std::string_view text) -> Result<void> {
         if (text != "auto" && text != "sentry" && text != "microvm")
             return Error("must be auto, sentry or microvm", EINVAL);
         config.engine = text;
         return {};
     },
     [](const Config& config) { return quoted(config.engine); }},
    {"libexec",
     [](Config& config, std::string_view text) -> Result<void> {
         if (!text.empty() && text[0] != '/') return Error("must be an absolute path", EINVAL);
         config.libexec = text;
         return {};
     },
     [](const Config& config) { return quoted(config.libexec); }},
    {"memory",
     [](Config& config, std::string_view text) -> Result<void> {
         config.memory = TRY(parse_size(text));
         return {};
     },
     [](const Config& config) { return fmt::format("{}", config.memory); }},
    {"cpus",
     [](Config& config, std::string_view text) -> Result<void> {
         auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), config.cpus);
         if (error != std::errc() || end != text.data() + text.size()) return Error("must be a whole number", EINVAL);
         return {};
     },
     [](const Config& config) { return fmt::format("{}", config.cpus); }},
    {"root_overlay",
     [](Config& config, std::string_view text) -> Result<void> {
         if (text != "none" && text != "memory" && text != "self") return Error("must be none, memory or self", EINVAL);
         config.root_overlay = text;
         return {};
     },
     [](const Config& config) { return quoted(config.root_overlay); }},
    {"root_overlay_size",
     [](Config& config, std::string_view text) -> Result<void> {
         config.root_overlay_size = TRY(parse_size(text));
         return {};
     },
     [](const Config& config) { return fmt::format("{}", config.root_overlay_size); }},
    {"debug", [](Config& config, std::string_view text) { return set_bool(config.debug, text); },
     [](const Config& config) { return std::string(config.debug ? "true" : "false"); }},
    {"enable_annotations",
     [](Config& config, std::string_view text) -> Result<void> {
         config.enable_annotations.clear();
         while (!text.empty()) {
             size_t comma = text.find(',');
             config.enable_annotations.emplace_back(text.substr(0, comma));
             text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
         }
         return {};
     },
     [](const Config& config) {
         std::string out = "[";
         for (const std::string& name : config.enable_annotations) out += (out.size() > 1 ? ", " : "") + quoted(name);
         return out + "]";
     }},
};

const Key* find_key(std::string_view name) {
    for (const Key& key : kKeys)
        if (name == key.name) return &key;
    return nullptr;
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
    std::string_view digits = text;
    uint64_t unit = 1;
    if (!digits.empty()) {
        switch (digits.back() | 0x20) {
            case 'k':
                unit = uint64_t{1} << 10;
                break;
            case 'm':
                unit = uint64_t{1} << 20;
                break;
            case 'g':
                unit = uint64_t{1} << 30;
                break;
            case 't':
                unit = uint64_t{1} << 40;
                break;
        }
        if (unit != 1) digits.remove_suffix(1);
    }
    uint64_t number = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    auto product = checked_mul(number, unit);
    if (error != std::errc() || end != digits.data() + digits.size() || !product)
        return Error("must be a size: a number of bytes, or with k, m, g or t", EINVAL);
    return *product;
}

std::string Config::origin(std::string_view key) const {
    for (auto entry = origins_.rbegin(); entry != origins_.rend(); ++entry)
        if (entry->first == key) return entry->second;
    return "built-in";
}

std::vector<Config::Value> Config::values() const {
    std::vector<Value> values;
    for (const Key& key : kKeys) values.push_back({key.name, key.print(*this), origin(key.name)});
    return values;
}

Result<void> Config::set(std::string_view name, std::string_view text, std::string_view origin) {
    const Key* key = find_key(name);
    if (key == nullptr) return Error(fmt::format("unknown key \"{}\"", name), EINVAL);
    auto done = key->set(*this, text);
    if (!done.ok()) return Error(fmt::format("{} = {}: {}", name, text, done.error().message()), EINVAL);
    origins_.emplace_back(name, origin);
    return {};
}

Result<Config> load_config(const std::string& file) {
    Config config;
    if (!file.empty()) {
        TRY(read_config_file(config, file));
        return config;
    }
    if (access(kFile, F_OK) == 0) TRY(read_config_file(config, kFile));
    DIR* folder = opendir(kFolder);
    if (folder == nullptr) return config;
    std::vector<std::string> names;
    while (dirent* entry = readdir(folder)) {
        std::string_view name = entry->d_name;
        if (name.ends_with(".toml")) names.emplace_back(name);
    }
    closedir(folder);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) TRY(read_config_file(config, std::string(kFolder) + "/" + name));
    return config;
}

Result<void> apply_annotation(Config& config, std::string_view name, std::string_view value) {
    if (!name.starts_with(kAnnotationPrefix)) return {};
    std::string_view key = name.substr(kAnnotationPrefix.size());
    if (key == "enable_annotations" || key == "libexec")
        return Error(fmt::format("annotations.{}: this key is for configuration files only", name), EPERM);
    // Not a key: the guest kernel reads it (boot/process_setup.cc).
    if (key == "first-process") {
        if (value == "init" || value == "command") return {};
        return Error(fmt::format("annotations.{}: is \"{}\", must be init or command", name, value), EINVAL);
    }
    if (find_key(key) == nullptr)
        return Error(fmt::format("annotations.{}: there is no key \"{}\"", name, key), EINVAL);
    if (std::find(config.enable_annotations.begin(), config.enable_annotations.end(), key) ==
        config.enable_annotations.end())
        return Error(fmt::format("annotations.{}: not allowed: the host's configuration does not name \"{}\" in "
                                 "enable_annotations",
                                 name, key),
                     EPERM);
    auto done = config.set(key, value, "annotation " + std::string(name));
    if (!done.ok()) return done.take_error().with_context("annotations." + std::string(name));
    return {};
}

}  // namespace casemate::sandbox
