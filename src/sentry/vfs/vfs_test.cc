// Walks, permissions, mounts and locks, through the syscalls.
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/mount.h>

#include "sentry/fs/file_system_checks_test.h"
#include "sentry/vfs/dentry.h"

namespace casemate::sentry {
namespace {

class VfsTest : public FileSystemTest {
  protected:
    void SetUp() override {
        boot();
        for (const char* name : {"/a", "/a/b", "/a/b/c", "/m"}) ASSERT_EQ(call(SYS_mkdir, name, 0755), 0);
        ASSERT_EQ(write_file("/a/f", "f"), 1);
        ASSERT_EQ(write_file("/a/b/g", "g"), 1);
    }
    int64_t openat2(int64_t dirfd, const std::string& path, uint64_t resolve, uint64_t flags = O_RDONLY) {
        struct open_how how {};
        how.flags = flags;
        how.resolve = resolve;
        GuestAddr at = room(sizeof(how));
        MUST(task_->memory().copy_out(at, &how, sizeof(how)));
        return call(SYS_openat2, dirfd, path, at, sizeof(how));
    }
    void become(uint32_t uid, uint32_t gid) {
        auto credentials = task_->credentials().clone();
        credentials->uid = credentials->euid = credentials->suid = credentials->fsuid = uid;
        credentials->gid = credentials->egid = credentials->sgid = credentials->fsgid = gid;
        credentials->effective = credentials->permitted = 0;
        task_->set_credentials(credentials);
    }
    int64_t bind(const char* from, const char* to, uint64_t flags = 0) {
        return call(SYS_mount, from, to, 0, MS_BIND | flags, 0);
    }
    int64_t mount_tmpfs(const char* where) { return call(SYS_mount, "none", where, "tmpfs", 0, 0); }
};

TEST_F(VfsTest, WalksThroughDotsLinksAndSlashes) {
    EXPECT_EQ(read_file("/a/./b/../f"), "f");
    EXPECT_EQ(read_file("//a///f"), "f");
    EXPECT_EQ(read_file("/../../a/f"), "f");
    EXPECT_EQ(call(SYS_symlink, "../../a", "/a/b/up"), 0);
    EXPECT_EQ(read_file("/a/b/up/b/g"), "g");
    EXPECT_EQ(call(SYS_symlink, "/a/b/", "/a/slashed"), 0);
    EXPECT_EQ(read_file("/a/slashed/g"), "g");
    EXPECT_EQ(read_file("/a/f/../f"), "error 20");
    EXPECT_EQ(open("", O_RDONLY), -ENOENT);
    EXPECT_EQ(open(std::string(5000, '/'), O_RDONLY), -ENAMETOOLONG);
    // 40 links are followed, 41 are not.
    EXPECT_EQ(call(SYS_symlink, "/a/f", "/l0"), 0);
    for (int i = 1; i <= 40; ++i)
        EXPECT_EQ(call(SYS_symlink, "/l" + std::to_string(i - 1), "/l" + std::to_string(i)), 0);
    EXPECT_EQ(read_file("/l39"), "f");
    EXPECT_EQ(open("/l40", O_RDONLY), -ELOOP);
}

TEST_F(VfsTest, ResolveRulesHold) {
    int64_t a = open("/a", O_PATH | O_DIRECTORY);
    ASSERT_EQ(call(SYS_symlink, "/a/f", "/a/absolute"), 0);
    ASSERT_EQ(call(SYS_symlink, "../m", "/a/out"), 0);
    ASSERT_EQ(call(SYS_symlink, "f", "/a/near"), 0);
    EXPECT_GE(openat2(a, "b/../f", RESOLVE_BENEATH), 0);
    EXPECT_GE(openat2(a, "near", RESOLVE_BENEATH), 0);
    EXPECT_EQ(openat2(a, "../a/f", RESOLVE_BENEATH), -EXDEV);
    EXPECT_EQ(openat2(a, "/a/f", RESOLVE_BENEATH), -EXDEV);
    EXPECT_EQ(openat2(a, "absolute", RESOLVE_BENEATH), -EXDEV);
    EXPECT_EQ(openat2(a, "out", RESOLVE_BENEATH), -EXDEV);
    EXPECT_EQ(openat2(a, "near", RESOLVE_NO_SYMLINKS), -ELOOP);
    EXPECT_EQ(openat2(a, "../../../f", RESOLVE_IN_ROOT) >= 0, true);
    EXPECT_EQ(openat2(a, "/f", RESOLVE_IN_ROOT) >= 0, true);
    EXPECT_EQ(openat2(a, "absolute", RESOLVE_IN_ROOT), -ENOENT);
    ASSERT_EQ(mount_tmpfs("/a/b"), 0);
    EXPECT_EQ(openat2(a, "b", RESOLVE_NO_XDEV), -EXDEV);
    EXPECT_GE(openat2(a, "b", 0), 0);
    EXPECT_EQ(openat2(a, "f", RESOLVE_BENEATH | RESOLVE_IN_ROOT), -EINVAL);
    EXPECT_EQ(openat2(a, "f", 1 << 20), -EINVAL);
}

TEST_F(VfsTest, PermissionsDecide) {
    ASSERT_EQ(call(SYS_chown, "/a/f", 1000, 100), 0);
    ASSERT_EQ(call(SYS_chmod, "/a/f", 0640), 0);
    ASSERT_EQ(call(SYS_mkdir, "/private", 0700), 0);
    ASSERT_EQ(write_file("/private/x", "x"), 1);
    ASSERT_EQ(call(SYS_mkdir, "/tmp", 0777), 0);
    ASSERT_EQ(call(SYS_chmod, "/tmp", 01777), 0);
    ASSERT_EQ(write_file("/tmp/roots", "x"), 1);
    become(2000, 100);
    EXPECT_GE(open("/a/f", O_RDONLY), 0);
    EXPECT_EQ(open("/a/f", O_WRONLY), -EACCES);
    EXPECT_EQ(open("/private/x", O_RDONLY), -EACCES);
    EXPECT_EQ(call(SYS_chmod, "/a/f", 0666), -EPERM);
    EXPECT_EQ(call(SYS_chown, "/a/f", 2000, -1), -EPERM);
    EXPECT_EQ(call(SYS_mkdir, "/new", 0755), -EACCES);
    EXPECT_EQ(call(SYS_unlink, "/tmp/roots"), -EPERM);
    EXPECT_EQ(call(SYS_access, "/a/f", 4), 0);
    EXPECT_EQ(call(SYS_access, "/a/f", 2), -EACCES);
    EXPECT_EQ(write_file("/tmp/own", "x"), 1);
    EXPECT_EQ(call(SYS_unlink, "/tmp/own"), 0);
    EXPECT_EQ(call(SYS_link, "/a/f", "/tmp/hard"), -EPERM);  // another's file that may not be written
    // A stranger's link in a sticky directory is not believed.
    EXPECT_EQ(call(SYS_symlink, "/a/f", "/tmp/trap"), 0);
    become(3000, 100);
    EXPECT_EQ(open("/tmp/trap", O_RDONLY), -EACCES);
    EXPECT_EQ(call(SYS_mount, "none", "/m", "tmpfs", 0, 0), -EPERM);
}

TEST_F(VfsTest, SetGroupIdDirectoriesHandDownTheirGroup) {
    ASSERT_EQ(call(SYS_mkdir, "/g", 0777), 0);
    ASSERT_EQ(call(SYS_chown, "/g", 0, 55), 0);
    ASSERT_EQ(call(SYS_chmod, "/g", 02777), 0);
    ASSERT_EQ(write_file("/g/f", "x"), 1);
    ASSERT_EQ(call(SYS_mkdir, "/g/d", 0755), 0);
    struct stat info;
    ASSERT_EQ(stat_path("/g/f", info), 0);
    EXPECT_EQ(info.st_gid, 55u);
    ASSERT_EQ(stat_path("/g/d", info), 0);
    EXPECT_EQ(info.st_gid, 55u);
    EXPECT_EQ(info.st_mode & 07777, 02755u);
    // Writing takes set-user-id away from who may not keep it.
    ASSERT_EQ(call(SYS_chmod, "/g/f", 04777), 0);
    become(1000, 1000);
    int64_t fd = open("/g/f", O_WRONLY);
    ASSERT_EQ(call(SYS_write, fd, put("y"), 1), 1);
    ASSERT_EQ(stat_path("/g/f", info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0777u);
}

TEST_F(VfsTest, BindsMovesAndUnmounts) {
    ASSERT_EQ(bind("/a", "/m"), 0);
    EXPECT_EQ(read_file("/m/f"), "f");
    EXPECT_EQ(call(SYS_umount2, "/a", 0), -EINVAL);
    int64_t fd = open("/m/f", O_RDONLY);
    EXPECT_EQ(call(SYS_umount2, "/m", 0), -EBUSY);
    EXPECT_EQ(call(SYS_umount2, "/m", MNT_DETACH), 0);
    EXPECT_EQ(list("/m"), Names{});
    GuestAddr buffer = room(16);
    EXPECT_EQ(call(SYS_read, fd, buffer, 16), 1);
    call(SYS_close, fd);
    // rbind takes what is mounted below along, bind does not.
    ASSERT_EQ(mount_tmpfs("/a/b/c"), 0);
    ASSERT_EQ(write_file("/a/b/c/deep", "d"), 1);
    ASSERT_EQ(bind("/a", "/m", MS_REC), 0);
    EXPECT_EQ(read_file("/m/b/c/deep"), "d");
    EXPECT_EQ(call(SYS_umount2, "/m", 0), -EBUSY);
    EXPECT_EQ(call(SYS_umount2, "/m", MNT_DETACH), 0);
    ASSERT_EQ(bind("/a", "/m"), 0);
    EXPECT_EQ(list("/m/b/c"), Names{});
    EXPECT_EQ(call(SYS_rmdir, "/a/b/c"), -EBUSY);
    EXPECT_EQ(call(SYS_rename, "/a/b/c", "/a/b/e"), -EBUSY);
    EXPECT_EQ(call(SYS_umount2, "/m", 0), 0);
    EXPECT_EQ(call(SYS_mount, "/a/b/c", "/m", 0, MS_MOVE, 0), 0);
    EXPECT_EQ(read_file("/m/deep"), "d");
    EXPECT_EQ(list("/a/b/c"), Names{});
    EXPECT_EQ(call(SYS_umount2, "/m", 0), 0);
    // A file on a file.
    ASSERT_EQ(bind("/a/f", "/a/b/g"), 0);
    EXPECT_EQ(read_file("/a/b/g"), "f");
    EXPECT_EQ(bind("/a/f", "/a/b"), -ENOTDIR);
    EXPECT_EQ(call(SYS_link, "/a/f", "/a/b/x"), 0);
    EXPECT_EQ(call(SYS_umount2, "/a/b/g", 0), 0);
    EXPECT_EQ(mounts_->snapshot().size(), 1u);
}

TEST_F(VfsTest, MountFlagsHold) {
    ASSERT_EQ(bind("/a", "/m"), 0);
    ASSERT_EQ(call(SYS_mount, 0, "/m", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, 0), 0);
    EXPECT_EQ(open("/m/f", O_WRONLY), -EROFS);
    EXPECT_EQ(open("/m/new", O_CREAT | O_WRONLY), -EROFS);
    EXPECT_EQ(call(SYS_mkdir, "/m/d", 0755), -EROFS);
    EXPECT_EQ(call(SYS_unlink, "/m/f"), -EROFS);
    EXPECT_EQ(call(SYS_chmod, "/m/f", 0600), -EROFS);
    EXPECT_EQ(call(SYS_access, "/m/f", 2), -EROFS);
    EXPECT_EQ(write_file("/a/f", "ff"), 2);
    EXPECT_EQ(call(SYS_chmod, "/a/f", 0755), 0);
    EXPECT_EQ(open_executable(*task_, AT_FDCWD, "/m/f", 0).error().value, EACCES);
    EXPECT_TRUE(open_executable(*task_, AT_FDCWD, "/a/f", 0).ok());
    EXPECT_EQ(call(SYS_mount, 0, "/m", 0, MS_REMOUNT | MS_BIND, 0), 0);
    EXPECT_GE(open("/m/f", O_WRONLY), 0);
}

TEST_F(VfsTest, PropagationReachesPeersAndSlaves) {
    ASSERT_EQ(bind("/a", "/a"), 0);
    ASSERT_EQ(call(SYS_mount, 0, "/a", 0, MS_SHARED, 0), 0);
    ASSERT_EQ(bind("/a", "/m"), 0);  // a peer
    ASSERT_EQ(mount_tmpfs("/a/b"), 0);
    ASSERT_EQ(write_file("/a/b/here", "x"), 1);
    EXPECT_EQ(list("/m/b"), Names{"here"});
    EXPECT_EQ(call(SYS_umount2, "/m/b", 0), 0);
    EXPECT_EQ(list("/a/b"), (Names{"c", "g"}));
    ASSERT_EQ(call(SYS_mount, 0, "/m", 0, MS_SLAVE, 0), 0);
    ASSERT_EQ(mount_tmpfs("/a/b"), 0);
    EXPECT_EQ(list("/m/b"), Names{});
    EXPECT_EQ(call(SYS_umount2, "/m/b", 0), 0);
    EXPECT_EQ(list("/a/b"), Names{});  // a slave's unmount stays its own
    ASSERT_EQ(mount_tmpfs("/m/b/c"), 0);
    EXPECT_EQ(list("/m/b"), (Names{"c", "g"}));
    EXPECT_EQ(call(SYS_mount, 0, "/m", 0, MS_SHARED | MS_PRIVATE, 0), -EINVAL);
}

TEST_F(VfsTest, PivotRootSwapsTheTree) {
    ASSERT_EQ(mount_tmpfs("/m"), 0);
    ASSERT_EQ(call(SYS_mkdir, "/m/old", 0755), 0);
    ASSERT_EQ(write_file("/m/new", "n"), 1);
    EXPECT_EQ(call(SYS_pivot_root, "/a", "/a/b"), -EINVAL);  // no mount
    ASSERT_EQ(call(SYS_pivot_root, "/m", "/m/old"), 0);
    EXPECT_EQ(read_file("/new"), "n");
    EXPECT_EQ(read_file("/old/a/f"), "f");
    ASSERT_EQ(call(SYS_chdir, "/"), 0);
    EXPECT_EQ(call(SYS_umount2, "/old", MNT_DETACH), 0);
    EXPECT_EQ(list("/old"), Names{});
    EXPECT_EQ(read_file("/../../new"), "n");
}

TEST_F(VfsTest, NamespacesAreCopied) {
    ASSERT_EQ(mount_tmpfs("/m"), 0);
    ASSERT_EQ(write_file("/m/x", "x"), 1);
    Ref<FsContext> fs = task_->fs().clone();
    auto copy = mounts_->clone(*fs);
    ASSERT_TRUE(copy.ok());
    EXPECT_EQ((*copy)->snapshot().size(), 2u);
    EXPECT_NE(fs->root().mount, task_->fs().root().mount);
    ASSERT_EQ(call(SYS_umount2, "/m", 0), 0);
    EXPECT_EQ((*copy)->snapshot().size(), 2u);
}

TEST_F(VfsTest, PathsAreShown) {
    ASSERT_EQ(call(SYS_chdir, "/a/b"), 0);
    GuestAddr buffer = room(256);
    EXPECT_EQ(call(SYS_getcwd, buffer, 256), 5);
    EXPECT_EQ(take(buffer, 5), std::string("/a/b\0", 5));
    EXPECT_EQ(call(SYS_getcwd, buffer, 4), -ERANGE);
    ASSERT_EQ(call(SYS_chroot, "/a"), 0);
    EXPECT_EQ(call(SYS_getcwd, buffer, 256), 3);
    EXPECT_EQ(read_file("/b/g"), "g");
    EXPECT_EQ(read_file("/../f"), "f");
}

TEST_F(VfsTest, RecordLocksConflictSplitAndMerge) {
    int64_t fd = open("/a/f", O_RDWR);
    struct flock lock {};
    auto set = [&](int command, int64_t on, short type, int64_t start, int64_t size) {
        lock = {};
        lock.l_type = type;
        lock.l_start = start;
        lock.l_len = size;
        GuestAddr at = room(sizeof(lock));
        MUST(task_->memory().copy_out(at, &lock, sizeof(lock)));
        int64_t result = call(SYS_fcntl, on, command, at);
        MUST(task_->memory().copy_in(at, &lock, sizeof(lock)));
        return result;
    };
    EXPECT_EQ(set(F_SETLK, fd, F_WRLCK, 0, 100), 0);
    EXPECT_EQ(set(F_SETLK, fd, F_UNLCK, 40, 20), 0);
    Ref<Task> other = spawn(mounts_->root());
    std::swap(task_, other);
    arena_ = 0;
    int64_t theirs = open("/a/f", O_RDWR);
    EXPECT_EQ(set(F_SETLK, theirs, F_RDLCK, 0, 10), -EAGAIN);
    EXPECT_EQ(set(F_SETLK, theirs, F_WRLCK, 40, 20), 0);
    EXPECT_EQ(set(F_GETLK, theirs, F_WRLCK, 0, 0), 0);
    EXPECT_EQ(lock.l_type, F_WRLCK);
    EXPECT_EQ(lock.l_start, 0);
    EXPECT_EQ(lock.l_len, 40);
    EXPECT_EQ(lock.l_pid, other->tgid());
    // OFD locks belong to the description, not to the process.
    int64_t second = open("/a/f", O_RDWR);
    EXPECT_EQ(set(F_OFD_SETLK, theirs, F_WRLCK, 1000, 10), 0);
    EXPECT_EQ(set(F_OFD_SETLK, second, F_WRLCK, 1000, 10), -EAGAIN);
    call(SYS_close, theirs);
    EXPECT_EQ(set(F_OFD_SETLK, second, F_WRLCK, 1000, 10), 0);
    std::swap(task_, other);
    arena_ = 0;
    EXPECT_EQ(set(F_SETLK, fd, F_WRLCK, 40, 20), 0);  // their close gave it up
    EXPECT_EQ(set(F_SETLK, fd, F_WRLCK, -5, 1), -EINVAL);
    int64_t reader = open("/a/f", O_RDONLY);
    EXPECT_EQ(set(F_SETLK, reader, F_WRLCK, 0, 1), -EBADF);
    TaskBuilder::discard_process(*other);
}

TEST_F(VfsTest, FlockBelongsToTheDescription) {
    int64_t one = open("/a/f", O_RDONLY), two = open("/a/f", O_RDONLY);
    EXPECT_EQ(call(SYS_flock, one, LOCK_EX), 0);
    EXPECT_EQ(call(SYS_flock, two, LOCK_SH | LOCK_NB), -EWOULDBLOCK);
    EXPECT_EQ(call(SYS_flock, one, LOCK_SH), 0);
    EXPECT_EQ(call(SYS_flock, two, LOCK_SH | LOCK_NB), 0);
    EXPECT_EQ(call(SYS_flock, two, LOCK_EX | LOCK_NB), -EWOULDBLOCK);
    int64_t copy = call(SYS_dup, one);
    call(SYS_close, one);
    call(SYS_flock, two, LOCK_SH | LOCK_NB);
    EXPECT_EQ(call(SYS_flock, two, LOCK_EX | LOCK_NB), -EWOULDBLOCK);
    call(SYS_close, copy);
    EXPECT_EQ(call(SYS_flock, two, LOCK_EX | LOCK_NB), 0);
}

TEST_F(VfsTest, DescriptorsAreCounted) {
    int64_t fd = open("/a/f", O_RDONLY);
    EXPECT_EQ(call(SYS_dup2, fd, 100), 100);
    EXPECT_EQ(call(SYS_dup3, fd, fd, 0), -EINVAL);
    EXPECT_EQ(call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 50), 50);
    EXPECT_EQ(call(SYS_fcntl, 50, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(call(SYS_close_range, 40, 60, 0), 0);
    EXPECT_EQ(call(SYS_fcntl, 50, F_GETFD), -EBADF);
    EXPECT_EQ(call(SYS_fcntl, 100, F_GETFD), 0);
    EXPECT_EQ(call(SYS_close, -1), -EBADF);
    EXPECT_EQ(call(SYS_close, 1 << 30), -EBADF);
    EXPECT_EQ(call(SYS_dup2, fd, 1 << 30), -EBADF);
    int64_t path = open("/a/f", O_PATH);
    GuestAddr buffer = room(16);
    EXPECT_EQ(call(SYS_read, path, buffer, 1), -EBADF);
    EXPECT_EQ(call(SYS_fchmod, path, 0600), -EBADF);
    struct stat info;
    EXPECT_EQ(call(SYS_fstat, path, room(sizeof(info))), 0);
}

TEST_F(VfsTest, HostileIovecs) {
    int64_t fd = open("/a/f", O_RDWR);
    GuestAddr at = room(2 * sizeof(iovec));
    iovec pieces[2] = {{reinterpret_cast<void*>(put("abc")), 3}, {nullptr, static_cast<size_t>(-1)}};
    MUST(task_->memory().copy_out(at, pieces, sizeof(pieces)));
    EXPECT_EQ(call(SYS_writev, fd, at, 2), -EINVAL);
    EXPECT_EQ(call(SYS_writev, fd, at, 1025), -EINVAL);
    EXPECT_EQ(call(SYS_writev, fd, at, -1), -EINVAL);
    EXPECT_EQ(call(SYS_writev, fd, 8, 1), -EFAULT);
    EXPECT_EQ(call(SYS_write, fd, 8, 100), -EFAULT);
    EXPECT_EQ(call(SYS_write, fd, -1, 100), -EFAULT);
    EXPECT_EQ(call(SYS_read, fd, 8, 100), -EFAULT);
    EXPECT_EQ(call(SYS_writev, fd, at, 1), 3);
    EXPECT_EQ(call(SYS_pread64, fd, at, 1, -1), -EINVAL);
    EXPECT_EQ(call(SYS_lseek, fd, INT64_MAX, SEEK_SET), INT64_MAX);
    EXPECT_EQ(call(SYS_write, fd, put("x"), 1), -EFBIG);
    EXPECT_EQ(call(SYS_lseek, fd, 1, SEEK_CUR), -EOVERFLOW);
}

TEST_F(VfsTest, CopiesBetweenFiles) {
    std::string text(200'000, 'q');
    ASSERT_EQ(write_file("/a/big", text), 200'000);
    int64_t in = open("/a/big", O_RDONLY), out = open("/a/copy", O_CREAT | O_RDWR);
    EXPECT_EQ(call(SYS_sendfile, out, in, 0, 150'000), 150'000);
    EXPECT_EQ(call(SYS_copy_file_range, in, 0, out, 0, 1 << 20, 0), 50'000);
    EXPECT_EQ(read_file("/a/copy"), text);
    int64_t ends[2];
    GuestAddr at = room(8);
    ASSERT_EQ(call(SYS_pipe, at), 0);
    int32_t fds[2];
    MUST(task_->memory().copy_in(at, fds, sizeof(fds)));
    ends[0] = fds[0];
    ends[1] = fds[1];
    GuestAddr offset = room(8);
    int64_t zero = 0;
    MUST(task_->memory().copy_out(offset, &zero, 8));
    EXPECT_EQ(call(SYS_splice, in, offset, ends[1], 0, 1000, 0), 1000);
    EXPECT_EQ(call(SYS_splice, ends[0], 0, out, offset, 1000, 0), 1000);
    EXPECT_EQ(call(SYS_splice, in, 0, out, 0, 10, 0), -EINVAL);
    EXPECT_EQ(call(SYS_splice, ends[0], 0, out, 0, 10, 2), -EAGAIN);
}

TEST_F(VfsTest, ACrowdOfNamesIsBounded) {
    // More negative names than the cache keeps.
    struct stat info;
    for (int i = 0; i < 40'000; ++i) ASSERT_EQ(stat_path("/a/none" + std::to_string(i), info), -ENOENT);
    EXPECT_EQ(read_file("/a/f"), "f");
}

TEST_F(VfsTest, DeepTreesAreTakenDownFlat) {
    for (int i = 0; i < 20'000; ++i) {
        ASSERT_EQ(call(SYS_mkdir, "d", 0755), 0);
        ASSERT_EQ(call(SYS_chdir, "d"), 0);
    }
    ASSERT_EQ(call(SYS_chdir, "/"), 0);
}

}  // namespace
}  // namespace casemate::sentry
