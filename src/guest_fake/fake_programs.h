// The programs every fake guest has: true, false, exit N, echo, cat, sleep SECONDS, tty, and `sh -c "exit N"`.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "guest_fake/fake_process.h"

namespace casemate::guest_fake {

std::map<std::string, Program, std::less<>> standard_programs();

// process.args of a config.json, or args of a process.json.
Result<std::vector<std::string>> args_of_config(std::string_view json);
Result<std::vector<std::string>> args_of_process(std::string_view json);

}  // namespace casemate::guest_fake
