// open, creat, openat, openat2, close.
#include <linux/openat2.h>

#include "files.h"

// ---- open, creat, openat, openat2, close

CASE(open_creates_with_mode) {
    OK(open("f", O_WRONLY | O_CREAT, 0640));
    EXPECT_EQ(stat_of("f").st_mode, S_IFREG | 0640);
}
CASE(open_applies_umask) {
    umask(077);
    OK(open("f", O_WRONLY | O_CREAT, 0666));
    EXPECT_EQ(stat_of("f").st_mode & 07777, 0600);
}
CASE(open_lowest_descriptor) {
    int a = OK(open(".", O_RDONLY)), b = OK(open(".", O_RDONLY));
    EXPECT_EQ(b, a + 1);
    close(a);
    EXPECT_EQ(open(".", O_RDONLY), a);
}
CASE(open_excl_existing) {
    new_file();
    FAILS(open("f", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
}
CASE(open_excl_symlink) {
    OK(symlink("nowhere", "l"));
    FAILS(open("l", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
}
CASE(open_creat_through_dangling_link) {
    OK(symlink("target", "l"));
    OK(open("l", O_CREAT | O_RDWR, 0600));
    EXPECT(S_ISREG(stat_of("target").st_mode));
}
CASE(open_trunc) {
    new_file("f", "hello");
    OK(open("f", O_WRONLY | O_TRUNC));
    EXPECT_EQ(stat_of("f").st_size, 0);
}
CASE(open_append) {
    new_file("f", "abc");
    int fd = OK(open("f", O_WRONLY | O_APPEND));
    OK(lseek(fd, 0, SEEK_SET));
    EXPECT_EQ(write(fd, "d", 1), 1);
    EXPECT_EQ(read_all("f"), "abcd");
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4);
}
CASE(open_read_only_refuses_write) {
    new_file("f", "a");
    int fd = OK(open("f", O_RDONLY));
    FAILS(write(fd, "b", 1), EBADF);
}
CASE(open_write_only_refuses_read) {
    int fd = OK(open("f", O_WRONLY | O_CREAT, 0600));
    FAILS(read(fd, scratch(), 1), EBADF);
}
CASE(open_access_mode_3) {
    new_file();
    int fd = OK(open("f", 3));
    FAILS(read(fd, scratch(), 1), EBADF);
    FAILS(write(fd, "b", 1), EBADF);
}
FAILS_CASE(open_missing, open("nothing", O_RDONLY), ENOENT)
FAILS_CASE(open_empty_path, open("", O_RDONLY), ENOENT)
FAILS_CASE(open_bad_pointer, open((char*)bad(), O_RDONLY), EFAULT)
FAILS_CASE(open_null_pointer, syscall(SYS_open, 0, O_RDONLY, 0), EFAULT)
FAILS_CASE(open_directory_for_writing, open(".", O_WRONLY), EISDIR)
FAILS_CASE(open_directory_with_creat, open(".", O_RDONLY | O_CREAT, 0600), EISDIR)
FAILS_CASE(open_name_too_long, open(long_name(256).c_str(), O_RDONLY), ENAMETOOLONG)
FAILS_CASE(open_path_too_long, open(("./" + long_name(PATH_MAX)).c_str(), O_RDONLY), ENAMETOOLONG)
CASE(open_longest_name) { OK(open(long_name(255).c_str(), O_RDWR | O_CREAT, 0600)); }
CASE(open_longest_path) {
    new_file("f", "a");
    std::string path;
    while (path.size() < PATH_MAX - 3) path += "./";
    path.resize(PATH_MAX - 3 - (PATH_MAX - 3) % 2);
    OK(open((path + "f").c_str(), O_RDONLY));
}
CASE(open_component_is_file) {
    new_file();
    FAILS(open("f/x", O_RDONLY), ENOTDIR);
    FAILS(open("f/", O_RDONLY), ENOTDIR);
    FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
}
CASE(open_nofollow) {
    new_file();
    OK(symlink("f", "l"));
    FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
    OK(open("f", O_RDONLY | O_NOFOLLOW));
}
CASE(open_link_loop) {
    OK(symlink("b", "a"));
    OK(symlink("a", "b"));
    FAILS(open("a", O_RDONLY), ELOOP);
}
CASE(open_40_links) {
    new_file("0", "x");
    for (int i = 1; i <= 41; ++i) OK(symlink(std::to_string(i - 1).c_str(), std::to_string(i).c_str()));
    OK(open("40", O_RDONLY));
    FAILS(open("41", O_RDONLY), ELOOP);
}
CASE(open_cloexec) {
    int fd = OK(open(".", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
}
CASE(open_tmpfile) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    if (fd < 0 && errno == EOPNOTSUPP) skip("no O_TMPFILE here");
    OK(fd);
    EXPECT_EQ(write(fd, "abc", 3), 3);
    struct stat st;
    OK(fstat(fd, &st));
    EXPECT_EQ(st.st_nlink, 0);
    OK(linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    EXPECT_EQ(read_all("named"), "abc");
}
CASE(open_path_descriptor) {
    new_file("f", "a");
    int fd = OK(open("f", O_PATH));
    FAILS(read(fd, scratch(), 1), EBADF);
    FAILS(fchmod(fd, 0600), EBADF);
    struct stat st;
    OK(fstat(fd, &st));
    EXPECT_EQ(st.st_size, 1);
}
CASE(open_path_of_link) {
    OK(symlink("target", "l"));
    int fd = OK(open("l", O_PATH | O_NOFOLLOW));
    char buffer[64] = {};
    EXPECT_EQ(readlinkat(fd, "", buffer, sizeof buffer), 6);
    EXPECT_EQ(std::string(buffer), "target");
}
CASE(open_flags_by_getfl) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_APPEND | O_NONBLOCK, 0600));
    EXPECT_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT), O_RDWR | O_APPEND | O_NONBLOCK);
}
CASE(open_trailing_slash_creates_nothing) { FAILS(open("new/", O_RDWR | O_CREAT, 0600), EISDIR); }
CASE(open_dot_dot_of_root) {
    struct stat a, b;
    OK(stat("/", &a));
    OK(stat("/../../..", &b));
    EXPECT_EQ(a.st_ino, b.st_ino);
}
CASE(open_permission_denied) {
    chmod(".", 0777);
    new_file("f", "secret");
    OK(chmod("f", 0600));
    as_user(12345, [] {
        FAILS(open("f", O_RDONLY), EACCES);
        FAILS(open("f", O_WRONLY), EACCES);
    });
}
CASE(open_search_permission_denied) {
    OK(mkdir("d", 0700));
    new_file("d/f");
    as_user(12345, [] { FAILS(open("d/f", O_RDONLY), EACCES); });
}
CASE(creat_truncates) {
    new_file("f", "abc");
    int fd = OK(creat("f", 0600));
    EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
    EXPECT_EQ(stat_of("f").st_size, 0);
}
CASE(openat_relative) {
    OK(mkdir("d", 0755));
    new_file("d/f", "in d");
    int dir = OK(open("d", O_RDONLY | O_DIRECTORY));
    EXPECT_EQ(read_all_fd(OK(openat(dir, "f", O_RDONLY))), "in d");
}
FAILS_CASE(openat_bad_descriptor, openat(-2, "f", O_RDONLY), EBADF)
CASE(openat_absolute_ignores_descriptor) { OK(openat(-2, "/", O_RDONLY)); }
CASE(openat_descriptor_not_directory) {
    int fd = new_file();
    FAILS(openat(fd, "x", O_RDONLY), ENOTDIR);
}
CASE(openat2_plain) {
    new_file("f", "a");
    open_how how{};
    how.flags = O_RDONLY;
    OK(syscall(SYS_openat2, AT_FDCWD, "f", &how, sizeof how));
}
CASE(openat2_unknown_flags) {
    open_how how{};
    how.flags = 1ull << 50;
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how), EINVAL);
    how = {};
    how.resolve = 1 << 20;
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how), EINVAL);
    how = {};
    how.mode = 0600;
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", &how, sizeof how), EINVAL);
}
CASE(openat2_size) {
    open_how how{};
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", &how, 8), EINVAL);
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", bad(), sizeof how), EFAULT);
    struct {
        open_how how;
        uint64_t more;
    } large{};
    OK(syscall(SYS_openat2, AT_FDCWD, ".", &large, sizeof large));
    large.more = 1;
    FAILS(syscall(SYS_openat2, AT_FDCWD, ".", &large, sizeof large), E2BIG);
}
static int resolve(int dir, const char* path, uint64_t flags) {
    open_how how{};
    how.flags = O_RDONLY;
    how.resolve = flags;
    return syscall(SYS_openat2, dir, path, &how, sizeof how);
}
CASE(openat2_beneath) {
    OK(mkdir("d", 0755));
    new_file("d/f");
    new_file("out");
    OK(symlink("../out", "d/l"));
    int dir = OK(open("d", O_PATH));
    OK(resolve(dir, "f", RESOLVE_BENEATH));
    FAILS(resolve(dir, "../out", RESOLVE_BENEATH), EXDEV);
    FAILS(resolve(dir, "l", RESOLVE_BENEATH), EXDEV);
    FAILS(resolve(dir, "/", RESOLVE_BENEATH), EXDEV);
}
CASE(openat2_in_root) {
    OK(mkdir("d", 0755));
    new_file("d/f", "in root");
    int dir = OK(open("d", O_PATH));
    EXPECT_EQ(read_all_fd(OK(resolve(dir, "/f", RESOLVE_IN_ROOT))), "in root");
    EXPECT_EQ(read_all_fd(OK(resolve(dir, "../../f", RESOLVE_IN_ROOT))), "in root");
}
CASE(openat2_no_symlinks) {
    OK(mkdir("d", 0755));
    new_file("d/f");
    OK(symlink("d", "l"));
    FAILS(resolve(AT_FDCWD, "l/f", RESOLVE_NO_SYMLINKS), ELOOP);
    OK(resolve(AT_FDCWD, "d/f", RESOLVE_NO_SYMLINKS));
}
CASE(openat2_no_magic_links) {
    int fd = new_file();
    FAILS(resolve(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), RESOLVE_NO_MAGICLINKS), ELOOP);
}
CASE(openat2_no_xdev) { FAILS(resolve(AT_FDCWD, "/proc/self/stat", RESOLVE_NO_XDEV), EXDEV); }
FAILS_CASE(close_bad, close(-1), EBADF)
CASE(close_twice) {
    int fd = new_file();
    OK(close(fd));
    FAILS(close(fd), EBADF);
}
CASE(close_range_closes) {
    int a = new_file("a"), b = new_file("b"), c = new_file("c");
    OK(syscall(SYS_close_range, a, b, 0));
    FAILS(fcntl(a, F_GETFD), EBADF);
    FAILS(fcntl(b, F_GETFD), EBADF);
    OK(fcntl(c, F_GETFD));
}
CASE(close_range_cloexec) {
    int a = new_file("a");
    OK(syscall(SYS_close_range, a, a, 4));
    EXPECT_EQ(fcntl(a, F_GETFD), FD_CLOEXEC);
}
FAILS_CASE(close_range_order, syscall(SYS_close_range, 5, 4, 0), EINVAL)
FAILS_CASE(close_range_flags, syscall(SYS_close_range, 500, 501, 64), EINVAL)
