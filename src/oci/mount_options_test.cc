#include "oci/mount_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/mount.h>

namespace casemate::oci {
namespace {

using testing::ElementsAre;

MountOptions parsed(std::vector<std::string> options) {
    auto result = parse_mount_options(options);
    EXPECT_TRUE(result.ok());
    return result.ok() ? result.take_value() : MountOptions();
}

TEST(MountOptions, FlagsAndTheirOpposites) {
    MountOptions options = parsed({"ro", "nosuid", "nodev", "noexec", "sync", "defaults"});
    EXPECT_EQ(options.flags, static_cast<uint64_t>(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_SYNCHRONOUS));
    EXPECT_EQ(options.cleared_flags, 0u);
    options = parsed({"ro", "nosuid", "rw", "suid"});
    EXPECT_EQ(options.flags, 0u);
    EXPECT_EQ(options.cleared_flags, static_cast<uint64_t>(MS_RDONLY | MS_NOSUID));
    options = parsed({"rw", "ro"});
    EXPECT_EQ(options.flags, static_cast<uint64_t>(MS_RDONLY));
    EXPECT_EQ(options.cleared_flags, 0u);
}

TEST(MountOptions, BindAndPropagationKeepTheirOrder) {
    MountOptions options = parsed({"rbind", "rslave", "shared"});
    EXPECT_TRUE(options.is_bind());
    EXPECT_EQ(options.flags, static_cast<uint64_t>(MS_BIND | MS_REC));
    EXPECT_THAT(options.propagation, ElementsAre(MS_SLAVE | MS_REC, MS_SHARED));
}

TEST(MountOptions, RecursiveAttributes) {
    MountOptions options = parsed({"rro", "rnosuid"});
    EXPECT_EQ(options.recursive_set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
    EXPECT_EQ(options.recursive_clear, 0u);
    EXPECT_TRUE(options.is_read_only());
    options = parsed({"rro", "rrw"});
    EXPECT_EQ(options.recursive_set, 0u);
    EXPECT_EQ(options.recursive_clear, static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
}

TEST(MountOptions, AccessTimeIsOneField) {
    MountOptions options = parsed({"rnoatime"});
    EXPECT_EQ(options.recursive_set, static_cast<uint64_t>(MOUNT_ATTR_NOATIME));
    EXPECT_EQ(options.recursive_clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
    options = parsed({"rnoatime", "rstrictatime"});
    EXPECT_EQ(options.recursive_set, static_cast<uint64_t>(MOUNT_ATTR_STRICTATIME));
    EXPECT_EQ(options.recursive_clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
    options = parsed({"rstrictatime", "ratime"});
    EXPECT_EQ(options.recursive_set, 0u);
    EXPECT_EQ(options.recursive_clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
    options = parsed({"rnodiratime"});
    EXPECT_EQ(options.recursive_set, static_cast<uint64_t>(MOUNT_ATTR_NODIRATIME));
    EXPECT_EQ(options.recursive_clear, 0u);
}

TEST(MountOptions, UnknownOnesAreTheFileSystems) {
    MountOptions options = parsed({"mode=755", "ro", "size=64k", "newinstance"});
    EXPECT_EQ(options.data, "mode=755,size=64k,newinstance");
    EXPECT_FALSE(parse_mount_options(std::vector<std::string>{std::string(5000, 'x')}).ok());
    std::vector<std::string> many(2000, "abc");
    EXPECT_FALSE(parse_mount_options(many).ok());
}

TEST(MountOptions, IdmapAndCopyUp) {
    EXPECT_EQ(parsed({"idmap"}).idmap, IdmapScope::kMount);
    EXPECT_EQ(parsed({"ridmap"}).idmap, IdmapScope::kRecursive);
    EXPECT_TRUE(parsed({"tmpcopyup"}).copy_up);
    EXPECT_EQ(parsed({"tmpcopyup", "idmap"}).data, "");
}

TEST(MountOptions, EveryOptionOfTheSpecificationIsKnown) {
    // runtime-spec 1.2, config.md "Linux mount options".
    const char* table[] = {
        "async",          "atime",      "bind",         "defaults",    "dev",
        "diratime",       "dirsync",    "exec",         "iversion",    "lazytime",
        "loud",           "mand",       "noatime",      "nodev",       "nodiratime",
        "noexec",         "noiversion", "nolazytime",   "nomand",      "norelatime",
        "nostrictatime",  "nosuid",     "nosymfollow",  "private",     "ratime",
        "rbind",          "rdev",       "rdiratime",    "relatime",    "remount",
        "rexec",          "rnoatime",   "rnodiratime",  "rnoexec",     "rnorelatime",
        "rnostrictatime", "rnosuid",    "rnosymfollow", "ro",          "rprivate",
        "rrelatime",      "rro",        "rrw",          "rshared",     "rslave",
        "rstrictatime",   "rsuid",      "rsymfollow",   "runbindable", "rw",
        "shared",         "silent",     "slave",        "strictatime", "suid",
        "symfollow",      "sync",       "tmpcopyup",    "unbindable",  "idmap",
        "ridmap",
    };
    for (const char* option : table) EXPECT_EQ(parsed({option}).data, "") << option;
    EXPECT_THAT(known_mount_options(), testing::IsSupersetOf(table));
}

TEST(MountOptions, Attributes) {
    EXPECT_EQ(mount_attributes(MS_RDONLY | MS_NOSUID | MS_BIND),
              static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
    EXPECT_EQ(mount_attributes(MS_NOATIME | MS_STRICTATIME), static_cast<uint64_t>(MOUNT_ATTR_STRICTATIME));
    EXPECT_EQ(mount_attributes(MS_RELATIME), 0u);
    EXPECT_EQ(propagation_flags("runbindable"), static_cast<uint64_t>(MS_UNBINDABLE | MS_REC));
    EXPECT_EQ(propagation_flags("ro"), 0u);
}

}  // namespace
}  // namespace casemate::oci
