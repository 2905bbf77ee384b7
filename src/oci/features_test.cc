#include "oci/features.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "oci/config_parser.h"

namespace casemate::oci {
namespace {

using nlohmann::json;

FeatureSupport support() {
    FeatureSupport support;
    support.cgroup_v1 = support.cgroup_v2 = support.seccomp = true;
    support.seccomp_flags = 2;
    support.annotations = {{"dev.casemate.version", "0.1.0"}};
    support.unsafe_annotations = {"dev.casemate."};
    return support;
}

TEST(Features, Document) {
    json document = json::parse(features_document(support()));
    EXPECT_EQ(document["ociVersionMin"], "1.0.0");
    EXPECT_EQ(document["ociVersionMax"], kOciVersion);
    EXPECT_EQ(document["hooks"],
              json({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}));
    EXPECT_EQ(document["linux"]["cgroup"]["v1"], true);
    EXPECT_EQ(document["linux"]["cgroup"]["systemd"], false);
    EXPECT_EQ(document["linux"]["capabilities"].size(), 41u);
    EXPECT_EQ(document["linux"]["namespaces"].size(), 8u);
    EXPECT_EQ(document["linux"]["seccomp"]["supportedFlags"], json({"SECCOMP_FILTER_FLAG_LOG"}));
    EXPECT_EQ(document["linux"]["apparmor"]["enabled"], false);
    EXPECT_EQ(document["linux"]["mountExtensions"]["idmap"]["enabled"], false);
    EXPECT_EQ(document["annotations"]["dev.casemate.version"], "0.1.0");
    EXPECT_EQ(document["potentiallyUnsafeConfigAnnotations"], json({"dev.casemate."}));
}

// "The runtime MUST accept this value" (features.md), of every list.
TEST(Features, EveryListedWordIsAccepted) {
    json document = json::parse(features_document(support()));
    json config = {{"ociVersion", document["ociVersionMax"]},
                   {"process", {{"args", {"a"}}, {"cwd", "/"}}},
                   {"root", {{"path", "r"}}}};
    config["process"]["capabilities"]["bounding"] = document["linux"]["capabilities"];
    config["linux"]["namespaces"] = json::array();
    for (const auto& type : document["linux"]["namespaces"])
        config["linux"]["namespaces"].push_back(json::object({{"type", type}}));
    json& seccomp = config["linux"]["seccomp"];
    seccomp["defaultAction"] = "SCMP_ACT_ALLOW";
    seccomp["architectures"] = document["linux"]["seccomp"]["archs"];
    seccomp["flags"] = document["linux"]["seccomp"]["knownFlags"];
    seccomp["listenerPath"] = "/run/x";
    seccomp["syscalls"] = json::array();
    for (const auto& action : document["linux"]["seccomp"]["actions"])
        for (const auto& op : document["linux"]["seccomp"]["operators"])
            seccomp["syscalls"].push_back(
                {{"names", json::array({"read"})},
                 {"action", action},
                 {"args", json::array({json::object({{"index", 0}, {"value", 1}, {"op", op}})})}});
    for (const auto& hook : document["hooks"])
        config["hooks"][hook.get<std::string>()] = json::array({json::object({{"path", "/h"}})});
    config["mounts"] = json::array();
    config["mounts"].push_back(
        json::object({{"destination", "/m"},
                      {"type", "tmpfs"},
                      {"source", "x"},
                      {"options", document["mountOptions"]},
                      {"uidMappings", json::array({json::object({{"containerID", 0}, {"hostID", 0}, {"size", 1}})})},
                      {"gidMappings", json::array({json::object({{"containerID", 0}, {"hostID", 0}, {"size", 1}})})}}));
    auto spec = parse_config(config.dump());
    ASSERT_TRUE(spec.ok()) << spec.error().message();
    EXPECT_TRUE(spec->notes.warnings.empty()) << spec->notes.warnings[0];
    EXPECT_TRUE(spec->notes.unknown_fields.empty()) << spec->notes.unknown_fields[0];
    EXPECT_EQ(spec->mounts[0].parsed.data, "");
    config["ociVersion"] = document["ociVersionMin"];
    EXPECT_TRUE(parse_config(config.dump()).ok());
}

}  // namespace
}  // namespace casemate::oci
