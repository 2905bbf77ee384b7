#include "oci/bundle.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace casemate::oci {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class BundleTest : public testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/casemate-bundle-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        outer_ = fs::canonical(name);
        bundle_ = outer_ / "bundle";
        fs::create_directory(bundle_);
    }
    void TearDown() override { fs::remove_all(outer_); }

    void write_config(const std::string& root) {
        std::ofstream(bundle_ / "config.json") << R"({"ociVersion": "1.0.2", "root": {"path": ")" << root << "\"}}";
    }
    std::string error() {
        auto bundle = open_bundle(bundle_);
        return bundle.ok() ? "opened" : bundle.error().message();
    }

    fs::path outer_, bundle_;
};

TEST_F(BundleTest, Opens) {
    write_config("rootfs");
    fs::create_directory(bundle_ / "rootfs");
    auto bundle = open_bundle(bundle_);
    ASSERT_TRUE(bundle.ok()) << bundle.error().message();
    EXPECT_EQ(bundle->path, bundle_);
    EXPECT_EQ(bundle->rootfs_path, bundle_ / "rootfs");
    EXPECT_EQ(bundle->spec.root.path, "rootfs");
    EXPECT_EQ(fcntl(bundle->rootfs.get(), F_GETFL) & O_PATH, O_PATH);
}

TEST_F(BundleTest, PathBecomesAbsoluteAndWithoutLinks) {
    write_config("rootfs");
    fs::create_directory(bundle_ / "rootfs");
    fs::create_symlink("bundle", outer_ / "link");
    auto bundle = open_bundle(outer_ / "link" / ".");
    ASSERT_TRUE(bundle.ok()) << bundle.error().message();
    EXPECT_EQ(bundle->path, bundle_);
}

TEST_F(BundleTest, AbsoluteRootMayBeAnywhere) {
    write_config(outer_ / "elsewhere");
    fs::create_directory(outer_ / "elsewhere");
    auto bundle = open_bundle(bundle_);
    ASSERT_TRUE(bundle.ok()) << bundle.error().message();
    EXPECT_EQ(bundle->rootfs_path, outer_ / "elsewhere");
}

TEST_F(BundleTest, LinksInsideAreFollowed) {
    write_config("rootfs");
    fs::create_directory(bundle_ / "real");
    fs::create_symlink("real", bundle_ / "rootfs");
    auto bundle = open_bundle(bundle_);
    ASSERT_TRUE(bundle.ok()) << bundle.error().message();
    EXPECT_EQ(bundle->rootfs_path, bundle_ / "real");
}

TEST_F(BundleTest, RootThatLeavesTheBundleIsRefused) {
    write_config("../bundle");
    EXPECT_THAT(error(), HasSubstr("root.path: \"../bundle\" leads out of the bundle, must stay in it or be absolute"));
    write_config("rootfs");
    fs::create_symlink("/", bundle_ / "rootfs");
    EXPECT_THAT(error(), HasSubstr("root.path: \"rootfs\" leads out of the bundle"));
    fs::remove(bundle_ / "rootfs");
    fs::create_symlink("../..", bundle_ / "rootfs");
    EXPECT_THAT(error(), HasSubstr("root.path: \"rootfs\" leads out of the bundle"));
}

TEST_F(BundleTest, MissingThings) {
    EXPECT_THAT(error(), HasSubstr("open the bundle's config.json: No such file or directory"));
    write_config("rootfs");
    EXPECT_THAT(error(), HasSubstr("root.path: \"rootfs\": No such file or directory"));
    std::ofstream(bundle_ / "rootfs") << "x";
    EXPECT_THAT(error(), HasSubstr("root.path: \"rootfs\" is not a directory"));
    EXPECT_THAT(open_bundle(outer_ / "none").error().message(), HasSubstr("none\": No such file or directory"));
    EXPECT_THAT(open_bundle(bundle_ / "config.json").error().message(), HasSubstr("Not a directory"));
}

TEST_F(BundleTest, ConfigMustBeARegularFileInTheBundle) {
    ASSERT_EQ(mkfifo((bundle_ / "config.json").c_str(), 0600), 0);
    EXPECT_THAT(error(), HasSubstr("config.json is not a regular file"));
    fs::remove(bundle_ / "config.json");
    fs::create_directory(bundle_ / "config.json");
    EXPECT_THAT(error(), HasSubstr("config.json is not a regular file"));
    fs::remove(bundle_ / "config.json");
    fs::create_symlink("/etc/passwd", bundle_ / "config.json");
    EXPECT_THAT(error(), HasSubstr("config.json is a link that leads out of the bundle"));
    fs::remove(bundle_ / "config.json");
    fs::create_symlink("config.json", bundle_ / "config.json");
    EXPECT_THAT(error(), HasSubstr("Too many levels of symbolic links"));
}

TEST_F(BundleTest, HugeConfigIsNotRead) {
    write_config("rootfs");
    fs::resize_file(bundle_ / "config.json", uint64_t{1} << 40);
    EXPECT_THAT(error(), HasSubstr("config.json is longer than 16777216 bytes"));
}

TEST_F(BundleTest, BadConfigNamesBundleAndField) {
    std::ofstream(bundle_ / "config.json") << "{}";
    EXPECT_EQ(error(), "bundle " + bundle_.string() + ": config.json: ociVersion: is missing");
}

TEST_F(BundleTest, MountSources) {
    fs::create_directory(bundle_ / "data");
    UniqueFd directory(open(bundle_.c_str(), O_PATH | O_DIRECTORY));
    EXPECT_TRUE(open_in_bundle(directory.get(), "data").ok());
    EXPECT_TRUE(open_in_bundle(directory.get(), "/etc").ok());
    EXPECT_THAT(open_in_bundle(directory.get(), "../x").error().message(), HasSubstr("leads out of the bundle"));
    EXPECT_EQ(open_in_bundle(directory.get(), "none").error().code(), ENOENT);
}

}  // namespace
}  // namespace casemate::oci
