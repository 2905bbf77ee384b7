// The OCI `process` object of an exec: that of the container with the command line's changes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace casemate::cli {

struct ProcessChanges {
    std::vector<std::string_view> args;  // empty: the document is a whole process of its own
    std::vector<std::string_view> env;
    std::string_view cwd;
    std::string_view user;  // "UID[:GID]"
    std::vector<std::string_view> additional_gids;
    std::vector<std::string_view> capabilities;
    bool terminal = false;
    bool no_new_privileges = false;
};

// From config.json's text.
Result<std::string> process_of_config(const std::string& config_json, const ProcessChanges& changes);
// From the text of a --process file.
Result<std::string> change_process(const std::string& process_json, const ProcessChanges& changes);

// The config.json of `casemate do`.
struct DoConfig {
    std::vector<std::string_view> args;
    std::vector<std::string> env;
    std::string cwd;
    uint32_t uid = 0, gid = 0;
    std::vector<uint32_t> additional_gids;
    bool terminal = false;
    std::string hostname;
    struct Volume {
        std::string source, target;
        bool read_only = false;
    };
    std::vector<Volume> volumes;
    uint64_t memory = 0;
    uint32_t cpus = 0;
    std::string network_path;   // of a network namespace; empty: a new one
    bool host_network = false;  // instead: the caller's
};
std::string do_config(const DoConfig& config);

// config.json with variables added to process.env.
Result<std::string> add_environment(const std::string& config_json, const std::vector<std::string>& env);
// config.json of a container that has the user namespace its pod lives in.
Result<std::string> without_user_namespace(const std::string& config_json);

}  // namespace casemate::cli
