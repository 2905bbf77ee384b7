#include "sandbox/state_dir.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linux/path.h"

namespace casemate::sandbox {
namespace {

class StateDirTest : public testing::Test {
  protected:
    void SetUp() override { ASSERT_NE(mkdtemp(root_.data()), nullptr); }
    void TearDown() override { (void)linux::remove_tree(root_); }
    std::string root_ = "/tmp/casemate-state-XXXXXX";
};

TEST_F(StateDirTest, a_record_comes_back_and_an_id_is_taken_once) {
    auto dir = StateDir::create(root_, "one");
    ASSERT_TRUE(dir.ok()) << dir.error().message();
    Record record;
    record.set_id("one");
    record.mutable_process()->CopyFrom(this_process());
    record.mutable_sandbox_host()->CopyFrom(this_process());
    record.set_status(v1::STATUS_RUNNING);
    ASSERT_TRUE(dir->save(record).ok());
    auto loaded = dir->load();
    ASSERT_TRUE(loaded.ok());
    EXPECT_EQ(loaded->id(), "one");
    EXPECT_EQ(real_status(*loaded), oci::ContainerStatus::kRunning);
    EXPECT_FALSE(StateDir::create(root_, "one").ok());
    EXPECT_EQ(list_containers(root_), std::vector<std::string>{"one"});
    dir->unlock();
    EXPECT_TRUE(StateDir::open(root_, "one", StateDir::Lock::kExclusive).ok());
    ASSERT_TRUE(dir->remove().ok());
    EXPECT_TRUE(list_containers(root_).empty());
}

TEST_F(StateDirTest, a_dead_process_means_stopped_whatever_the_record_says) {
    Record record;
    record.set_status(v1::STATUS_RUNNING);
    record.mutable_process()->CopyFrom(this_process());
    record.mutable_sandbox_host()->CopyFrom(this_process());
    record.mutable_sandbox_host()->set_start_time(1);  // the number belongs to another process now
    EXPECT_EQ(real_status(record), oci::ContainerStatus::kStopped);
}

TEST_F(StateDirTest, bad_ids_and_missing_containers) {
    for (const char* id : {"", ".", "..", "a/b", "../x", "a b"}) {
        EXPECT_FALSE(StateDir::create(root_, id).ok()) << id;
        EXPECT_FALSE(StateDir::open(root_, id, StateDir::Lock::kNone).ok()) << id;
    }
    auto missing = StateDir::open(root_, "none", StateDir::Lock::kNone);
    ASSERT_FALSE(missing.ok());
    EXPECT_EQ(missing.error().code(), ENOENT);
    EXPECT_NE(missing.error().message().find("container does not exist"), std::string::npos);
}

TEST_F(StateDirTest, what_belongs_to_somebody_else_is_refused) {
    ASSERT_TRUE(StateDir::create(root_, "mine").ok());
    ASSERT_EQ(chmod((root_ + "/mine").c_str(), 0777), 0);
    EXPECT_FALSE(StateDir::open(root_, "mine", StateDir::Lock::kNone).ok());
    if (geteuid() == 0) {
        ASSERT_EQ(chmod((root_ + "/mine").c_str(), 0700), 0);
        ASSERT_EQ(chown((root_ + "/mine").c_str(), 1000, 1000), 0);
        EXPECT_FALSE(StateDir::open(root_, "mine", StateDir::Lock::kNone).ok());
    }
}

}  // namespace
}  // namespace casemate::sandbox
