// open, read, write, seek, stat, directory entries, links, names, modes, locks, extended attributes, and copying.
#include <dirent.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <set>
#include <vector>

#include "case.h"

static int new_file(const char* path = "f", const std::string& content = "") {
    int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));
    if (!content.empty()) {
        EXPECT_EQ(write(fd, content.data(), content.size()), content.size());
        OK(lseek(fd, 0, SEEK_SET));
    }
    return fd;
}

static struct stat stat_of(const char* path) {
    struct stat st;
    OK(lstat(path, &st));
    return st;
}

static std::string long_name(size_t size) { return std::string(size, 'n'); }

// As another user, in a child: root passes every permission check.
template <typename Body>
static void as_user(uid_t uid, Body body) {
    if (geteuid() != 0) skip("needs root");
    in_child([&] {
        OK(syscall(SYS_setgroups, 0, nullptr));
        OK(syscall(SYS_setresgid, uid, uid, uid));
        OK(syscall(SYS_setresuid, uid, uid, uid));
        body();
    });
}

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

// ---- read, write and their vectors

CASE(read_and_end) {
    int fd = new_file("f", "hello");
    char buffer[16];
    EXPECT_EQ(read(fd, buffer, 3), 3);
    EXPECT_EQ(read(fd, buffer, 16), 2);
    EXPECT_EQ(read(fd, buffer, 16), 0);
}
CASE(read_zero_bytes) { EXPECT_EQ(read(new_file("f", "a"), scratch(), 0), 0); }
FAILS_CASE(read_bad_descriptor, read(-1, scratch(), 1), EBADF)
FAILS_CASE(read_bad_pointer, read(new_file("f", "abc"), bad(), 3), EFAULT)
FAILS_CASE(read_directory, read(OK(open(".", O_RDONLY)), scratch(), 10), EISDIR)
FAILS_CASE(write_bad_pointer, write(new_file(), bad(), 3), EFAULT)
FAILS_CASE(write_bad_descriptor, write(999, "a", 1), EBADF)
CASE(read_partly_bad_pointer) {
    int fd = new_file("f", std::string(8192, 'x'));
    char* two = (char*)OK(mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    OK(mprotect(two + 4096, 4096, PROT_NONE));
    EXPECT_EQ(read(fd, two, 8192), 4096);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 4096);
}
CASE(write_extends_and_reads_back) {
    int fd = new_file();
    std::string big(300000, 'q');
    EXPECT_EQ(write(fd, big.data(), big.size()), big.size());
    EXPECT_EQ(read_all("f"), big);
}
CASE(write_past_end_makes_hole) {
    int fd = new_file();
    OK(lseek(fd, 10000, SEEK_SET));
    EXPECT_EQ(write(fd, "x", 1), 1);
    std::string content = read_all("f");
    EXPECT_EQ(content.size(), 10001);
    EXPECT(content == std::string(10000, '\0') + "x");
}
CASE(pread_does_not_move) {
    int fd = new_file("f", "hello");
    char buffer[8] = {};
    EXPECT_EQ(pread(fd, buffer, 3, 2), 3);
    EXPECT_EQ(std::string(buffer), "llo");
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
FAILS_CASE(pread_negative_offset, pread(new_file("f", "a"), scratch(), 1, -1), EINVAL)
CASE(pread_on_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(pread(ends[0], scratch(), 1, 0), ESPIPE);
    FAILS(pwrite(ends[1], scratch(), 1, 0), ESPIPE);
}
CASE(pread_past_end) { EXPECT_EQ(pread(new_file("f", "abc"), scratch(), 10, 100), 0); }
CASE(pwrite_does_not_move) {
    int fd = new_file("f", "hello");
    EXPECT_EQ(pwrite(fd, "LL", 2, 2), 2);
    EXPECT_EQ(read_all("f"), "heLLo");
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
}
CASE(pwrite_on_append_appends) {
    new_file("f", "abc");
    int fd = OK(open("f", O_WRONLY | O_APPEND));
    EXPECT_EQ(pwrite(fd, "d", 1, 0), 1);
    EXPECT_EQ(read_all("f"), "abcd");
}
CASE(readv_scatters) {
    int fd = new_file("f", "abcdef");
    char a[3] = {}, b[8] = {};
    iovec parts[] = {{a, 2}, {nullptr, 0}, {b, 7}};
    EXPECT_EQ(readv(fd, parts, 3), 6);
    EXPECT_EQ(std::string(a), "ab");
    EXPECT_EQ(std::string(b), "cdef");
}
CASE(writev_gathers) {
    int fd = new_file();
    iovec parts[] = {{(void*)"ab", 2}, {(void*)"cde", 3}};
    EXPECT_EQ(writev(fd, parts, 2), 5);
    EXPECT_EQ(read_all("f"), "abcde");
}
CASE(writev_errors) {
    int fd = new_file();
    iovec part{(void*)"a", 1};
    FAILS(writev(fd, &part, -1), EINVAL);
    FAILS(writev(fd, &part, 1025), EINVAL);
    FAILS(writev(fd, (iovec*)bad(), 1), EFAULT);
    FAILS(writev(-1, &part, 1), EBADF);
    iovec negative{scratch(), (size_t)-1};
    FAILS(writev(fd, &negative, 1), EINVAL);
    EXPECT_EQ(writev(fd, &part, 0), 0);
}
CASE(preadv_pwritev) {
    int fd = new_file("f", "0123456789");
    iovec part{(void*)"xy", 2};
    EXPECT_EQ(pwritev(fd, &part, 1, 4), 2);
    char buffer[8] = {};
    iovec in{buffer, 4};
    EXPECT_EQ(preadv(fd, &in, 1, 3), 4);
    EXPECT_EQ(std::string(buffer), "3xy6");
    FAILS(preadv(fd, &in, 1, -5), EINVAL);
}
CASE(preadv2_flags) {
    int fd = new_file("f", "abc");
    char buffer[8];
    iovec in{buffer, 3};
    EXPECT_EQ(preadv2(fd, &in, 1, -1, 0), 3);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
    FAILS(preadv2(fd, &in, 1, 0, 0x40000000), EOPNOTSUPP);
}
CASE(pwritev2_append) {
    int fd = new_file("f", "abc");
    iovec part{(void*)"d", 1};
    EXPECT_EQ(pwritev2(fd, &part, 1, 0, RWF_APPEND), 1);
    EXPECT_EQ(read_all("f"), "abcd");
}

// ---- lseek, truncate, fallocate, sync

CASE(lseek_whence) {
    int fd = new_file("f", "0123456789");
    EXPECT_EQ(lseek(fd, 4, SEEK_SET), 4);
    EXPECT_EQ(lseek(fd, 2, SEEK_CUR), 6);
    EXPECT_EQ(lseek(fd, -1, SEEK_END), 9);
    EXPECT_EQ(lseek(fd, 100, SEEK_END), 110);
    FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
    FAILS(lseek(fd, -1000, SEEK_CUR), EINVAL);
    FAILS(lseek(fd, 0, 77), EINVAL);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 110);
}
FAILS_CASE(lseek_bad_descriptor, lseek(-1, 0, SEEK_SET), EBADF)
CASE(lseek_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(lseek(ends[0], 0, SEEK_CUR), ESPIPE);
}
CASE(lseek_data_hole) {
    int fd = new_file("f", "0123456789");
    EXPECT_EQ(lseek(fd, 0, SEEK_DATA), 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_HOLE), 10);
    FAILS(lseek(fd, 10, SEEK_DATA), ENXIO);
    FAILS(lseek(fd, 10, SEEK_HOLE), ENXIO);
}
CASE(lseek_shared_by_dup) {
    int fd = new_file("f", "abc"), other = OK(dup(fd));
    OK(lseek(fd, 2, SEEK_SET));
    EXPECT_EQ(lseek(other, 0, SEEK_CUR), 2);
}
CASE(lseek_shared_over_fork) {
    int fd = new_file("f", "abc");
    in_child([&] { OK(lseek(fd, 2, SEEK_SET)); });
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 2);
}
CASE(ftruncate_shrinks_and_grows) {
    int fd = new_file("f", "hello");
    OK(ftruncate(fd, 2));
    OK(ftruncate(fd, 4));
    EXPECT(read_all("f") == std::string("he\0\0", 4));
}
CASE(truncate_by_path) {
    new_file("f", "hello");
    OK(truncate("f", 3));
    EXPECT_EQ(read_all("f"), "hel");
}
CASE(truncate_errors) {
    int fd = new_file();
    FAILS(ftruncate(fd, -1), EINVAL);
    FAILS(truncate("f", -1), EINVAL);
    FAILS(truncate("nothing", 0), ENOENT);
    FAILS(truncate(".", 0), EISDIR);
    FAILS(ftruncate(-1, 0), EBADF);
    FAILS(ftruncate(OK(open("f", O_RDONLY)), 0), EINVAL);
    FAILS(truncate((char*)bad(), 0), EFAULT);
}
CASE(ftruncate_size_limit) {
    int fd = new_file();
    in_child([&] {
        signal(SIGXFSZ, SIG_IGN);
        struct {
            uint64_t soft, hard;
        } limit{4096, 4096};
        OK(syscall(SYS_setrlimit, 1 /* RLIMIT_FSIZE */, &limit));
        FAILS(ftruncate(fd, 5000), EFBIG);
        EXPECT_EQ(write(fd, scratch(), 5000), 4096);
        FAILS(write(fd, scratch(), 1), EFBIG);
    });
}
CASE(fallocate_extends) {
    int fd = new_file();
    if (fallocate(fd, 0, 0, 10000) != 0 && errno == EOPNOTSUPP) skip("no fallocate here");
    EXPECT_EQ(stat_of("f").st_size, 10000);
}
CASE(fallocate_keep_size) {
    int fd = new_file("f", "abc");
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10000) != 0 && errno == EOPNOTSUPP) skip("no fallocate here");
    EXPECT_EQ(stat_of("f").st_size, 3);
}
CASE(fallocate_punch_hole) {
    int fd = new_file("f", std::string(16384, 'x'));
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) != 0 && errno == EOPNOTSUPP)
        skip("no hole punching here");
    std::string content = read_all("f");
    EXPECT(content == std::string(4096, 'x') + std::string(4096, '\0') + std::string(8192, 'x'));
}
CASE(fallocate_errors) {
    int fd = new_file();
    FAILS(fallocate(fd, 0, -1, 10), EINVAL);
    FAILS(fallocate(fd, 0, 0, 0), EINVAL);
    FAILS(fallocate(-1, 0, 0, 10), EBADF);
    FAILS(fallocate(OK(open("f", O_RDONLY)), 0, 0, 10), EBADF);
    FAILS(fallocate(fd, 0x4000, 0, 10), EOPNOTSUPP);
    int ends[2];
    OK(pipe(ends));
    FAILS(fallocate(ends[1], 0, 0, 10), ESPIPE);
}
CASE(fsync_kinds) {
    int fd = new_file("f", "a");
    OK(fsync(fd));
    OK(fdatasync(fd));
    OK(syncfs(fd));
    OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE));
    FAILS(fsync(-1), EBADF);
    FAILS(fdatasync(-1), EBADF);
}
CASE(fsync_pipe) {
    int ends[2];
    OK(pipe(ends));
    FAILS(fsync(ends[0]), EINVAL);
}
CASE(fadvise_kinds) {
    int fd = new_file("f", "a");
    EXPECT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED), 0);
    EXPECT_EQ(posix_fadvise(fd, 0, 0, 99), EINVAL);
    EXPECT_EQ(posix_fadvise(-1, 0, 0, 0), EBADF);
}
CASE(readahead_kinds) {
    OK(readahead(new_file("f", "a"), 0, 1));
    FAILS(readahead(-1, 0, 1), EBADF);
}

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

