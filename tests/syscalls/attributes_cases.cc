// stat and friends; modes, owners, times; extended attributes.
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "files.h"

// ---- stat and friends

CASE(stat_regular) {
    new_file("f", "hello");
    struct stat st = stat_of("f");
    EXPECT_EQ(st.st_size, 5);
    EXPECT_EQ(st.st_nlink, 1);
    EXPECT_EQ(st.st_uid, geteuid());
    EXPECT_EQ(st.st_gid, getegid());
    EXPECT(S_ISREG(st.st_mode));
    EXPECT(st.st_ino != 0);
}
CASE(stat_follows_lstat_does_not) {
    new_file("f", "hello");
    OK(symlink("f", "l"));
    struct stat st;
    OK(stat("l", &st));
    EXPECT(S_ISREG(st.st_mode));
    OK(lstat("l", &st));
    EXPECT(S_ISLNK(st.st_mode));
    EXPECT_EQ(st.st_size, 1);
    FAILS(lstat("l/../f", &st), ENOTDIR);
}
CASE(stat_same_inode_by_any_way) {
    int fd = new_file();
    struct stat a, b, c;
    OK(stat("f", &a));
    OK(fstat(fd, &b));
    OK(fstatat(AT_FDCWD, "./f", &c, 0));
    EXPECT_EQ(a.st_ino, b.st_ino);
    EXPECT_EQ(a.st_ino, c.st_ino);
    EXPECT_EQ(a.st_dev, b.st_dev);
}
FAILS_CASE(stat_missing, stat("nothing", (struct stat*)scratch()), ENOENT)
FAILS_CASE(stat_bad_buffer, syscall(SYS_stat, ".", bad()), EFAULT)
FAILS_CASE(stat_bad_path, syscall(SYS_stat, bad(), scratch()), EFAULT)
FAILS_CASE(fstat_bad_descriptor, fstat(-1, (struct stat*)scratch()), EBADF)
FAILS_CASE(fstat_bad_buffer, syscall(SYS_fstat, new_file(), bad()), EFAULT)
CASE(fstatat_empty_path) {
    int fd = new_file("f", "abc");
    struct stat st;
    OK(fstatat(fd, "", &st, AT_EMPTY_PATH));
    EXPECT_EQ(st.st_size, 3);
    FAILS(fstatat(fd, "", &st, 0), ENOENT);
    FAILS(fstatat(AT_FDCWD, "f", &st, 0x8000000), EINVAL);
}
CASE(fstat_pipe_and_directory) {
    int ends[2];
    struct stat st;
    OK(pipe(ends));
    OK(fstat(ends[0], &st));
    EXPECT(S_ISFIFO(st.st_mode));
    OK(fstat(OK(open(".", O_RDONLY)), &st));
    EXPECT(S_ISDIR(st.st_mode));
}
CASE(stat_dev_null) {
    struct stat st;
    OK(stat("/dev/null", &st));
    EXPECT(S_ISCHR(st.st_mode));
    EXPECT_EQ(st.st_rdev, makedev(1, 3));
}
CASE(stat_blocks) {
    int fd = new_file("f", std::string(8192, 'x'));
    OK(fsync(fd));
    EXPECT(stat_of("f").st_blocks >= 8);
    EXPECT(stat_of("f").st_blksize >= 512);
}
CASE(statx_basic) {
    new_file("f", "hello");
    struct statx sx;
    OK(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &sx));
    EXPECT_EQ(sx.stx_size, 5);
    EXPECT_EQ(sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    EXPECT_EQ(sx.stx_ino, stat_of("f").st_ino);
    EXPECT_EQ(makedev(sx.stx_dev_major, sx.stx_dev_minor), stat_of("f").st_dev);
}
CASE(statx_errors) {
    struct statx sx;
    FAILS(statx(AT_FDCWD, "nothing", 0, STATX_ALL, &sx), ENOENT);
    FAILS(statx(AT_FDCWD, ".", 0x8000000, STATX_ALL, &sx), EINVAL);
    FAILS(statx(AT_FDCWD, ".", 0, STATX__RESERVED, &sx), EINVAL);
    FAILS(statx(AT_FDCWD, ".", AT_STATX_SYNC_TYPE, STATX_ALL, &sx), EINVAL);
    FAILS(syscall(SYS_statx, AT_FDCWD, ".", 0, STATX_ALL, bad()), EFAULT);
    FAILS(statx(-1, "", AT_EMPTY_PATH, STATX_ALL, &sx), EBADF);
}
CASE(statx_empty_path) {
    struct statx sx;
    OK(statx(new_file("f", "abcd"), "", AT_EMPTY_PATH, STATX_ALL, &sx));
    EXPECT_EQ(sx.stx_size, 4);
}
CASE(statfs_kinds) {
    struct statfs fs;
    OK(statfs(".", &fs));
    EXPECT(fs.f_bsize > 0);
    EXPECT(fs.f_namelen >= 255);
    OK(fstatfs(new_file(), &fs));
    OK(statfs("/proc", &fs));
    EXPECT_EQ(fs.f_type, 0x9fa0);
    FAILS(statfs("nothing", &fs), ENOENT);
    FAILS(fstatfs(-1, &fs), EBADF);
    FAILS(syscall(SYS_statfs, ".", bad()), EFAULT);
}
CASE(access_kinds) {
    new_file();
    OK(access("f", F_OK));
    OK(access("f", R_OK | W_OK));
    FAILS(access("nothing", F_OK), ENOENT);
    FAILS(access("f", 0x40), EINVAL);
    FAILS(access((char*)bad(), F_OK), EFAULT);
}
CASE(access_root_exec_needs_a_bit) {
    if (geteuid() != 0) skip("needs root");
    new_file();
    FAILS(access("f", X_OK), EACCES);
    OK(chmod("f", 0001));
    OK(access("f", X_OK));
}
CASE(access_uses_real_id) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0777);
    new_file();
    OK(chmod("f", 0600));
    in_child([] {
        OK(syscall(SYS_setresuid, 12345, 0, 0));
        FAILS(access("f", R_OK), EACCES);
        OK(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, AT_EACCESS));
        OK(open("f", O_RDONLY));
    });
}
CASE(faccessat2_flags) {
    OK(symlink("nowhere", "l"));
    OK(syscall(SYS_faccessat2, AT_FDCWD, "l", F_OK, AT_SYMLINK_NOFOLLOW));
    FAILS(syscall(SYS_faccessat2, AT_FDCWD, "l", F_OK, 0), ENOENT);
    FAILS(syscall(SYS_faccessat2, AT_FDCWD, ".", F_OK, 0x10000000), EINVAL);
}

