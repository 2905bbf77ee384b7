// dup, fcntl, locks; the devices that every program expects.
#include <sys/file.h>
#include <sys/ioctl.h>

#include "files.h"

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