// ---- directories

CASE(mkdir_mode_and_links) {
    OK(mkdir("d", 0750));
    EXPECT_EQ(stat_of("d").st_mode, S_IFDIR | 0750);
    EXPECT(stat_of("d").st_nlink == 2 || stat_of("d").st_nlink == 1);
}
CASE(mkdir_errors) {
    OK(mkdir("d", 0755));
    FAILS(mkdir("d", 0755), EEXIST);
    FAILS(mkdir("no/d", 0755), ENOENT);
    FAILS(mkdir(".", 0755), EEXIST);
    FAILS(mkdir("", 0755), ENOENT);
    new_file();
    FAILS(mkdir("f/d", 0755), ENOTDIR);
    FAILS(mkdir("f", 0755), EEXIST);
    FAILS(mkdir(long_name(256).c_str(), 0755), ENAMETOOLONG);
    FAILS(mkdir((char*)bad(), 0755), EFAULT);
    FAILS(mkdirat(-1, "x", 0755), EBADF);
}
CASE(mkdir_trailing_slash) {
    OK(mkdir("d/", 0755));
    EXPECT(S_ISDIR(stat_of("d").st_mode));
}
CASE(mkdir_through_dangling_link) {
    OK(symlink("nowhere", "l"));
    FAILS(mkdir("l", 0755), EEXIST);
}
CASE(mkdir_setgid_inherits) {
    OK(mkdir("d", 0755));
    OK(chmod("d", 02755));
    OK(mkdir("d/e", 0755));
    EXPECT(stat_of("d/e").st_mode & S_ISGID);
}
CASE(rmdir_errors) {
    OK(mkdir("d", 0755));
    new_file("d/f");
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(rmdir("d/f"), ENOTDIR);
    FAILS(rmdir("nothing"), ENOENT);
    FAILS(rmdir("d/."), EINVAL);
    FAILS(rmdir("d/.."), ENOTEMPTY);
    OK(unlink("d/f"));
    OK(rmdir("d"));
    FAILS(stat("d", (struct stat*)scratch()), ENOENT);
}
CASE(rmdir_root_busy) { FAILS_ANY(rmdir("/"), EBUSY, ENOTEMPTY); }
CASE(unlinkat_removedir) {
    OK(mkdir("d", 0755));
    FAILS(unlinkat(AT_FDCWD, "d", 0), EISDIR);
    FAILS(unlinkat(AT_FDCWD, "d", 0x40000), EINVAL);
    OK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
}
CASE(unlink_keeps_open_file) {
    int fd = new_file("f", "abc");
    OK(unlink("f"));
    struct stat st;
    OK(fstat(fd, &st));
    EXPECT_EQ(st.st_nlink, 0);
    EXPECT_EQ(read_all_fd(fd), "abc");
}
CASE(unlink_errors) {
    FAILS(unlink("nothing"), ENOENT);
    OK(mkdir("d", 0755));
    FAILS(unlink("d"), EISDIR);
    new_file();
    FAILS(unlink("f/"), ENOTDIR);
    FAILS(unlink("f/x"), ENOTDIR);
    FAILS(unlink(""), ENOENT);
    FAILS(unlink((char*)bad()), EFAULT);
}
CASE(unlink_removes_link_not_target) {
    new_file();
    OK(symlink("f", "l"));
    OK(unlink("l"));
    OK(access("f", F_OK));
}
CASE(unlink_sticky_directory) {
    OK(mkdir("d", 0777));
    OK(chmod("d", 01777));
    new_file("d/f");
    chmod(".", 0755);
    as_user(12345, [] { FAILS(unlink("d/f"), EPERM); });
}
static std::set<std::string> names_in(const char* path) {
    std::set<std::string> names;
    DIR* dir = opendir(path);
    if (!dir) fail("names_in", 0, "opendir: " + errno_name(errno));
    while (dirent* entry = readdir(dir)) EXPECT(names.insert(entry->d_name).second);
    closedir(dir);
    return names;
}
CASE(getdents_lists_all) {
    new_file("a");
    OK(mkdir("d", 0755));
    auto names = names_in(".");
    EXPECT_EQ(names.size(), 4);
    EXPECT(names.count(".") && names.count("..") && names.count("a") && names.count("d"));
}
CASE(getdents_types) {
    new_file("a");
    OK(mkdir("d", 0755));
    OK(symlink("a", "l"));
    OK(mkfifo("p", 0600));
    DIR* dir = opendir(".");
    while (dirent* entry = readdir(dir)) {
        std::string name = entry->d_name;
        if (entry->d_type == DT_UNKNOWN) continue;
        if (name == "a") EXPECT_EQ(entry->d_type, DT_REG);
        if (name == "d" || name == "." || name == "..") EXPECT_EQ(entry->d_type, DT_DIR);
        if (name == "l") EXPECT_EQ(entry->d_type, DT_LNK);
        if (name == "p") EXPECT_EQ(entry->d_type, DT_FIFO);
        if (name == "a") EXPECT_EQ(entry->d_ino, stat_of("a").st_ino);
    }
}
CASE(getdents_many) {
    for (int i = 0; i < 500; ++i) close(new_file(("file-" + std::to_string(i)).c_str()));
    EXPECT_EQ(names_in(".").size(), 502);
}
CASE(getdents_errors) {
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY));
    FAILS(syscall(SYS_getdents64, dir, scratch(), 1), EINVAL);
    FAILS(syscall(SYS_getdents64, dir, bad(), 4096), EFAULT);
    FAILS(syscall(SYS_getdents64, -1, scratch(), 4096), EBADF);
    FAILS(syscall(SYS_getdents64, new_file(), scratch(), 4096), ENOTDIR);
}
CASE(getdents_old_call) {
    int dir = OK(open(".", O_RDONLY | O_DIRECTORY));
    EXPECT(syscall(SYS_getdents, dir, scratch(), 4096) > 0);
    EXPECT_EQ(syscall(SYS_getdents, dir, scratch(), 4096), 0);
}
CASE(getdents_rewind) {
    DIR* dir = opendir(".");
    int before = 0, after = 0;
    while (readdir(dir)) ++before;
    new_file("new");
    rewinddir(dir);
    while (readdir(dir)) ++after;
    EXPECT_EQ(after, before + 1);
}
CASE(getdents_of_removed_directory) {
    OK(mkdir("d", 0755));
    int dir = OK(open("d", O_RDONLY | O_DIRECTORY));
    OK(rmdir("d"));
    FAILS(syscall(SYS_getdents64, dir, scratch(), 4096), ENOENT);
}
CASE(getdents_while_removing) {
    for (int i = 0; i < 300; ++i) close(new_file(("file-" + std::to_string(i)).c_str()));
    DIR* dir = opendir(".");
    int removed = 0;
    while (dirent* entry = readdir(dir))
        if (entry->d_name[0] == 'f') removed += unlink(entry->d_name) == 0;
    EXPECT_EQ(removed, 300);
}
CASE(chdir_and_getcwd) {
    char before[PATH_MAX], after[PATH_MAX];
    OK(syscall(SYS_getcwd, before, sizeof before));
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(syscall(SYS_getcwd, after, sizeof after));
    EXPECT_EQ(std::string(after), std::string(before) + "/d");
    int up = OK(open("..", O_RDONLY));
    OK(fchdir(up));
    OK(syscall(SYS_getcwd, after, sizeof after));
    EXPECT_EQ(std::string(after), std::string(before));
}
CASE(getcwd_errors) {
    FAILS(syscall(SYS_getcwd, scratch(), 2), ERANGE);
    FAILS(syscall(SYS_getcwd, bad(), 4096), EFAULT);
}
CASE(getcwd_length) {
    char buffer[PATH_MAX];
    long length = OK(syscall(SYS_getcwd, buffer, sizeof buffer));
    EXPECT_EQ(length, strlen(buffer) + 1);
}
CASE(getcwd_of_removed) {
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    OK(rmdir("../d"));
    FAILS(syscall(SYS_getcwd, scratch(), 4096), ENOENT);
    FAILS(open("x", O_CREAT | O_RDWR, 0600), ENOENT);
}
CASE(chdir_errors) {
    new_file();
    FAILS(chdir("f"), ENOTDIR);
    FAILS(chdir("nothing"), ENOENT);
    FAILS(chdir((char*)bad()), EFAULT);
    FAILS(fchdir(-1), EBADF);
    FAILS(fchdir(new_file("g")), ENOTDIR);
}
CASE(chroot_confines) {
    if (geteuid() != 0) skip("needs root");
    OK(mkdir("d", 0755));
    new_file("d/f", "inside");
    in_child([] {
        OK(chroot("d"));
        OK(chdir("/"));
        EXPECT_EQ(read_all("/f"), "inside");
        EXPECT_EQ(read_all("/../../f"), "inside");
    });
    FAILS(chroot("nothing"), ENOENT);
}

