// The parts of the config.json parser, one file a concern; for config_*.cc only.
#pragma once

#include "oci/json_node.h"
#include "oci/spec.h"

namespace casemate::oci {

Result<void> read(const JsonNode& node, IdMapping& out);
Result<void> read(const JsonNode& node, Process& out);
Result<void> read(const JsonNode& node, Mount& out);
Result<void> read(const JsonNode& node, Hook& out);
Result<void> read(const JsonNode& node, Hooks& out);
Result<void> read(const JsonNode& node, Resources& out);
Result<void> read(const JsonNode& node, Seccomp& out);
Result<void> read(const JsonNode& node, Linux& out);

// A path that must start with "/".
Result<void> read_absolute_path(const JsonNode& node, std::string& out);
// A list of CPUs or memory nodes.
Result<void> read_cpu_list(const JsonNode& node, std::string& out);
// A device number's half, of at most `most`.
Result<void> read_device_number(const JsonNode& node, uint32_t most, uint32_t& out);
inline constexpr uint32_t kMaxMajor = (1 << 12) - 1;
inline constexpr uint32_t kMaxMinor = (1 << 20) - 1;

// No two mappings may overlap; the kernel would refuse them much later.
Result<void> check_mappings(const JsonNode& node, const std::vector<IdMapping>& mappings);

// True if a path has a ".." component.
bool climbs(std::string_view path);

}  // namespace casemate::oci
