// From a bundle's specification to the guest API's CreateContainer: what has to be taken from the host is opened here,
// in the process that has the caller's view of it (its mount namespace, its folder), and travels on as descriptors.
//
// The root and each bind mount become a *tree*: a detached mount (open_tree), made read-only and so on as the mount's
// options demand, for the file server. Every other file system is the guest kernel's own.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/guest.pb.h"
#include "oci/spec.h"
#include "sandbox/config.h"
#include "sandbox/engine.h"

namespace casemate::sandbox {

struct PreparedContainer {
    guest::CreateContainerRequest request;  // FileTree.tree is the index in `trees`; no stream tokens yet
    std::vector<HostTree> trees;
    UniqueFd store;  // of the root's writable layer; none: it is in guest memory, or there is no layer
};

// Where what is written to the root goes.
enum class RootLayer { kNone, kMemory, kSelf };

struct PrepareOptions {
    std::string container_id;
    std::string_view config;  // config.json as read
    int bundle_fd = -1;       // where relative mount sources lie; -1: there is no bundle
    int root_fd = -1;         // O_PATH, the root file system
    UniqueFd root_tree;       // instead: a detached mount that is the root
    RootLayer layer = RootLayer::kNone;
    uint64_t layer_size = 0;  // 0: while there is room
    // The pod that the container joins: the namespace paths of its first container are the sandbox's own. Null: the
    // container is the first of its pod.
    const oci::Spec* pod = nullptr;
    int pod_pid = 0;     // the process that stands for the pod's first container
    std::string pod_id;  // that container
};

// What the configuration asks for.
RootLayer root_layer_of(const Config& config);

// Errors name the field: "mounts[3].source: ...".
Result<PreparedContainer> prepare_container(const oci::Spec& spec, PrepareOptions options);

}  // namespace casemate::sandbox
