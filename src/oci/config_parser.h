// Reads config.json and its relatives. The text is hostile; see json_node.h for the limits.
//
// Every error is one sentence that names the document and the field:
//   config.json: process.rlimits[2].soft: is "abc", must be a number of 0 to 18446744073709551615
// Properties that the specification does not know are ignored, as it demands, and listed in Spec::notes; so are
// capability names that are unknown (a warning by the specification). Everything else that is wrong is an error.
#pragma once

#include <string_view>

#include "base/result.h"
#include "oci/spec.h"

namespace casemate::oci {

Result<Spec> parse_config(std::string_view json);

// The document of `exec --process`: what config.json has under "process".
Result<Process> parse_process(std::string_view json, ParseNotes& notes);

// The document of `update --resources`: what config.json has under "linux.resources".
Result<Resources> parse_resources(std::string_view json, ParseNotes& notes);

// A list of CPUs or memory nodes, "0-3,7"; the empty string is a valid, empty list.
bool is_cpu_list(std::string_view text);

}  // namespace casemate::oci
