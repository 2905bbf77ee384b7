#include "oci/features.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "oci/hooks.h"
#include "oci/mount_options.h"
#include "oci/names.h"

namespace casemate::oci {
namespace {

using nlohmann::ordered_json;

template <typename T>
ordered_json words(std::span<const Name<T>> names) {
    ordered_json list = ordered_json::array();
    for (const Name<T>& name : names) list.push_back(name.text);
    return list;
}

ordered_json seccomp(const FeatureSupport& support) {
    ordered_json document;
    document["enabled"] = support.seccomp;
    if (!support.seccomp) return document;
    document["actions"] = words(seccomp_action_names());
    document["operators"] = words(seccomp_operator_names());
    document["archs"] = words(seccomp_arch_names());
    document["knownFlags"] = words(seccomp_flag_names());
    ordered_json flags = ordered_json::array();
    for (const auto& flag : seccomp_flag_names())
        if (support.seccomp_flags & flag.value) flags.push_back(flag.text);
    document["supportedFlags"] = std::move(flags);
    return document;
}

}  // namespace

std::string features_document(const FeatureSupport& support) {
    ordered_json linux;
    linux["namespaces"] = words(namespace_names());
    linux["capabilities"] = words(capability_names());
    linux["cgroup"]["v1"] = support.cgroup_v1;
    linux["cgroup"]["v2"] = support.cgroup_v2;
    linux["cgroup"]["systemd"] = support.cgroup_systemd;
    linux["cgroup"]["systemdUser"] = support.cgroup_systemd_user;
    linux["cgroup"]["rdma"] = support.cgroup_rdma;
    linux["seccomp"] = seccomp(support);
    linux["apparmor"]["enabled"] = support.apparmor;
    linux["selinux"]["enabled"] = support.selinux;
    linux["intelRdt"]["enabled"] = support.intel_rdt;
    linux["mountExtensions"]["idmap"]["enabled"] = support.idmapped_mounts;

    ordered_json document;
    document["ociVersionMin"] = "1.0.0";
    document["ociVersionMax"] = kOciVersion;
    document["hooks"] = words(hook_names());
    document["mountOptions"] = known_mount_options();
    document["linux"] = std::move(linux);
    if (!support.annotations.empty()) document["annotations"] = support.annotations;
    if (!support.unsafe_annotations.empty())
        document["potentiallyUnsafeConfigAnnotations"] = support.unsafe_annotations;
    return document.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace casemate::oci
