#include "sentry/fs/tmpfs/tmpfs.h"

#include <linux/falloc.h>

#include "sentry/fs/file_system_checks_test.h"

namespace casemate::sentry {
namespace {

class TmpfsTest : public FileSystemTest {
  protected:
    void SetUp() override {
        boot();
        ASSERT_EQ(call(SYS_mkdir, "/w", 0755), 0);
    }
};

TEST_F(TmpfsTest, IsAWritableTree) { check_everything(); }

TEST_F(TmpfsTest, OptionsAreParsed) {
    auto options = TmpfsOptions::parse("size=64k,nr_inodes=10,mode=0700,uid=5", 0);
    ASSERT_TRUE(options.ok());
    EXPECT_EQ(options->size, 65536u);
    EXPECT_EQ(options->inodes, 10u);
    EXPECT_EQ(options->mode, 0700u);
    EXPECT_EQ(options->uid, 5u);
    EXPECT_EQ(TmpfsOptions::parse("size=50%", 1000)->size, 500u);
    EXPECT_FALSE(TmpfsOptions::parse("size=", 0).ok());
    EXPECT_FALSE(TmpfsOptions::parse("size=1x", 0).ok());
    EXPECT_FALSE(TmpfsOptions::parse("colour=blue", 0).ok());
    EXPECT_FALSE(TmpfsOptions::parse("size=99999999999999g", 0).ok());
}

TEST_F(TmpfsTest, SizeLimitHolds) {
    ASSERT_EQ(call(SYS_mkdir, "/m", 0755), 0);
    ASSERT_EQ(call(SYS_mount, "none", "/m", "tmpfs", 0, "size=64k,nr_inodes=4"), 0);
    std::string big(65536, 'x');
    EXPECT_EQ(write_file("/m/a", big), 65536);
    EXPECT_EQ(write_file("/m/b", "y"), -ENOSPC);
    EXPECT_EQ(call(SYS_truncate, "/m/a", 4096), 0);
    EXPECT_EQ(write_file("/m/b", "y"), 1);
    EXPECT_EQ(write_file("/m/c", "y"), 1);
    EXPECT_EQ(write_file("/m/d", "y"), -ENOSPC);
    EXPECT_EQ(call(SYS_umount2, "/m", 0), 0);
    EXPECT_EQ(list("/m"), Names{});
}

TEST_F(TmpfsTest, HolesAreFoundAndPunched) {
    int64_t fd = open("/w/f", O_CREAT | O_RDWR);
    EXPECT_EQ(call(SYS_pwrite64, fd, put("data"), 4, 1 << 20), 4);
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_DATA), 1 << 20);
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_HOLE), 0);
    EXPECT_EQ(call(SYS_lseek, fd, 1 << 20, SEEK_HOLE), (1 << 20) + 4);
    EXPECT_EQ(call(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 4096), 0);
    EXPECT_EQ(call(SYS_lseek, fd, 0, SEEK_DATA), -ENXIO);
    struct stat info;
    EXPECT_EQ(stat_path("/w/f", info), 0);
    EXPECT_EQ(info.st_blocks, 0);
    EXPECT_EQ(call(SYS_fallocate, fd, 0, 0, 10000), 0);
    EXPECT_EQ(stat_path("/w/f", info), 0);
    EXPECT_EQ(info.st_blocks, 24);
}

TEST_F(TmpfsTest, SealsHold) {
    int64_t fd = call(SYS_memfd_create, "x", 2);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(call(SYS_write, fd, put("abc"), 3), 3);
    EXPECT_EQ(call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    EXPECT_EQ(call(SYS_ftruncate, fd, 1), -EPERM);
    EXPECT_EQ(call(SYS_ftruncate, fd, 10), -EPERM);
    EXPECT_EQ(call(SYS_pwrite64, fd, put("x"), 1, 0), 1);
    EXPECT_EQ(call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL), 0);
    EXPECT_EQ(call(SYS_pwrite64, fd, put("x"), 1, 0), -EPERM);
    EXPECT_EQ(call(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE), -EPERM);
    EXPECT_EQ(call(SYS_fcntl, fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
    int64_t plain = call(SYS_memfd_create, "y", 0);
    EXPECT_EQ(call(SYS_fcntl, plain, F_ADD_SEALS, F_SEAL_WRITE), -EPERM);
}

}  // namespace
}  // namespace casemate::sentry
