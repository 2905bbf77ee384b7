// The document of `casemate features` (runtime-spec 1.2, features.md, features-linux.md): what the parser knows, from
// the parser's own tables, and what this build honours, told by the caller.
#pragma once

#include <string>
#include <vector>

#include "oci/spec.h"

namespace casemate::oci {

// What does not follow from the tables. By the specification it is about the build, not about the host.
struct FeatureSupport {
    bool cgroup_v1 = false;
    bool cgroup_v2 = false;
    bool cgroup_systemd = false;
    bool cgroup_systemd_user = false;
    bool cgroup_rdma = false;
    bool seccomp = false;
    uint32_t seccomp_flags = 0;  // SECCOMP_FILTER_FLAG_* that are honoured
    bool apparmor = false;
    bool selinux = false;
    bool intel_rdt = false;
    bool idmapped_mounts = false;
    StringMap annotations;  // e.g. "dev.casemate.version"
    // Annotations of config.json that change what the runtime does; one that ends in "." is a prefix.
    std::vector<std::string> unsafe_annotations;
};

// Indented, without a newline at its end.
std::string features_document(const FeatureSupport& support);

}  // namespace casemate::oci
