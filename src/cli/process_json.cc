// JSON documents that commands write. nlohmann's parser is used without exceptions; its types stay in this file.
#include "cli/process_json.h"

#include <fmt/core.h>

#include <charconv>
#include <nlohmann/json.hpp>

namespace casemate::cli {

namespace {

using nlohmann::json;

Result<json> parse_object(const std::string& text, const char* what) {
    json document = json::parse(text, nullptr, false);
    if (!document.is_object()) return Error(fmt::format("{} is not a JSON object", what), EINVAL);
    return document;
}

Result<uint32_t> parse_id(std::string_view text, const char* option) {
    uint32_t id = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
    if (error != std::errc() || end != text.data() + text.size())
        return Error(fmt::format("option --{}: \"{}\" is not an id (a number)", option, text), EINVAL);
    return id;
}

// nlohmann throws at text that is not UTF-8 unless it is told to replace it.
std::string dump(const json& document) { return document.dump(-1, ' ', false, json::error_handler_t::replace); }

Result<void> apply_changes(json& process, const ProcessChanges& changes) {
    if (!changes.args.empty()) process["args"] = changes.args;
    if (!changes.env.empty()) {
        json& env = process["env"];
        if (!env.is_array()) env = json::array();
        for (std::string_view variable : changes.env) {
            size_t equals = variable.find('=');
            if (equals == 0 || equals == std::string_view::npos)
                return Error(fmt::format("option --env: \"{}\" is not NAME=VALUE", variable), EINVAL);
            std::string name(variable.substr(0, equals + 1));
            for (auto entry = env.begin(); entry != env.end();) {
                const std::string* text = entry->get_ptr<const std::string*>();
                entry = text != nullptr && text->starts_with(name) ? env.erase(entry) : entry + 1;
            }
            env.push_back(variable);
        }
    }
    if (!changes.cwd.empty()) process["cwd"] = changes.cwd;
    if (!changes.user.empty() || !changes.additional_gids.empty()) {
        json& user = process["user"];
        if (!user.is_object()) user = json::object();
        if (!changes.user.empty()) {
            size_t colon = changes.user.find(':');
            user["uid"] = TRY(parse_id(changes.user.substr(0, colon), "user"));
            if (colon != std::string_view::npos) user["gid"] = TRY(parse_id(changes.user.substr(colon + 1), "user"));
        }
        for (std::string_view gid : changes.additional_gids) {
            uint32_t id = TRY(parse_id(gid, "additional-gids"));
            user["additionalGids"].push_back(id);
        }
    }
    if (!changes.capabilities.empty()) {
        json& sets = process["capabilities"];
        if (!sets.is_object()) sets = json::object();
        for (const char* set : {"bounding", "effective", "permitted"})
            for (std::string_view capability : changes.capabilities) sets[set].push_back(capability);
    }
    if (changes.terminal) process["terminal"] = true;
    if (changes.no_new_privileges) process["noNewPrivileges"] = true;
    return {};
}

}  // namespace

Result<std::string> process_of_config(const std::string& config_json, const ProcessChanges& changes) {
    json config = TRY(parse_object(config_json, "config.json"));
    auto found = config.find("process");
    if (found == config.end() || !found->is_object()) return Error("config.json: process: is missing", EINVAL);
    json process = *found;
    // A terminal is for the command that asks for one, not inherited from the container's own.
    process["terminal"] = false;
    process.erase("consoleSize");
    TRY(apply_changes(process, changes));
    return dump(process);
}

Result<std::string> change_process(const std::string& process_json, const ProcessChanges& changes) {
    json process = TRY(parse_object(process_json, "the --process document"));
    TRY(apply_changes(process, changes));
    return dump(process);
}

Result<std::string> add_environment(const std::string& config_json, const std::vector<std::string>& env) {
    json config = TRY(parse_object(config_json, "config.json"));
    ProcessChanges changes;
    for (const std::string& variable : env) changes.env.push_back(variable);
    TRY(apply_changes(config["process"], changes));
    return dump(config);
}

Result<std::string> without_user_namespace(const std::string& config_json) {
    json config = TRY(parse_object(config_json, "config.json"));
    json& os = config["linux"];
    if (!os.is_object()) return config_json;
    os.erase("uidMappings");
    os.erase("gidMappings");
    if (os["namespaces"].is_array())
        std::erase_if(os["namespaces"].get_ref<json::array_t&>(),
                      [](const json& one) { return one.is_object() && one.value("type", "") == "user"; });
    return dump(config);
}

std::string do_config(const DoConfig& config) {
    json process = {{"terminal", config.terminal}, {"args", config.args}, {"env", config.env}, {"cwd", config.cwd}};
    process["user"] = {{"uid", config.uid}, {"gid", config.gid}, {"additionalGids", config.additional_gids}};
    if (config.uid == 0) {
        // A root as on the host: every capability, over the sandbox's own kernel only.
        const char* const kAll[] = {"CAP_CHOWN",
                                    "CAP_DAC_OVERRIDE",
                                    "CAP_DAC_READ_SEARCH",
                                    "CAP_FOWNER",
                                    "CAP_FSETID",
                                    "CAP_KILL",
                                    "CAP_SETGID",
                                    "CAP_SETUID",
                                    "CAP_SETPCAP",
                                    "CAP_LINUX_IMMUTABLE",
                                    "CAP_NET_BIND_SERVICE",
                                    "CAP_NET_BROADCAST",
                                    "CAP_NET_ADMIN",
                                    "CAP_NET_RAW",
                                    "CAP_IPC_LOCK",
                                    "CAP_IPC_OWNER",
                                    "CAP_SYS_CHROOT",
                                    "CAP_SYS_PTRACE",
                                    "CAP_SYS_PACCT",
                                    "CAP_SYS_ADMIN",
                                    "CAP_SYS_BOOT",
                                    "CAP_SYS_NICE",
                                    "CAP_SYS_RESOURCE",
                                    "CAP_SYS_TIME",
                                    "CAP_SYS_TTY_CONFIG",
                                    "CAP_MKNOD",
                                    "CAP_LEASE",
                                    "CAP_AUDIT_WRITE",
                                    "CAP_SETFCAP"};
        json all = json::array();
        for (const char* name : kAll) all.push_back(name);
        process["capabilities"] = {{"bounding", all}, {"effective", all}, {"permitted", all}};
    }
    json mounts = json::array();
    auto mount = [&](const char* target, const char* type, std::vector<std::string> options) {
        mounts.push_back({{"destination", target}, {"type", type}, {"source", type}, {"options", options}});
    };
    mount("/proc", "proc", {"nosuid", "noexec", "nodev"});
    mount("/sys", "sysfs", {"nosuid", "noexec", "nodev", "ro"});
    mount("/dev", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"});
    mount("/dev/pts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"});
    mount("/dev/shm", "tmpfs", {"nosuid", "noexec", "nodev", "mode=1777"});
    mount("/dev/mqueue", "mqueue", {"nosuid", "noexec", "nodev"});
    for (const DoConfig::Volume& volume : config.volumes)
        mounts.push_back({{"destination", volume.target},
                          {"type", "bind"},
                          {"source", volume.source},
                          {"options", {"rbind", volume.read_only ? "ro" : "rw"}}});
    json namespaces = json::array();
    for (const char* type : {"pid", "mount", "ipc", "uts"}) namespaces.push_back({{"type", type}});
    if (!config.host_network) namespaces.push_back({{"type", "network"}});
    if (!config.network_path.empty()) namespaces.back()["path"] = config.network_path;
    json linux_part = {{"namespaces", namespaces}};
    if (config.memory != 0) linux_part["resources"]["memory"]["limit"] = config.memory;
    if (config.cpus != 0) linux_part["resources"]["cpu"] = {{"quota", config.cpus * 100000ull}, {"period", 100000}};
    json document = {
        {"ociVersion", "1.2.0"},       {"process", process}, {"root", {{"path", "/"}, {"readonly", false}}},
        {"hostname", config.hostname}, {"mounts", mounts},   {"linux", linux_part}};
    document["annotations"] = {{"dev.casemate.first-process", "command"}};
    return dump(document);
}

}  // namespace casemate::cli
