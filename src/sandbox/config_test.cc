#include "sandbox/config.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include "linux/file.h"

namespace casemate::sandbox {
namespace {

class ConfigTest : public testing::Test {
  protected:
    void write(std::string_view text) { ASSERT_TRUE(linux::write_file_atomic(path_, text, 0644).ok()); }
    void TearDown() override { unlink(path_.c_str()); }
    std::string path_ = "/tmp/casemate-config-" + std::to_string(getpid()) + ".toml";
};

TEST_F(ConfigTest, values_and_where_they_came_from) {
    write("engine = \"sentry\"\nmemory = \"512m\"\nenable_annotations = [\"cpus\", \"root_overlay\"]\n");
    auto config = load_config(path_);
    ASSERT_TRUE(config.ok()) << config.error().message();
    EXPECT_EQ(config->engine, "sentry");
    EXPECT_EQ(config->memory, 512u << 20);
    EXPECT_EQ(config->origin("engine"), path_);
    EXPECT_EQ(config->origin("cpus"), "built-in");
    EXPECT_TRUE(apply_annotation(*config, "dev.casemate.cpus", "3").ok());
    EXPECT_EQ(config->cpus, 3u);
    EXPECT_EQ(config->root_overlay, "none");
    EXPECT_TRUE(apply_annotation(*config, "dev.casemate.root_overlay", "self").ok());
    EXPECT_EQ(config->root_overlay, "self");
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.root_overlay", "here").ok());
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.root_overlay_size", "1g").ok());
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.engine", "microvm").ok());
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.libexec", "/tmp").ok());
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.nonsense", "1").ok());
    EXPECT_TRUE(apply_annotation(*config, "dev.casemate.first-process", "command").ok());
    EXPECT_FALSE(apply_annotation(*config, "dev.casemate.first-process", "x").ok());
    EXPECT_TRUE(apply_annotation(*config, "org.other", "x").ok());
}

TEST_F(ConfigTest, an_unknown_key_is_an_error_with_its_line) {
    write("# comment\nengine = \"auto\"\nengin = \"sentry\"\n");
    auto config = load_config(path_);
    ASSERT_FALSE(config.ok());
    EXPECT_NE(config.error().message().find(path_ + ":3: unknown key \"engin\""), std::string::npos)
        << config.error().message();
}

TEST_F(ConfigTest, bad_values_and_bad_syntax_name_the_line) {
    for (const char* text : {"engine = \"fast\"\n", "engine = \n", "cpus = \"many\"\n", "debug = 3\n", "[engine]\n",
                             "root_overlay = \"there\"\n", "root_overlay_size = \"big\"\n"}) {
        write(text);
        auto config = load_config(path_);
        ASSERT_FALSE(config.ok()) << text;
        EXPECT_NE(config.error().message().find(path_ + ":1:"), std::string::npos) << config.error().message();
    }
}

}  // namespace
}  // namespace casemate::sandbox
