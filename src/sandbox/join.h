// A container that joins a pod which is there already: Kubernetes through the OCI command line.
//
// The command prepares everything that belongs to the caller's view of the host (trees, streams, cgroup), starts an
// anchor process for the container, and hands all to the pod's sandbox host.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "sandbox/control.h"
#include "sandbox/launch.h"

namespace casemate::sandbox {

// The id of the pod that the annotations of containerd or CRI-O name; empty: the container is a pod of its own.
Result<std::optional<std::string>> pod_to_join(const oci::Spec& spec, const std::string& id);

// As launch_pod(), into the pod `pod`.
Result<Launched> join_pod(const LaunchOptions& options, const std::string& pod, StreamFds streams, StateDir& dir);

struct AnchorProcess {
    pid_t pid = -1;
    UniqueFd pidfd;
    UniqueFd host_end;  // goes to the sandbox host
};
// A child of the caller, which reaps it or leaves it to its own parent. `terminal`: the slave of a pty whose size it
// reports; -1: none. Borrowed.
Result<AnchorProcess> start_anchor(const std::string& libexec, int terminal);

}  // namespace casemate::sandbox
