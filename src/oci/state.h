// The OCI state document (runtime-spec 1.2, runtime.md "State"): what `state` prints and what hooks get on stdin; and
// the rule for container ids.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "oci/spec.h"

namespace casemate::oci {

enum class ContainerStatus { kCreating, kCreated, kRunning, kPaused, kStopped };

std::string_view status_name(ContainerStatus status);
std::optional<ContainerStatus> status_from_name(std::string_view name);

struct State {
    std::string oci_version = kOciVersion;
    std::string id;
    ContainerStatus status = ContainerStatus::kCreating;
    int pid = 0;         // of the container's process as the reader sees it; 0 if there is none
    std::string bundle;  // absolute
    StringMap annotations;

    // Not of the specification; runc prints them and containerd and Podman read them. Written if not empty.
    std::string rootfs;
    std::string created;  // RFC 3339
    std::string owner;    // user name
};

// One document, indented, without a newline at its end.
std::string state_to_json(const State& state);

// Reads it back; hostile text, with the limits of json_node.h. Unknown properties are ignored.
Result<State> parse_state(std::string_view json);

// File and cgroup names are made of an id, so: 1 to kMaxContainerId of A-Z a-z 0-9 _ + - . and neither "." nor "..".
inline constexpr size_t kMaxContainerId = 200;
Result<void> validate_container_id(std::string_view id);

}  // namespace casemate::oci
