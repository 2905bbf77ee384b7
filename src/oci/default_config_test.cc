#include "oci/default_config.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "oci/config_parser.h"

namespace casemate::oci {
namespace {

using nlohmann::json;

TEST(DefaultConfig, IsAccepted) {
    for (bool rootless : {false, true}) {
        auto spec = parse_config(default_config(rootless));
        ASSERT_TRUE(spec.ok()) << spec.error().message();
        EXPECT_TRUE(spec->notes.unknown_fields.empty());
        EXPECT_TRUE(spec->notes.warnings.empty());
        EXPECT_EQ(spec->linux.find_namespace(NamespaceType::kUser) != nullptr, rootless);
        EXPECT_EQ(spec->process->args.at(0), "sh");
    }
}

// The document says the same as runc's, which people's scripts edit; the version and the host name are ours, and its
// namespaces have no order.
TEST(DefaultConfig, MatchesRunc) {
    if (system("runc --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "runc is not installed";
    for (bool rootless : {false, true}) {
        char directory[] = "/tmp/casemate-spec-XXXXXX";
        ASSERT_NE(mkdtemp(directory), nullptr);
        std::string command = std::string("cd ") + directory + " && runc spec" + (rootless ? " --rootless" : "");
        ASSERT_EQ(system(command.c_str()), 0);
        std::ostringstream text;
        text << std::ifstream(std::string(directory) + "/config.json").rdbuf();
        std::filesystem::remove_all(directory);
        EXPECT_TRUE(parse_config(text.str()).ok());

        json theirs = json::parse(text.str()), ours = json::parse(default_config(rootless));
        for (json* document : {&theirs, &ours}) {
            document->erase("ociVersion");
            document->erase("hostname");
            json& namespaces = (*document)["linux"]["namespaces"];
            // runc lists it only where the host has pure cgroup v2; a guest kernel always has its own.
            std::erase(namespaces.get_ref<json::array_t&>(), json::object({{"type", "cgroup"}}));
            std::sort(namespaces.begin(), namespaces.end());
        }
        // runc before 1.2 grants the ambient set, too, which the kernel then ignores for root.
        theirs["process"]["capabilities"].erase("ambient");
        theirs["process"]["capabilities"].erase("inheritable");
        EXPECT_EQ(json::diff(theirs, ours), json::array()) << "rootless: " << rootless;
    }
}

}  // namespace
}  // namespace casemate::oci
