#include "oci/hook_process.h"

#include <nlohmann/json.hpp>

namespace casemate::oci {

Result<std::string> hook_process(const std::string& config_json, const Hook& hook) {
    using nlohmann::json;
    json config = json::parse(config_json, nullptr, false);
    if (!config.is_object()) return Error("config.json is not a JSON object", EINVAL);
    auto found = config.find("process");
    if (found == config.end() || !found->is_object()) return Error("config.json: process: is missing", EINVAL);
    json process = *found;
    process["args"] = hook.args.empty() ? std::vector<std::string>{hook.path} : hook.args;
    process["env"] = hook.env;
    process["terminal"] = false;
    process.erase("consoleSize");
    return process.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace casemate::oci