// ---- modes, owners, times

CASE(chmod_kinds) {
    int fd = new_file();
    OK(chmod("f", 0751));
    EXPECT_EQ(stat_of("f").st_mode & 07777, 0751);
    OK(fchmod(fd, 04755));
    EXPECT_EQ(stat_of("f").st_mode & 07777, 04755);
    OK(fchmodat(AT_FDCWD, "f", 0400, 0));
    EXPECT_EQ(stat_of("f").st_mode & 07777, 0400);
    FAILS(chmod("nothing", 0600), ENOENT);
    FAILS(fchmod(-1, 0600), EBADF);
    FAILS(chmod((char*)bad(), 0600), EFAULT);
}
CASE(write_by_root_keeps_set_ids) {
    if (geteuid() != 0) skip("needs root");
    for (mode_t mode : {06755, 02755, 04711, 02644}) {
        int fd = new_file("f", "hello");
        OK(fchmod(fd, mode));
        EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
        EXPECT_EQ(stat_of("f").st_mode & 07777, mode);
        OK(ftruncate(fd, 2));
        EXPECT_EQ(stat_of("f").st_mode & 07777, mode);
        OK(truncate("f", 1));
        EXPECT_EQ(stat_of("f").st_mode & 07777, mode);
        close(fd);
        OK(unlink("f"));
    }
}
CASE(write_by_others_drops_set_ids) {
    chmod(".", 0777);
    new_file("f", "hello");
    OK(chmod("f", 06777));
    as_user(12345, [] {
        int fd = OK(open("f", O_RDWR));
        EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
        EXPECT_EQ(stat_of("f").st_mode & 07777, 0777);
    });
}
// What is known of a file that is open for writing must not grow old, whichever way it changes.
CASE(stat_after_each_change) {
    int fd = new_file("f", "hello"), other = new_file("g", std::string(9000, 'g'));
    auto size = [&] { return stat_of("f").st_size; };
    EXPECT_EQ(size(), 5);
    EXPECT_EQ(write(fd, "0123456789", 10), 10);
    EXPECT_EQ(size(), 10);
    iovec piece{const_cast<char*>("abc"), 3};
    EXPECT_EQ(pwritev(fd, &piece, 1, 20), 3);
    EXPECT_EQ(size(), 23);
    OK(ftruncate(fd, 7));
    EXPECT_EQ(size(), 7);
    OK(truncate("f", 8));
    EXPECT_EQ(size(), 8);
    if (fallocate(fd, 0, 0, 5000) == 0) EXPECT_EQ(size(), 5000);
    off_t in = 0, out = 0;
    EXPECT_EQ(copy_file_range(other, &in, fd, &out, 9000, 0), 9000);
    EXPECT_EQ(size(), 9000);
    const timespec old[2] = {{1000, 0}, {1000, 0}};
    for (int round = 0; round < 3; ++round) {
        OK(futimens(fd, old));
        EXPECT_EQ(stat_of("f").st_mtim.tv_sec, 1000);
        EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
        EXPECT(stat_of("f").st_mtim.tv_sec > 1000);
        struct stat st;
        OK(fstat(fd, &st));
        EXPECT_EQ(st.st_mtim.tv_sec, stat_of("f").st_mtim.tv_sec);
    }
    OK(link("f", "h"));
    EXPECT_EQ(stat_of("f").st_nlink, 2);
    OK(unlink("h"));
    EXPECT_EQ(stat_of("f").st_nlink, 1);
    OK(unlink("f"));
    struct stat st;
    EXPECT_EQ(write(fd, "tail", 4), 4);
    OK(fstat(fd, &st));
    EXPECT_EQ(st.st_nlink, 0);
    EXPECT_EQ(st.st_size, 9000);
}
CASE(chmod_needs_owner) {
    chmod(".", 0777);
    new_file();
    as_user(12345, [] { FAILS(chmod("f", 0666), EPERM); });
}
CASE(chown_kinds) {
    if (geteuid() != 0) skip("needs root");
    int fd = new_file();
    OK(chown("f", 11, 22));
    EXPECT_EQ(stat_of("f").st_uid, 11);
    EXPECT_EQ(stat_of("f").st_gid, 22);
    OK(fchown(fd, 33, -1));
    EXPECT_EQ(stat_of("f").st_uid, 33);
    EXPECT_EQ(stat_of("f").st_gid, 22);
    OK(symlink("f", "l"));
    OK(lchown("l", 44, 44));
    EXPECT_EQ(stat_of("f").st_uid, 33);
    EXPECT_EQ(stat_of("l").st_uid, 44);
    OK(fchownat(AT_FDCWD, "l", 55, 55, 0));
    EXPECT_EQ(stat_of("f").st_uid, 55);
    FAILS(chown("nothing", 0, 0), ENOENT);
    FAILS(fchown(-1, 0, 0), EBADF);
    FAILS(fchownat(AT_FDCWD, "f", 0, 0, 0x40000), EINVAL);
}
CASE(chown_clears_setuid) {
    if (geteuid() != 0) skip("needs root");
    new_file();
    OK(chown("f", 12345, 12345));
    OK(chmod("f", 06755));
    OK(chown("f", 12346, 12345));
    EXPECT_EQ(stat_of("f").st_mode & 06000, 0);
}
CASE(chown_by_user_denied) {
    chmod(".", 0777);
    new_file();
    OK(chown("f", 12345, 12345));
    as_user(12345, [] {
        FAILS(chown("f", 0, -1), EPERM);
        OK(chown("f", 12345, 12345));
    });
}
CASE(write_clears_setuid) {
    if (geteuid() != 0) skip("needs root");
    chmod(".", 0777);
    new_file();
    OK(chmod("f", 04777));
    as_user(12345, [] {
        int fd = OK(open("f", O_WRONLY));
        EXPECT_EQ(write(fd, "x", 1), 1);
        EXPECT_EQ(stat_of("f").st_mode & 04000, 0);
    });
}
CASE(umask_returns_old) {
    umask(027);
    EXPECT_EQ(umask(0777777), 027);
    EXPECT_EQ(umask(0), 0777);
}
CASE(utimensat_sets) {
    int fd = new_file();
    timespec times[2] = {{1000000000, 123456789}, {1100000000, 987654321}};
    OK(utimensat(AT_FDCWD, "f", times, 0));
    EXPECT_EQ(stat_of("f").st_atim.tv_sec, 1000000000);
    EXPECT_EQ(stat_of("f").st_mtim.tv_sec, 1100000000);
    EXPECT_EQ(stat_of("f").st_mtim.tv_nsec, 987654321);
    times[0].tv_nsec = UTIME_OMIT;
    times[1] = {5, 0};
    OK(futimens(fd, times));
    EXPECT_EQ(stat_of("f").st_atim.tv_sec, 1000000000);
    EXPECT_EQ(stat_of("f").st_mtim.tv_sec, 5);
}
CASE(utimensat_now) {
    new_file();
    timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
    OK(utimensat(AT_FDCWD, "f", times, 0));
    EXPECT(llabs((long long)stat_of("f").st_mtim.tv_sec - time(nullptr)) < 5);
    OK(utimensat(AT_FDCWD, "f", nullptr, 0));
}
CASE(utimensat_errors) {
    new_file();
    timespec times[2] = {{0, 2000000000}, {0, 0}};
    FAILS(utimensat(AT_FDCWD, "f", times, 0), EINVAL);
    times[0].tv_nsec = 0;
    FAILS(utimensat(AT_FDCWD, "nothing", times, 0), ENOENT);
    FAILS(utimensat(AT_FDCWD, "f", (timespec*)bad(), 0), EFAULT);
    FAILS(utimensat(AT_FDCWD, "f", times, 0x8000000), EINVAL);
}
CASE(utimensat_link) {
    new_file();
    OK(symlink("f", "l"));
    timespec times[2] = {{7, 0}, {8, 0}};
    OK(utimensat(AT_FDCWD, "l", times, AT_SYMLINK_NOFOLLOW));
    EXPECT_EQ(stat_of("l").st_mtim.tv_sec, 8);
    EXPECT(stat_of("f").st_mtim.tv_sec != 8);
}
CASE(utimes_old_calls) {
    new_file();
    timeval times[2] = {{11, 500000}, {12, 0}};
    OK(syscall(SYS_utimes, "f", times));
    EXPECT_EQ(stat_of("f").st_atim.tv_nsec, 500000000);
    time_t old[2] = {21, 22};
    OK(syscall(SYS_utime, "f", old));
    EXPECT_EQ(stat_of("f").st_mtim.tv_sec, 22);
    OK(syscall(SYS_futimesat, AT_FDCWD, "f", times));
    EXPECT_EQ(stat_of("f").st_mtim.tv_sec, 12);
}
CASE(write_updates_mtime) {
    int fd = new_file();
    timespec times[2] = {{1, 0}, {1, 0}};
    OK(futimens(fd, times));
    EXPECT_EQ(write(fd, "x", 1), 1);
    EXPECT(stat_of("f").st_mtim.tv_sec > 1000);
}
CASE(read_after_write_updates_atime) {
    constexpr size_t kSize = 300 << 10;
    std::string buffer(kSize, 'x');
    int fd = new_file("f", buffer), little = new_file("g", "x");
    for (int i = 0; i < 4; ++i) EXPECT_EQ(pread(fd, buffer.data(), kSize, 0), kSize);
    auto read_late = [&](int file, const char* name) {
        const timespec times[2] = {{1000, 0}, {0, UTIME_OMIT}};
        OK(futimens(file, times));
        EXPECT_EQ(stat_of(name).st_atim.tv_sec, 1000);
        EXPECT_EQ(pwrite(file, "y", 1, 0), 1);
        EXPECT_EQ(pread(file, buffer.data(), 1, 0), 1);
        return stat_of(name).st_atim.tv_sec;
    };
    if (read_late(little, "g") == 1000) skip("no times of access here");
    for (int i = 0; i < 3; ++i) EXPECT(read_late(fd, "f") > 1000);
}
CASE(create_updates_directory_mtime) {
    OK(mkdir("d", 0755));
    timespec times[2] = {{1, 0}, {1, 0}};
    OK(utimensat(AT_FDCWD, "d", times, 0));
    new_file("d/f");
    EXPECT(stat_of("d").st_mtim.tv_sec > 1000);
}
CASE(mknod_kinds) {
    OK(mknod("p", S_IFIFO | 0640, 0));
    EXPECT_EQ(stat_of("p").st_mode, S_IFIFO | 0640);
    OK(mknod("r", S_IFREG | 0600, 0));
    EXPECT(S_ISREG(stat_of("r").st_mode));
    OK(mknod("s", S_IFSOCK | 0600, 0));
    EXPECT(S_ISSOCK(stat_of("s").st_mode));
    FAILS(mknod("p", S_IFIFO | 0600, 0), EEXIST);
    FAILS_ANY(mknod("x", S_IFDIR | 0600, 0), EPERM, EINVAL);
    FAILS(mknod("x", 0170000, 0), EINVAL);
}

