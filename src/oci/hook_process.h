// A startContainer hook as a `process` object: it runs in the container, as what the container's process will be
// (runtime-spec, config.md, "StartContainer Hooks").
#pragma once

#include <string>

#include "base/result.h"
#include "oci/spec.h"

namespace casemate::oci {

// The text of config.json's `process` with the hook's arguments and environment, without a terminal. The program to
// execute is hook.path; args[0] may be another name.
Result<std::string> hook_process(const std::string& config_json, const Hook& hook);

}  // namespace casemate::oci
