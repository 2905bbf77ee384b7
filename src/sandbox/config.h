// The configuration of this host: built-in values, then /etc/casemate/config.toml, then config.d/*.toml in the order of
// their names, then annotations `dev.casemate.*` of a container where `enable_annotations` names them.
//
// The files are the administrator's, annotations come from whoever may create pods. An unknown key is an error with its
// file and line; nothing is ignored.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace casemate::sandbox {

struct Config {
    std::string engine = "auto";  // auto, sentry or microvm
    std::string libexec;          // folder of the helper programs; empty: that of casemate itself
    uint64_t memory = 0;          // bytes a pod may use unless its resources say; 0: half of the host's
    uint32_t cpus = 0;            // processors of a pod unless its resources say; 0: the host's
    // Where what a container writes to its root goes: into the root (none), or into a layer over it that vanishes with
    // the container, in the pod's memory (memory) or in an unnamed file in the root's own file system (self).
    std::string root_overlay = "none";
    uint64_t root_overlay_size = 0;               // bytes that such a layer's files may have; 0: while there is room
    bool debug = false;                           // a debug log of each sandbox
    std::vector<std::string> enable_annotations;  // keys that dev.casemate.KEY may set

    // Where each value came from: "built-in", a file, or an annotation; by key.
    std::string origin(std::string_view key) const;

    struct Value {
        std::string key;
        std::string text;  // as TOML would spell it
        std::string origin;
    };
    std::vector<Value> values() const;

    // Sets one key from text, as an annotation gives it. EINVAL for an unknown key or a bad value.
    Result<void> set(std::string_view key, std::string_view text, std::string_view origin);

  private:
    std::vector<std::pair<std::string, std::string>> origins_;
    friend Result<void> read_config_file(Config& config, const std::string& path);
};

// `file`: --config; then config.d is not read and the file must exist. Empty: the files of /etc/casemate that exist.
Result<Config> load_config(const std::string& file);
Result<void> read_config_file(Config& config, const std::string& path);

// A number of bytes, or with the suffix k, m, g or t (powers of 1024): "512m".
Result<uint64_t> parse_size(std::string_view text);

// Applies annotations `dev.casemate.KEY`. One that `enable_annotations` does not allow is refused.
Result<void> apply_annotation(Config& config, std::string_view name, std::string_view value);

}  // namespace casemate::sandbox