// ---- links and renames

CASE(link_shares_inode) {
    new_file("f", "abc");
    OK(link("f", "g"));
    EXPECT_EQ(stat_of("f").st_ino, stat_of("g").st_ino);
    EXPECT_EQ(stat_of("f").st_nlink, 2);
    OK(unlink("f"));
    EXPECT_EQ(stat_of("g").st_nlink, 1);
    EXPECT_EQ(read_all("g"), "abc");
}
CASE(link_errors) {
    new_file();
    new_file("g");
    OK(mkdir("d", 0755));
    FAILS(link("f", "g"), EEXIST);
    FAILS(link("nothing", "h"), ENOENT);
    FAILS(link("d", "h"), EPERM);
    FAILS(link("f", "no/h"), ENOENT);
    FAILS(link("f", "/dev/casemate-h"), EXDEV);
    FAILS(linkat(AT_FDCWD, "f", AT_FDCWD, "h", 0x20000), EINVAL);
    FAILS(link((char*)bad(), "h"), EFAULT);
}
CASE(link_does_not_follow) {
    new_file();
    OK(symlink("f", "l"));
    OK(link("l", "m"));
    EXPECT(S_ISLNK(stat_of("m").st_mode));
    OK(linkat(AT_FDCWD, "l", AT_FDCWD, "n", AT_SYMLINK_FOLLOW));
    EXPECT(S_ISREG(stat_of("n").st_mode));
}
CASE(symlink_and_readlink) {
    OK(symlink("some/where", "l"));
    char buffer[64] = {};
    EXPECT_EQ(readlink("l", buffer, sizeof buffer), 10);
    EXPECT_EQ(std::string(buffer), "some/where");
    char small[4];
    EXPECT_EQ(readlink("l", small, 4), 4);
    EXPECT_EQ(stat_of("l").st_size, 10);
}
CASE(symlink_errors) {
    new_file();
    FAILS(symlink("x", "f"), EEXIST);
    FAILS(symlink("", "l"), ENOENT);
    FAILS(symlink("x", "no/l"), ENOENT);
    FAILS(symlink(std::string(PATH_MAX, 'a').c_str(), "l"), ENAMETOOLONG);
    FAILS(symlink((char*)bad(), "l"), EFAULT);
    FAILS(symlinkat("x", -1, "l"), EBADF);
}
CASE(readlink_errors) {
    new_file();
    char buffer[8];
    FAILS(readlink("f", buffer, 8), EINVAL);
    FAILS(readlink("nothing", buffer, 8), ENOENT);
    OK(symlink("x", "l"));
    FAILS(readlink("l", (char*)bad(), 8), EFAULT);
    FAILS(syscall(SYS_readlink, "l", buffer, 0), EINVAL);
    FAILS(syscall(SYS_readlink, "l", buffer, -1), EINVAL);
}
CASE(symlink_to_directory_with_slash) {
    OK(mkdir("d", 0755));
    OK(symlink("d", "l"));
    struct stat st;
    OK(lstat("l/", &st));
    EXPECT(S_ISDIR(st.st_mode));
}
CASE(symlink_relative_to_its_directory) {
    OK(mkdir("d", 0755));
    new_file("d/f", "near");
    OK(symlink("f", "d/l"));
    EXPECT_EQ(read_all("d/l"), "near");
}
CASE(rename_replaces) {
    new_file("a", "A");
    new_file("b", "B");
    ino_t ino = stat_of("a").st_ino;
    OK(rename("a", "b"));
    EXPECT_EQ(read_all("b"), "A");
    EXPECT_EQ(stat_of("b").st_ino, ino);
    FAILS(access("a", F_OK), ENOENT);
}
CASE(rename_keeps_open_files) {
    int fd = new_file("a", "A");
    int victim = new_file("b", "B");
    OK(rename("a", "b"));
    EXPECT_EQ(read_all_fd(victim), "B");
    EXPECT_EQ(read_all_fd(fd), "A");
}
CASE(rename_same_inode_is_nothing) {
    new_file("a");
    OK(link("a", "b"));
    OK(rename("a", "b"));
    OK(access("a", F_OK));
    OK(access("b", F_OK));
}
CASE(rename_directory_over_empty) {
    OK(mkdir("a", 0755));
    new_file("a/f");
    OK(mkdir("b", 0755));
    OK(rename("a", "b"));
    OK(access("b/f", F_OK));
}
CASE(rename_errors) {
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    new_file("b/f");
    new_file("f");
    FAILS_ANY(rename("a", "b"), ENOTEMPTY, EEXIST);
    FAILS(rename("f", "a"), EISDIR);
    FAILS(rename("a", "f"), ENOTDIR);
    FAILS(rename("nothing", "x"), ENOENT);
    FAILS(rename("a", "a/sub"), EINVAL);
    FAILS(rename("f", "no/x"), ENOENT);
    FAILS_ANY(rename("a/.", "x"), EBUSY, EINVAL);
    FAILS_ANY(rename("f", "b/.."), EBUSY, EINVAL, EISDIR);
    FAILS(rename("f", "/proc/x"), EXDEV);
    FAILS(rename((char*)bad(), "x"), EFAULT);
    FAILS(renameat(-1, "f", AT_FDCWD, "x"), EBADF);
}
CASE(rename_into_ancestor) {
    OK(mkdir("a", 0755));
    OK(mkdir("a/b", 0755));
    FAILS_ANY(rename("a/b", "a"), ENOTEMPTY, EEXIST);
    OK(rename("a/b", "b"));
}
CASE(rename_directory_updates_dot_dot) {
    OK(mkdir("a", 0755));
    OK(mkdir("b", 0755));
    OK(mkdir("a/d", 0755));
    OK(rename("a/d", "b/d"));
    struct stat st;
    OK(stat("b/d/..", &st));
    EXPECT_EQ(st.st_ino, stat_of("b").st_ino);
}
CASE(rename_cwd_follows) {
    OK(mkdir("a", 0755));
    OK(chdir("a"));
    OK(rename("../a", "../z"));
    char cwd[PATH_MAX] = {};
    OK(syscall(SYS_getcwd, cwd, sizeof cwd));
    EXPECT_EQ(std::string(cwd).substr(strlen(cwd) - 2), "/z");
}
CASE(renameat2_noreplace) {
    new_file("a");
    new_file("b");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE));
}
CASE(renameat2_exchange) {
    new_file("a", "A");
    OK(mkdir("d", 0755));
    OK(renameat2(AT_FDCWD, "a", AT_FDCWD, "d", RENAME_EXCHANGE));
    EXPECT_EQ(read_all("d"), "A");
    EXPECT(S_ISDIR(stat_of("a").st_mode));
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
}
CASE(renameat2_flags) {
    new_file("a");
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", 0x100), EINVAL);
    FAILS(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE | RENAME_EXCHANGE), EINVAL);
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