// ---- extended attributes

static bool user_xattrs() {
    new_file("probe");
    return setxattr("probe", "user.probe", "x", 1, 0) == 0;
}
CASE(xattr_set_get_list_remove) {
    if (!user_xattrs()) skip("no user xattrs here");
    int fd = new_file();
    OK(setxattr("f", "user.a", "hello", 5, 0));
    char buffer[64] = {};
    EXPECT_EQ(getxattr("f", "user.a", buffer, sizeof buffer), 5);
    EXPECT_EQ(std::string(buffer), "hello");
    EXPECT_EQ(fgetxattr(fd, "user.a", nullptr, 0), 5);
    EXPECT_EQ(listxattr("f", buffer, sizeof buffer), 7);
    EXPECT_EQ(std::string(buffer), "user.a");
    OK(fremovexattr(fd, "user.a"));
    FAILS(getxattr("f", "user.a", buffer, sizeof buffer), ENODATA);
}
CASE(xattr_errors) {
    if (!user_xattrs()) skip("no user xattrs here");
    new_file();
    char buffer[8];
    FAILS(getxattr("f", "user.none", buffer, 8), ENODATA);
    FAILS(removexattr("f", "user.none"), ENODATA);
    OK(setxattr("f", "user.a", "hello", 5, XATTR_CREATE));
    FAILS(setxattr("f", "user.a", "x", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.b", "x", 1, XATTR_REPLACE), ENODATA);
    FAILS(getxattr("f", "user.a", buffer, 2), ERANGE);
    FAILS(setxattr("f", "nonsense", "x", 1, 0), EOPNOTSUPP);
    FAILS(setxattr("f", "user.", "x", 1, 0), EINVAL);
    FAILS(setxattr("f", "user.a", "x", 1, 99), EINVAL);
    FAILS(setxattr("f", "user.a", bad(), 10, 0), EFAULT);
    FAILS_ANY(setxattr("f", ("user." + std::string(300, 'a')).c_str(), "x", 1, 0), ERANGE);
    FAILS(getxattr("nothing", "user.a", buffer, 8), ENOENT);
}
CASE(xattr_trusted_by_root) {
    if (geteuid() != 0 || !user_xattrs()) skip("needs root and xattrs");
    new_file();
    if (setxattr("f", "trusted.a", "x", 1, 0) != 0) skip("no trusted xattrs here");
    EXPECT_EQ(getxattr("f", "trusted.a", scratch(), 10), 1);
}
CASE(xattr_on_link_refused) {
    if (!user_xattrs()) skip("no user xattrs here");
    OK(symlink("nowhere", "l"));
    FAILS(lsetxattr("l", "user.a", "x", 1, 0), EPERM);
}

// ---- what is set of a new file, while its name goes elsewhere

// Sets what tells a file from others: `n` as mode and as both times.
static void mark(int fd, int n) {
    timespec times[2] = {{1'000'000'000 + n, 0}, {1'100'000'000 + n, 5}};
    OK(futimens(fd, times));
    OK(fchown(fd, geteuid(), getegid()));
    OK(fchmod(fd, static_cast<mode_t>(0600 + n)));
}
static void expect_mark(const struct stat& st, int n) {
    EXPECT_EQ(st.st_mode & 07777, 0600 + n);
    EXPECT_EQ(st.st_atim.tv_sec, 1'000'000'000 + n);
    EXPECT_EQ(st.st_mtim.tv_sec, 1'100'000'000 + n);
    EXPECT_EQ(st.st_mtim.tv_nsec, 5);
}
static int make(const std::string& name) { return OK(open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600)); }
static std::string numbered(int n) { return "f" + std::to_string(n); }

CASE(new_files_as_tar_makes_them) {
    OK(mkdir("d", 0755));
    for (int n = 0; n < 64; ++n) {
        int fd = make("d/" + numbered(n));
        std::string content(static_cast<size_t>(n) * 100, 'c');
        EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
        mark(fd, n);
        OK(close(fd));
    }
    EXPECT_EQ(names_in("d").size(), 66);
    for (int n = 0; n < 64; ++n) {
        struct stat st = stat_of(("d/" + numbered(n)).c_str());
        expect_mark(st, n);
        EXPECT_EQ(st.st_size, n * 100);
    }
}
CASE(set_while_the_name_is_another_files) {
    int old = make("f");
    OK(rename("f", "g"));
    int now = make("f");
    mark(old, 1);
    mark(now, 2);
    expect_mark(stat_of("g"), 1);
    expect_mark(stat_of("f"), 2);
    OK(rename("f", "g"));
    mark(old, 3);
    mark(now, 4);
    expect_mark(stat_of("g"), 4);
    struct stat st;
    OK(fstat(old, &st));
    EXPECT_EQ(st.st_nlink, 0);
    expect_mark(st, 3);
}
CASE(set_of_a_file_made_anew) {
    for (int n = 0; n < 8; ++n) {
        int fd = make("f");
        mark(fd, n);
        expect_mark(stat_of("f"), n);
        OK(close(fd));
        OK(unlink("f"));
        OK(symlink("nowhere", "f"));
        FAILS(chmod("f", 0644), ENOENT);
        OK(unlink("f"));
    }
}
CASE(set_by_either_name_of_a_new_file) {
    int fd = make("f");
    OK(link("f", "g"));
    EXPECT_EQ(stat_of("f").st_nlink, 2);
    OK(chmod("g", 0640));
    EXPECT_EQ(stat_of("f").st_mode & 07777, 0640);
    OK(unlink("f"));
    mark(fd, 6);
    expect_mark(stat_of("g"), 6);
    EXPECT_EQ(stat_of("g").st_nlink, 1);
}
CASE(set_below_a_directory_that_moves) {
    OK(mkdir("a", 0755));
    int first = make("a/f");
    OK(rename("a", "b"));
    OK(mkdir("a", 0755));
    int second = make("a/f");
    mark(first, 1);
    mark(second, 2);
    expect_mark(stat_of("b/f"), 1);
    expect_mark(stat_of("a/f"), 2);
}
CASE(directories_are_synced_under_their_names) {
    OK(mkdir("a", 0755));
    int a = OK(open("a", O_RDONLY | O_DIRECTORY));
    OK(fsync(a));
    OK(rename("a", "b"));
    OK(fdatasync(a));
    OK(mkdir("a", 0755));
    OK(fsync(OK(open("a", O_RDONLY | O_DIRECTORY))));
    OK(rmdir("b"));
    OK(fsync(a));
}
