#include "cli/container.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "cli/process_json.h"
#include "oci/config_parser.h"

namespace casemate::cli {
namespace {

TEST(Signals, by_number_and_by_name) {
    EXPECT_EQ(*parse_signal("9"), 9);
    EXPECT_EQ(*parse_signal("KILL"), SIGKILL);
    EXPECT_EQ(*parse_signal("SIGTERM"), SIGTERM);
    EXPECT_EQ(*parse_signal("sigusr1"), SIGUSR1);
    EXPECT_EQ(*parse_signal("SIGRTMIN+3"), SIGRTMIN + 3);
    EXPECT_EQ(*parse_signal("RTMAX-1"), SIGRTMAX - 1);
    EXPECT_EQ(*parse_signal("0"), 0);
    for (const char* bad : {"", "SIG", "NOPE", "-1", "65", "9x", "RTMIN+99", "RTMAX+1"})
        EXPECT_FALSE(parse_signal(bad).ok()) << bad;
}

TEST(ProcessJson, exec_changes_what_was_asked_and_keeps_the_rest) {
    std::string config =
        R"({"process":{"terminal":true,"args":["sh"],"cwd":"/","env":["A=1","B=2"],"user":{"uid":5,"gid":6}}})";
    ProcessChanges changes;
    changes.args = {"ls", "-l"};
    changes.env = {"B=3", "C=4"};
    changes.user = "7";
    auto json = process_of_config(config, changes);
    ASSERT_TRUE(json.ok());
    oci::ParseNotes notes;
    auto process = oci::parse_process(*json, notes);
    ASSERT_TRUE(process.ok()) << process.error().message();
    EXPECT_FALSE(process->terminal);
    EXPECT_EQ(process->args, (std::vector<std::string>{"ls", "-l"}));
    EXPECT_EQ(process->env, (std::vector<std::string>{"A=1", "B=3", "C=4"}));
    EXPECT_EQ(process->user.uid, 7u);
    EXPECT_EQ(process->user.gid, 6u);
    changes.user = "root";
    EXPECT_FALSE(process_of_config(config, changes).ok());
    EXPECT_FALSE(process_of_config("[]", {}).ok());
    EXPECT_FALSE(process_of_config("{", {}).ok());
}

TEST(ProcessJson, the_document_of_do_is_a_valid_config) {
    DoConfig config;
    config.args = {"ls", "\"\xff"};
    config.env = {"A=\n"};
    config.cwd = "/tmp";
    config.volumes = {{"/a", "/b", true}};
    config.memory = 1 << 30;
    config.cpus = 2;
    auto spec = oci::parse_config(do_config(config));
    ASSERT_TRUE(spec.ok()) << spec.error().message();
    EXPECT_EQ(spec->mounts.back().destination, "/b");
    EXPECT_EQ(spec->linux.resources->memory.limit, 1 << 30);
}

}  // namespace
}  // namespace casemate::cli
