// Pipes and fifos: sizes, ends, blocking, atomic writes, readiness, splice, tee and vmsplice.
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "case.h"

struct Pipe {
    explicit Pipe(int flags = 0) { OK(pipe2(ends, flags)); }
    int ends[2];
    int in() const { return ends[0]; }
    int out() const { return ends[1]; }
};
static short ready(int fd) {
    pollfd watch{fd, POLLIN | POLLOUT, 0};
    OK(poll(&watch, 1, 0));
    return watch.revents;
}
static size_t fill(int fd) {
    OK(fcntl(fd, F_SETFL, O_NONBLOCK));
    size_t total = 0;
    for (ssize_t n; (n = write(fd, scratch(), 4096)) > 0;) total += n;
    EXPECT_EQ(errno, EAGAIN);
    return total;
}

CASE(pipe_carries) {
    Pipe p;
    EXPECT_EQ(write(p.out(), "hello", 5), 5);
    char buffer[8] = {};
    EXPECT_EQ(read(p.in(), buffer, 8), 5);
    EXPECT_EQ(std::string(buffer), "hello");
}
CASE(pipe_is_a_stream) {
    Pipe p;
    EXPECT_EQ(write(p.out(), "ab", 2), 2);
    EXPECT_EQ(write(p.out(), "cd", 2), 2);
    char buffer[8] = {};
    EXPECT_EQ(read(p.in(), buffer, 3), 3);
    EXPECT_EQ(std::string(buffer), "abc");
    EXPECT_EQ(read(p.in(), buffer, 3), 1);
}
CASE(pipe_flags) {
    Pipe p(O_CLOEXEC | O_NONBLOCK);
    EXPECT_EQ(fcntl(p.in(), F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(p.out(), F_GETFL), O_WRONLY | O_NONBLOCK);
    EXPECT_EQ(fcntl(p.in(), F_GETFL), O_RDONLY | O_NONBLOCK);
    FAILS(read(p.in(), scratch(), 1), EAGAIN);
}
CASE(pipe_errors) {
    int ends[2];
    FAILS(pipe2(ends, 0x1), EINVAL);
    FAILS(syscall(SYS_pipe, bad()), EFAULT);
    Pipe p;
    FAILS(read(p.out(), scratch(), 1), EBADF);
    FAILS(write(p.in(), "x", 1), EBADF);
    FAILS(read(p.in(), nullptr, (write(p.out(), "x", 1), 1)), EFAULT);
}
CASE(pipe_end_of_file) {
    Pipe p;
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    close(p.out());
    EXPECT_EQ(read(p.in(), scratch(), 8), 1);
    EXPECT_EQ(read(p.in(), scratch(), 8), 0);
    EXPECT_EQ(read(p.in(), scratch(), 8), 0);
}
CASE(pipe_no_reader) {
    Pipe p;
    signal(SIGPIPE, SIG_IGN);
    close(p.in());
    FAILS(write(p.out(), "x", 1), EPIPE);
    FAILS(write(p.out(), "x", 1), EPIPE);
}
CASE(pipe_zero_bytes) {
    Pipe p(O_NONBLOCK);
    EXPECT_EQ(write(p.out(), "", 0), 0);
    FAILS(read(p.in(), scratch(), 8), EAGAIN);
    EXPECT_EQ(read(p.in(), scratch(), 0), 0);
}
CASE(pipe_default_capacity) {
    Pipe p;
    EXPECT_EQ(fcntl(p.in(), F_GETPIPE_SZ), 65536);
    EXPECT_EQ(fill(p.out()), 65536);
}
CASE(pipe_set_capacity) {
    Pipe p;
    EXPECT_EQ(fcntl(p.out(), F_SETPIPE_SZ, 8192), 8192);
    EXPECT_EQ(fcntl(p.in(), F_GETPIPE_SZ), 8192);
    EXPECT_EQ(fill(p.out()), 8192);
    FAILS(fcntl(p.out(), F_SETPIPE_SZ, 4096), EBUSY);
}
CASE(pipe_set_capacity_rounds) {
    Pipe p;
    EXPECT_EQ(fcntl(p.out(), F_SETPIPE_SZ, 5000), 8192);
    EXPECT_EQ(fcntl(p.out(), F_SETPIPE_SZ, 1), 4096);
    FAILS(fcntl(p.out(), F_SETPIPE_SZ, -1), EINVAL);
}
CASE(pipe_capacity_other_file) { FAILS(fcntl(OK(open("f", O_RDWR | O_CREAT, 0600)), F_GETPIPE_SZ), EBADF); }
CASE(pipe_fionread) {
    Pipe p;
    int count = -1;
    OK(ioctl(p.in(), FIONREAD, &count));
    EXPECT_EQ(count, 0);
    EXPECT_EQ(write(p.out(), "hello", 5), 5);
    OK(ioctl(p.in(), FIONREAD, &count));
    EXPECT_EQ(count, 5);
}
CASE(pipe_fionbio) {
    Pipe p;
    int on = 1;
    OK(ioctl(p.in(), FIONBIO, &on));
    FAILS(read(p.in(), scratch(), 1), EAGAIN);
}
CASE(pipe_stat) {
    Pipe p;
    struct stat a, b;
    OK(fstat(p.in(), &a));
    OK(fstat(p.out(), &b));
    EXPECT(S_ISFIFO(a.st_mode));
    EXPECT_EQ(a.st_ino, b.st_ino);
    EXPECT_EQ(a.st_size, 0);
}
CASE(pipe_name_in_proc) {
    Pipe p;
    struct stat st;
    OK(fstat(p.in(), &st));
    char buffer[64] = {};
    OK(readlink(("/proc/self/fd/" + std::to_string(p.in())).c_str(), buffer, 63));
    EXPECT_EQ(std::string(buffer), "pipe:[" + std::to_string(st.st_ino) + "]");
}
CASE(pipe_ready) {
    Pipe p;
    EXPECT_EQ(ready(p.in()), 0);
    EXPECT_EQ(ready(p.out()), POLLOUT);
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    EXPECT_EQ(ready(p.in()), POLLIN);
}
CASE(pipe_ready_full) {
    Pipe p;
    fill(p.out());
    EXPECT_EQ(ready(p.out()), 0);
    EXPECT_EQ(read(p.in(), scratch(), 4096), 4096);
    EXPECT_EQ(ready(p.out()), POLLOUT);
}
CASE(pipe_ready_hangup) {
    Pipe p;
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    close(p.out());
    EXPECT_EQ(ready(p.in()), POLLIN | POLLHUP);
    EXPECT_EQ(read(p.in(), scratch(), 1), 1);
    EXPECT_EQ(ready(p.in()), POLLHUP);
}
CASE(pipe_ready_no_reader) {
    Pipe p;
    close(p.in());
    EXPECT_EQ(ready(p.out()), POLLOUT | POLLERR);
}
CASE(pipe_read_waits) {
    Pipe p;
    pid_t pid = child([&] {
        char buffer[8] = {};
        EXPECT_EQ(read(p.in(), buffer, 8), 2);
        EXPECT_EQ(std::string(buffer), "ok");
    });
    EXPECT(reaches_state(pid, "S"));
    EXPECT_EQ(write(p.out(), "ok", 2), 2);
    EXPECT_EXIT(pid, 0);
}
CASE(pipe_write_waits) {
    Pipe p;
    fill(p.out());
    OK(fcntl(p.out(), F_SETFL, 0));
    pid_t pid = child([&] { EXPECT_EQ(write(p.out(), scratch(), 10000), 10000); });
    EXPECT(reaches_state(pid, "S"));
    size_t total = 0;
    close(p.out());
    for (ssize_t n; (n = OK(read(p.in(), scratch(), 60000))) > 0;) total += n;
    EXPECT_EQ(total, 75536);
    EXPECT_EXIT(pid, 0);
}
CASE(pipe_big_transfer) {
    Pipe p;
    const size_t size = 3 << 20;
    pid_t pid = child([&] {
        close(p.in());
        std::string data(size, 0);
        for (size_t i = 0; i < size; ++i) data[i] = char(i * 7);
        EXPECT_EQ(write(p.out(), data.data(), size), size);
    });
    close(p.out());
    std::string all = read_all_fd(p.in());
    EXPECT_EQ(all.size(), size);
    for (size_t i = 0; i < size; ++i)
        if (all[i] != char(i * 7)) fail(__FILE__, __LINE__, "byte " + std::to_string(i) + " differs");
    EXPECT_EXIT(pid, 0);
}
CASE(pipe_atomic_write_nonblocking) {
    Pipe p;
    fill(p.out());
    EXPECT_EQ(read(p.in(), scratch(), 2000), 2000);
    FAILS(write(p.out(), scratch(), 4096), EAGAIN);
}
CASE(pipe_partial_write_nonblocking) {
    Pipe p(O_NONBLOCK);
    EXPECT_EQ(write(p.out(), scratch(), 100000), 65536);
}
CASE(pipe_atomic_writes_do_not_mix) {
    Pipe p;
    for (char letter : {'a', 'b', 'c', 'd'})
        child([&] {
            std::string block(512, letter);
            for (int i = 0; i < 50; ++i) EXPECT_EQ(write(p.out(), block.data(), 512), 512);
        });
    close(p.out());
    std::string all = read_all_fd(p.in());
    EXPECT_EQ(all.size(), 4 * 50 * 512);
    for (size_t i = 0; i < all.size(); i += 512) EXPECT(all.substr(i, 512) == std::string(512, all[i]));
    while (wait(nullptr) > 0) {
    }
}
CASE(pipe_dup_keeps_open) {
    Pipe p;
    int copy = OK(dup(p.out()));
    close(p.out());
    EXPECT_EQ(write(copy, "x", 1), 1);
    close(copy);
    EXPECT_EQ(read(p.in(), scratch(), 2), 1);
    EXPECT_EQ(read(p.in(), scratch(), 2), 0);
}
CASE(pipe_writev_readv) {
    Pipe p;
    iovec out[] = {{(void*)"ab", 2}, {(void*)"cdef", 4}};
    EXPECT_EQ(writev(p.out(), out, 2), 6);
    char a[4] = {}, b[4] = {};
    iovec in[] = {{a, 3}, {b, 3}};
    EXPECT_EQ(readv(p.in(), in, 2), 6);
    EXPECT_EQ(std::string(a) + b, "abcdef");
}
CASE(pipe_ping_pong) {
    Pipe there, back;
    pid_t pid = child([&] {
        char c;
        for (int i = 0; i < 500; ++i) {
            EXPECT_EQ(read(there.in(), &c, 1), 1);
            ++c;
            EXPECT_EQ(write(back.out(), &c, 1), 1);
        }
    });
    char c = 0;
    for (int i = 0; i < 500; ++i) {
        char before = c;
        EXPECT_EQ(write(there.out(), &c, 1), 1);
        EXPECT_EQ(read(back.in(), &c, 1), 1);
        EXPECT_EQ(c, char(before + 1));
    }
    EXPECT_EXIT(pid, 0);
}
CASE(pipe_packet_mode) {
    Pipe p(O_DIRECT);
    EXPECT_EQ(write(p.out(), "abc", 3), 3);
    EXPECT_EQ(write(p.out(), "de", 2), 2);
    EXPECT_EQ(read(p.in(), scratch(), 100), 3);
    EXPECT_EQ(read(p.in(), scratch(), 1), 1);
    FAILS(fcntl(p.in(), F_SETFL, O_NONBLOCK) + read(p.in(), scratch(), 1), EAGAIN);
}
CASE(pipe_reopen_by_proc) {
    Pipe p;
    int again = OK(open(("/proc/self/fd/" + std::to_string(p.out())).c_str(), O_WRONLY));
    EXPECT_EQ(write(again, "x", 1), 1);
    EXPECT_EQ(read(p.in(), scratch(), 1), 1);
}

// ---- fifos

CASE(fifo_carries) {
    OK(mkfifo("p", 0600));
    pid_t pid = child([] {
        int fd = OK(open("p", O_WRONLY));
        EXPECT_EQ(write(fd, "hello", 5), 5);
    });
    EXPECT_EQ(read_all("p"), "hello");
    EXPECT_EXIT(pid, 0);
}
CASE(fifo_open_waits_for_other_end) {
    OK(mkfifo("p", 0600));
    pid_t pid = child([] { OK(open("p", O_RDONLY)); });
    EXPECT(reaches_state(pid, "S"));
    OK(open("p", O_WRONLY));
    EXPECT_EXIT(pid, 0);
}
CASE(fifo_nonblocking_open) {
    OK(mkfifo("p", 0600));
    FAILS(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
    int fd = OK(open("p", O_RDONLY | O_NONBLOCK));
    EXPECT_EQ(read(fd, scratch(), 1), 0);
    int out = OK(open("p", O_WRONLY | O_NONBLOCK));
    FAILS(read(fd, scratch(), 1), EAGAIN);
    EXPECT_EQ(write(out, "x", 1), 1);
    EXPECT_EQ(read(fd, scratch(), 1), 1);
}
CASE(fifo_read_write_open) {
    OK(mkfifo("p", 0600));
    int fd = OK(open("p", O_RDWR));
    EXPECT_EQ(write(fd, "x", 1), 1);
    EXPECT_EQ(read(fd, scratch(), 1), 1);
}
CASE(fifo_open_interrupted) {
    OK(mkfifo("p", 0600));
    pid_t pid = child([] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        OK(sigaction(SIGUSR1, &action, nullptr));
        FAILS(open("p", O_RDONLY), EINTR);
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(kill(pid, SIGUSR1));
    EXPECT_EXIT(pid, 0);
}
CASE(fifo_errors) {
    OK(mkfifo("p", 0600));
    FAILS(mkfifo("p", 0600), EEXIST);
    FAILS(mkfifo("no/p", 0600), ENOENT);
    int fd = OK(open("p", O_RDWR));
    FAILS(lseek(fd, 0, SEEK_SET), ESPIPE);
    FAILS(ftruncate(fd, 0), EINVAL);
}

// ---- splice, tee, vmsplice

CASE(splice_file_to_pipe_to_file) {
    write_file("in", "0123456789");
    int in = OK(open("in", O_RDONLY)), out = OK(open("out", O_WRONLY | O_CREAT, 0600));
    Pipe p;
    loff_t offset = 2;
    EXPECT_EQ(splice(in, &offset, p.out(), nullptr, 5, 0), 5);
    EXPECT_EQ(offset, 7);
    EXPECT_EQ(splice(p.in(), nullptr, out, nullptr, 100, 0), 5);
    EXPECT_EQ(read_all("out"), "23456");
}
CASE(splice_pipe_to_pipe) {
    Pipe a, b;
    EXPECT_EQ(write(a.out(), "hello", 5), 5);
    EXPECT_EQ(splice(a.in(), nullptr, b.out(), nullptr, 3, 0), 3);
    char buffer[8] = {};
    EXPECT_EQ(read(b.in(), buffer, 8), 3);
    EXPECT_EQ(std::string(buffer), "hel");
    EXPECT_EQ(read(a.in(), buffer, 8), 2);
}
CASE(splice_errors) {
    write_file("in", "0123456789");
    int in = OK(open("in", O_RDWR));
    Pipe p;
    FAILS(splice(in, nullptr, in, nullptr, 5, 0), EINVAL);
    FAILS(splice(-1, nullptr, p.out(), nullptr, 5, 0), EBADF);
    FAILS(splice(in, nullptr, p.in(), nullptr, 5, 0), EBADF);
    FAILS(splice(p.in(), nullptr, p.out(), nullptr, 5, 0), EINVAL);
    FAILS(splice(in, nullptr, p.out(), nullptr, 5, 0x100), EINVAL);
    loff_t offset = 0;
    FAILS(splice(in, nullptr, p.out(), &offset, 5, 0), ESPIPE);
    EXPECT_EQ(splice(in, nullptr, p.out(), nullptr, 0, 0), 0);
    FAILS(splice(p.in(), nullptr, in, nullptr, 5, SPLICE_F_NONBLOCK), EAGAIN);
}
CASE(splice_end_of_file) {
    write_file("in", "");
    Pipe p;
    EXPECT_EQ(splice(OK(open("in", O_RDONLY)), nullptr, p.out(), nullptr, 5, 0), 0);
}
CASE(tee_copies) {
    Pipe a, b;
    EXPECT_EQ(write(a.out(), "hello", 5), 5);
    EXPECT_EQ(tee(a.in(), b.out(), 3, 0), 3);
    EXPECT_EQ(read(a.in(), scratch(), 10), 5);
    EXPECT_EQ(read(b.in(), scratch(), 10), 3);
}
CASE(tee_errors) {
    Pipe a, b;
    FAILS(tee(a.in(), a.out(), 3, 0), EINVAL);
    FAILS(tee(a.in(), b.out(), 3, SPLICE_F_NONBLOCK), EAGAIN);
    FAILS(tee(OK(open("/dev/null", O_RDONLY)), b.out(), 3, 0), EINVAL);
}
CASE(vmsplice_writes) {
    Pipe p;
    char text[] = "hello";
    iovec part{text, 5};
    EXPECT_EQ(vmsplice(p.out(), &part, 1, 0), 5);
    EXPECT_EQ(read(p.in(), scratch(), 10), 5);
    FAILS(vmsplice(-1, &part, 1, 0), EBADF);
}
CASE(sigio_from_pipe) {
    Pipe p;
    static volatile int got;
    signal(SIGIO, [](int number) { got = number; });
    OK(fcntl(p.in(), F_SETOWN, getpid()));
    EXPECT_EQ(fcntl(p.in(), F_GETOWN), getpid());
    OK(fcntl(p.in(), F_SETFL, O_ASYNC));
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    EXPECT_EQ(got, SIGIO);
}
CASE(sigio_with_a_number_tells_which) {
    Pipe p;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    OK(sigprocmask(SIG_BLOCK, &set, nullptr));
    OK(fcntl(p.in(), F_SETSIG, SIGRTMIN + 1));
    EXPECT_EQ(fcntl(p.in(), F_GETSIG), SIGRTMIN + 1);
    OK(fcntl(p.in(), F_SETFL, O_ASYNC));
    OK(fcntl(p.in(), F_SETOWN, getpid()));
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    siginfo_t info;
    timespec none{};
    EXPECT_EQ(sigtimedwait(&set, &info, &none), SIGRTMIN + 1);
    EXPECT_EQ(info.si_fd, p.in());
    EXPECT_EQ(info.si_code, POLL_IN);
    EXPECT((info.si_band & POLLIN) != 0);
    OK(fcntl(p.in(), F_SETFL, 0));
    EXPECT_EQ(write(p.out(), "x", 1), 1);
    FAILS(sigtimedwait(&set, &info, &none), EAGAIN);
}
CASE(sigio_between_processes) {
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    OK(sigprocmask(SIG_BLOCK, &set, nullptr));
    OK(fcntl(ends[0], F_SETOWN, -getpgrp()));
    int on = 1;
    OK(ioctl(ends[0], FIOASYNC, &on));
    EXPECT((fcntl(ends[0], F_GETFL) & O_ASYNC) != 0);
    in_child([&] { EXPECT_EQ(write(ends[1], "x", 1), 1); });
    timespec patience{5, 0};
    EXPECT_EQ(sigtimedwait(&set, nullptr, &patience), SIGIO);
}
CASE(sigio_without_an_owner) {
    Pipe p;
    OK(fcntl(p.in(), F_SETFL, O_ASYNC));
    EXPECT_EQ(write(p.out(), "x", 1), 1);
}