// ---- dup, fcntl, locks

CASE(dup_kinds) {
    int fd = new_file("f", "abc");
    int other = OK(dup(fd));
    EXPECT(other != fd);
    EXPECT_EQ(dup2(fd, 77), 77);
    EXPECT_EQ(dup2(fd, fd), fd);
    EXPECT_EQ(dup3(fd, 78, O_CLOEXEC), 78);
    EXPECT_EQ(fcntl(78, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(77, F_GETFD), 0);
    FAILS(dup(-1), EBADF);
    FAILS(dup2(-1, 5), EBADF);
    FAILS(dup2(fd, -1), EBADF);
    FAILS(dup2(fd, 10000000), EBADF);
    FAILS(dup3(fd, fd, 0), EINVAL);
    FAILS(dup3(fd, 79, O_APPEND), EINVAL);
}
CASE(dup2_replaces) {
    int a = new_file("a", "A"), b = new_file("b", "B");
    OK(dup2(a, b));
    EXPECT_EQ(read_all_fd(b), "A");
}
CASE(fcntl_dupfd) {
    int fd = new_file();
    EXPECT_EQ(fcntl(fd, F_DUPFD, 100), 100);
    EXPECT_EQ(fcntl(fd, F_DUPFD, 100), 101);
    EXPECT_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 100), 102);
    EXPECT_EQ(fcntl(102, F_GETFD), FD_CLOEXEC);
    FAILS(fcntl(fd, F_DUPFD, -1), EINVAL);
    FAILS(fcntl(-1, F_DUPFD, 0), EBADF);
}
CASE(fcntl_setfd_per_descriptor) {
    int fd = new_file(), other = OK(dup(fd));
    OK(fcntl(fd, F_SETFD, FD_CLOEXEC));
    EXPECT_EQ(fcntl(other, F_GETFD), 0);
}
CASE(fcntl_setfl_shared) {
    int fd = new_file(), other = OK(dup(fd));
    OK(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    EXPECT_EQ(fcntl(other, F_GETFL) & (O_APPEND | O_NONBLOCK), O_APPEND | O_NONBLOCK);
    OK(fcntl(fd, F_SETFL, 0));
    EXPECT_EQ(fcntl(other, F_GETFL) & (O_APPEND | O_NONBLOCK | O_ACCMODE), O_RDWR);
}
FAILS_CASE(fcntl_unknown_command, fcntl(new_file(), 7777), EINVAL)
CASE(nofile_limit) {
    in_child([] {
        struct {
            uint64_t soft, hard;
        } limit{20, 20};
        OK(syscall(SYS_setrlimit, 7 /* RLIMIT_NOFILE */, &limit));
        int last = -1, fd;
        while ((fd = open("/", O_RDONLY)) >= 0) last = fd;
        EXPECT_EQ(errno, EMFILE);
        EXPECT_EQ(last, 19);
        FAILS(dup(0), EMFILE);
        FAILS(dup2(0, 20), EBADF);
        FAILS(fcntl(0, F_DUPFD, 20), EINVAL);
    });
}
static int lock(int fd, int command, short type, off_t start, off_t length, struct flock* out = nullptr) {
    struct flock request {};
    request.l_type = type;
    request.l_whence = SEEK_SET;
    request.l_start = start;
    request.l_len = length;
    int result = fcntl(fd, command, &request);
    if (out) *out = request;
    return result;
}
CASE(posix_lock_conflict) {
    int fd = new_file("f", "0123456789");
    OK(lock(fd, F_SETLK, F_WRLCK, 2, 3));
    in_child([] {
        int own = OK(open("f", O_RDWR));
        FAILS_ANY(lock(own, F_SETLK, F_WRLCK, 4, 1), EAGAIN, EACCES);
        FAILS_ANY(lock(own, F_SETLK, F_RDLCK, 0, 0), EAGAIN, EACCES);
        OK(lock(own, F_SETLK, F_WRLCK, 5, 0));
        OK(lock(own, F_SETLK, F_WRLCK, 0, 2));
    });
}
CASE(posix_lock_getlk) {
    int fd = new_file("f", "0123456789");
    OK(lock(fd, F_SETLK, F_WRLCK, 2, 3));
    pid_t owner = getpid();
    in_child([&] {
        struct flock found;
        OK(lock(OK(open("f", O_RDWR)), F_GETLK, F_RDLCK, 0, 0, &found));
        EXPECT_EQ(found.l_type, F_WRLCK);
        EXPECT_EQ(found.l_start, 2);
        EXPECT_EQ(found.l_len, 3);
        EXPECT_EQ(found.l_pid, owner);
    });
    struct flock found;
    OK(lock(fd, F_GETLK, F_WRLCK, 0, 0, &found));
    EXPECT_EQ(found.l_type, F_UNLCK);
}
CASE(posix_lock_shared_readers) {
    int fd = new_file("f", "abc");
    OK(lock(fd, F_SETLK, F_RDLCK, 0, 0));
    in_child([] {
        int own = OK(open("f", O_RDWR));
        OK(lock(own, F_SETLK, F_RDLCK, 0, 0));
        FAILS_ANY(lock(own, F_SETLK, F_WRLCK, 0, 0), EAGAIN, EACCES);
    });
}
CASE(posix_lock_dropped_by_any_close) {
    int fd = new_file("f", "abc");
    OK(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    close(OK(open("f", O_RDONLY)));
    in_child([] { OK(lock(OK(open("f", O_RDWR)), F_SETLK, F_WRLCK, 0, 0)); });
}
CASE(posix_lock_split) {
    int fd = new_file("f", "0123456789");
    OK(lock(fd, F_SETLK, F_WRLCK, 0, 10));
    OK(lock(fd, F_SETLK, F_UNLCK, 3, 4));
    in_child([] {
        int own = OK(open("f", O_RDWR));
        OK(lock(own, F_SETLK, F_WRLCK, 3, 4));
        FAILS_ANY(lock(own, F_SETLK, F_WRLCK, 2, 1), EAGAIN, EACCES);
        FAILS_ANY(lock(own, F_SETLK, F_WRLCK, 7, 1), EAGAIN, EACCES);
    });
}
CASE(posix_lock_waits) {
    int fd = new_file("f", "abc");
    OK(lock(fd, F_SETLK, F_WRLCK, 0, 0));
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        int own = OK(open("f", O_RDWR));
        OK(write(ends[1], "x", 1));
        OK(lock(own, F_SETLKW, F_WRLCK, 0, 0));
    });
    OK(read(ends[0], scratch(), 1));
    sleep_ms(30);
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    OK(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    EXPECT_EXIT(pid, 0);
}
CASE(posix_lock_deadlock) {
    int fd = new_file("f", "ab"), ends[2];
    OK(pipe(ends));
    OK(lock(fd, F_SETLK, F_WRLCK, 0, 1));
    pid_t pid = child([&] {
        int own = OK(open("f", O_RDWR));
        OK(lock(own, F_SETLK, F_WRLCK, 1, 1));
        OK(write(ends[1], "x", 1));
        OK(lock(own, F_SETLKW, F_WRLCK, 0, 1));
    });
    OK(read(ends[0], scratch(), 1));
    EXPECT(reaches_state(pid, "SD"));
    FAILS(lock(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
    OK(lock(fd, F_SETLK, F_UNLCK, 0, 0));
    EXPECT_EXIT(pid, 0);
}
CASE(posix_lock_errors) {
    int fd = new_file("f", "abc");
    FAILS(lock(fd, F_SETLK, 77, 0, 0), EINVAL);
    FAILS(lock(fd, F_SETLK, F_WRLCK, -1, 1), EINVAL);
    FAILS(lock(OK(open("f", O_RDONLY)), F_SETLK, F_WRLCK, 0, 1), EBADF);
    FAILS(fcntl(fd, F_SETLK, bad()), EFAULT);
    FAILS(lock(-1, F_SETLK, F_WRLCK, 0, 1), EBADF);
}
CASE(ofd_lock_per_open_file) {
    int a = new_file("f", "abc"), b = OK(open("f", O_RDWR));
    OK(lock(a, F_OFD_SETLK, F_WRLCK, 0, 0));
    FAILS_ANY(lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN, EACCES);
    close(a);
    OK(lock(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}
CASE(flock_conflict) {
    int a = new_file(), b = OK(open("f", O_RDWR));
    OK(flock(a, LOCK_EX));
    FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    OK(flock(a, LOCK_SH));
    OK(flock(b, LOCK_SH | LOCK_NB));
    FAILS(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    FAILS(flock(a, 0), EINVAL);
    FAILS(flock(-1, LOCK_SH), EBADF);
}
CASE(flock_held_by_dup) {
    int a = new_file(), copy = OK(dup(a)), b = OK(open("f", O_RDWR));
    OK(flock(a, LOCK_EX));
    close(a);
    FAILS(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    close(copy);
    OK(flock(b, LOCK_EX | LOCK_NB));
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

// ---- copying between descriptors

CASE(sendfile_file_to_file) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    off_t offset = 3;
    EXPECT_EQ(sendfile(out, in, &offset, 4), 4);
    EXPECT_EQ(offset, 7);
    EXPECT_EQ(lseek(in, 0, SEEK_CUR), 0);
    EXPECT_EQ(sendfile(out, in, nullptr, 100), 10);
    EXPECT_EQ(read_all("out"), "34560123456789");
}
CASE(sendfile_to_pipe) {
    int in = new_file("in", "hello"), ends[2];
    OK(pipe(ends));
    EXPECT_EQ(sendfile(ends[1], in, nullptr, 100), 5);
    EXPECT_EQ(read(ends[0], scratch(), 100), 5);
}
CASE(sendfile_errors) {
    int in = new_file("in", "hello"), out = new_file("out");
    FAILS(sendfile(-1, in, nullptr, 1), EBADF);
    FAILS(sendfile(out, -1, nullptr, 1), EBADF);
    FAILS(sendfile(OK(open("out", O_RDONLY)), in, nullptr, 1), EBADF);
    FAILS(sendfile(OK(open("out", O_WRONLY | O_APPEND)), in, nullptr, 1), EINVAL);
    FAILS(sendfile(out, in, (off_t*)bad(), 1), EFAULT);
    off_t negative = -1;
    FAILS(sendfile(out, in, &negative, 1), EINVAL);
}
CASE(copy_file_range_copies) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    loff_t from = 2, to = 1;
    EXPECT_EQ(copy_file_range(in, &from, out, &to, 5, 0), 5);
    EXPECT_EQ(from, 7);
    EXPECT_EQ(to, 6);
    EXPECT(read_all("out") == std::string("\0", 1) + "23456");
    EXPECT_EQ(copy_file_range(in, nullptr, out, nullptr, 100, 0), 10);
}
CASE(copy_file_range_errors) {
    int in = new_file("in", "0123456789"), out = new_file("out");
    loff_t a = 0, b = 3;
    FAILS(copy_file_range(in, &a, in, &b, 5, 0), EINVAL);
    FAILS(copy_file_range(in, nullptr, out, nullptr, 5, 1), EINVAL);
    FAILS(copy_file_range(-1, nullptr, out, nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(in, nullptr, OK(open("out", O_RDONLY)), nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(in, nullptr, OK(open("out", O_WRONLY | O_APPEND)), nullptr, 5, 0), EBADF);
    FAILS(copy_file_range(OK(open(".", O_RDONLY)), nullptr, out, nullptr, 5, 0), EISDIR);
}

// ---- devices every program expects

CASE(dev_null) {
    int fd = OK(open("/dev/null", O_RDWR));
    EXPECT_EQ(read(fd, scratch(), 10), 0);
    EXPECT_EQ(write(fd, "abc", 3), 3);
}
CASE(dev_zero) {
    int fd = OK(open("/dev/zero", O_RDWR));
    memset(scratch(), 1, 100);
    EXPECT_EQ(read(fd, scratch(), 100), 100);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(scratch()[i], 0);
}
CASE(dev_full) {
    int fd = OK(open("/dev/full", O_RDWR));
    FAILS(write(fd, "a", 1), ENOSPC);
    EXPECT_EQ(read(fd, scratch(), 10), 10);
}
CASE(dev_urandom) {
    int fd = OK(open("/dev/urandom", O_RDONLY));
    char a[16] = {}, b[16] = {};
    EXPECT_EQ(read(fd, a, 16), 16);
    EXPECT_EQ(read(fd, b, 16), 16);
    EXPECT(memcmp(a, b, 16) != 0);
}
CASE(dev_tty_without_terminal) {
    in_child([] {
        setsid();
        FAILS(open("/dev/tty", O_RDWR), ENXIO);
    });
}
CASE(ioctl_fionread_file) {
    int fd = new_file("f", "hello"), count = -1;
    OK(lseek(fd, 2, SEEK_SET));
    OK(ioctl(fd, FIONREAD, &count));
    EXPECT_EQ(count, 3);
}
CASE(ioctl_fioclex) {
    int fd = new_file();
    OK(ioctl(fd, FIOCLEX));
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    OK(ioctl(fd, FIONCLEX));
    EXPECT_EQ(fcntl(fd, F_GETFD), 0);
}
CASE(ioctl_errors) {
    int on = 1;
    FAILS(ioctl(-1, FIONREAD, &on), EBADF);
    FAILS(ioctl(new_file(), 0x5401 /* TCGETS */, scratch()), ENOTTY);
}
CASE(name_to_handle_missing) {
    FAILS_ANY(syscall(SYS_name_to_handle_at, AT_FDCWD, "nothing", scratch(), scratch() + 512, 0), ENOENT, EOPNOTSUPP,
              ENOSYS, EPERM);
}
CASE(names_are_bytes) {
    const char* name = "\xff\xfe \x01 name";
    new_file(name, "x");
    EXPECT(names_in(".").count(name) == 1);
    OK(unlink(name));
}
CASE(names_differ_by_case) {
    new_file("A", "upper");
    new_file("a", "lower");
    EXPECT_EQ(read_all("A"), "upper");
}
CASE(many_open_files) {
    for (int i = 0; i < 500; ++i) OK(open(".", O_RDONLY));
}
