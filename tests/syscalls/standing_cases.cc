// A stream that was read until it was empty, so often that a kernel may say so beforehand: it must not say so once
// there is something to read, or once the descriptor means something else.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cstddef>

#include "case.h"

namespace {

constexpr int kOften = 400;

// Libc's recv and read, and the number by syscall(2): three places that call often.
struct Way {
    const char* name;
    ssize_t (*read)(int fd, void* into, size_t size);
};
ssize_t by_recv(int fd, void* into, size_t size) { return recv(fd, into, size, 0); }
ssize_t by_read(int fd, void* into, size_t size) { return read(fd, into, size); }
ssize_t by_number(int fd, void* into, size_t size) {
    return syscall(SYS_recvfrom, fd, into, size, 0, nullptr, nullptr);
}
constexpr Way kWays[] = {{"recv", by_recv}, {"read", by_read}, {"number", by_number}};

void expect_empty(const Way& way, int fd) {
    char byte;
    for (int i = 0; i < kOften; ++i) FAILS(way.read(fd, &byte, 1), EAGAIN);
}
void expect_byte(const Way& way, int fd, char wanted) {
    char byte = 0;
    EXPECT_EQ(OK(way.read(fd, &byte, 1)), 1);
    EXPECT_EQ(byte, wanted);
}
void send_byte(int fd, char byte) { EXPECT_EQ(OK(write(fd, &byte, 1)), 1); }

struct Pair {
    int reader, writer;
};
Pair unix_pair() {
    int fds[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds));
    return {fds[0], fds[1]};
}
Pair tcp_pair() {
    const int listener = OK(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    OK(bind(listener, (sockaddr*)&address, size));
    OK(listen(listener, 1));
    OK(getsockname(listener, (sockaddr*)&address, &size));
    const int writer = OK(socket(AF_INET, SOCK_STREAM, 0));
    OK(connect(writer, (sockaddr*)&address, size));
    const int reader = OK(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK));
    close(listener);
    return {reader, writer};
}

template <typename Body>
void each_way(Body body) {
    for (const Way& way : kWays) body(way, unix_pair());
}

// Until the other end is seen: a byte takes its time by TCP.
void await_readable(int fd) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    EXPECT_EQ(OK(select(fd + 1, &set, nullptr, nullptr, nullptr)), 1);
}

}  // namespace

CASE(bytes_come_at_once) {
    each_way([](const Way& way, Pair pair) {
        for (int i = 0; i < 50; ++i) {
            expect_empty(way, pair.reader);
            for (char c : {'a', 'b', 'c'}) send_byte(pair.writer, c);
            for (char c : {'a', 'b', 'c'}) expect_byte(way, pair.reader, c);
        }
        expect_empty(way, pair.reader);
    });
}

CASE(bytes_come_from_another_process) {
    each_way([](const Way& way, Pair pair) {
        int back[2];
        OK(pipe(back));
        const pid_t pid = child([&] {
            char turn;
            for (int i = 0; i < 200; ++i) {
                send_byte(pair.writer, (char)i);
                EXPECT_EQ(OK(read(back[0], &turn, 1)), 1);
            }
        });
        for (int i = 0; i < 200; ++i) {
            char byte = 0;
            while (way.read(pair.reader, &byte, 1) != 1) EXPECT_EQ(errno, EAGAIN);
            EXPECT_EQ(byte, (char)i);
            // Only now may the next one come.
            FAILS(way.read(pair.reader, &byte, 1), EAGAIN);
            send_byte(back[1], 't');
        }
        EXPECT_EXIT(pid, 0);
    });
}

CASE(an_edge_is_never_lost) {
    for (const Pair pair : {unix_pair(), tcp_pair()}) {
        constexpr int kBytes = 3'000;
        const pid_t pid = child([&] {
            for (int i = 0; i < kBytes; ++i) {
                send_byte(pair.writer, (char)i);
                if (i % 7 == 0) sched_yield();
            }
        });
        const int epoll = OK(epoll_create1(0));
        epoll_event event{EPOLLIN | EPOLLET, {}};
        OK(epoll_ctl(epoll, EPOLL_CTL_ADD, pair.reader, &event));
        int got = 0;
        while (got < kBytes) {
            EXPECT_EQ(OK(epoll_wait(epoll, &event, 1, 20'000)), 1);
            char bytes[16];
            ssize_t n;
            while ((n = recv(pair.reader, bytes, sizeof(bytes), 0)) > 0) {
                for (ssize_t i = 0; i < n; ++i) EXPECT_EQ(bytes[i], (char)(got + i));
                got += (int)n;
            }
            EXPECT(n == -1 && errno == EAGAIN);
        }
        EXPECT_EXIT(pid, 0);
    }
}

CASE(the_end_comes_at_once) {
    each_way([](const Way& way, Pair pair) {
        char byte;
        expect_empty(way, pair.reader);
        OK(shutdown(pair.writer, SHUT_WR));
        EXPECT_EQ(way.read(pair.reader, &byte, 1), 0);
    });
    each_way([](const Way& way, Pair pair) {
        char byte;
        expect_empty(way, pair.reader);
        close(pair.writer);
        EXPECT_EQ(way.read(pair.reader, &byte, 1), 0);
    });
    each_way([](const Way& way, Pair pair) {
        char byte;
        expect_empty(way, pair.reader);
        OK(shutdown(pair.reader, SHUT_RD));
        EXPECT_EQ(way.read(pair.reader, &byte, 1), 0);
    });
}

CASE(tcp_tells_of_bytes_and_of_the_end) {
    for (const Way& way : kWays) {
        const Pair pair = tcp_pair();
        char byte;
        for (int i = 0; i < 20; ++i) {
            expect_empty(way, pair.reader);
            send_byte(pair.writer, 'x');
            await_readable(pair.reader);
            expect_byte(way, pair.reader, 'x');
        }
        expect_empty(way, pair.reader);
        close(pair.writer);
        await_readable(pair.reader);
        EXPECT_EQ(way.read(pair.reader, &byte, 1), 0);
    }
}

CASE(a_number_comes_to_mean_something_else) {
    each_way([](const Way& way, Pair pair) {
        const Pair other = unix_pair();
        char byte;
        expect_empty(way, pair.reader);
        send_byte(other.writer, 'o');
        OK(dup2(other.reader, pair.reader));
        expect_byte(way, pair.reader, 'o');
        expect_empty(way, pair.reader);
        close(pair.reader);
        FAILS(way.read(pair.reader, &byte, 1), EBADF);
        send_byte(other.writer, 'p');
        EXPECT_EQ(OK(dup(other.reader)), pair.reader);
        expect_byte(way, pair.reader, 'p');
        expect_empty(way, pair.reader);
        OK(syscall(SYS_close_range, pair.reader, pair.reader, 0));
        FAILS(way.read(pair.reader, &byte, 1), EBADF);
        // The same bits at the end.
        expect_empty(way, other.reader);
        FAILS(way.read(other.reader + (1 << 15), &byte, 1), EBADF);
        FAILS(way.read(other.reader + (1 << 23), &byte, 1), EBADF);
        FAILS(way.read(other.reader + 8, &byte, 1), EBADF);
    });
}

CASE(another_thread_closes_it) {
    each_way([](const Way& way, Pair pair) {
        expect_empty(way, pair.reader);
        pthread_t thread;
        OK(pthread_create(
            &thread, nullptr,
            [](void* fd) -> void* {
                close(*(int*)fd);
                return nullptr;
            },
            &pair.reader));
        pthread_join(thread, nullptr);
        char byte;
        FAILS(way.read(pair.reader, &byte, 1), EBADF);
    });
}

CASE(another_process_makes_it_wait) {
    each_way([](const Way& way, Pair pair) {
        expect_empty(way, pair.reader);
        in_child([&] { OK(fcntl(pair.reader, F_SETFL, 0)); });
        const pid_t writer = child([&] {
            sleep_ms(30);
            send_byte(pair.writer, 'w');
        });
        expect_byte(way, pair.reader, 'w');
        EXPECT_EXIT(writer, 0);
        OK(fcntl(pair.reader, F_SETFL, O_NONBLOCK));
        expect_empty(way, pair.reader);
        int off = 0;
        OK(ioctl(pair.reader, FIONBIO, &off));
        const pid_t second = child([&] {
            sleep_ms(30);
            send_byte(pair.writer, 'v');
        });
        expect_byte(way, pair.reader, 'v');
        EXPECT_EXIT(second, 0);
    });
}

CASE(other_readers_are_told_for_themselves) {
    each_way([](const Way& way, Pair pair) {
        expect_empty(way, pair.reader);
        in_child([&] {
            expect_empty(way, pair.reader);
            send_byte(pair.writer, 'c');
            expect_byte(way, pair.reader, 'c');
            expect_empty(way, pair.reader);
            send_byte(pair.writer, 'd');
        });
        expect_byte(way, pair.reader, 'd');
        expect_empty(way, pair.reader);
    });
}

CASE(other_calls_with_it_are_others) {
    const Pair pair = unix_pair();
    char bytes[8];
    expect_empty(kWays[0], pair.reader);
    FAILS_ANY(recv(pair.reader, bytes, 1, MSG_OOB), EINVAL, EOPNOTSUPP);
    FAILS(recv(pair.reader, bytes, 1, MSG_PEEK), EAGAIN);
    for (int i = 0; i < kOften; ++i) EXPECT_EQ(read(pair.reader, bytes, 0), 0);
    EXPECT_EQ(write(pair.reader, bytes, 1), 1);
    expect_byte(kWays[0], pair.writer, bytes[0]);
    // Many at once: more than may be told beforehand.
    Pair pairs[40];
    for (Pair& one : pairs) one = unix_pair();
    for (int round = 0; round < 20; ++round) {
        for (Pair& one : pairs)
            for (int i = 0; i < 3; ++i) FAILS(recv(one.reader, bytes, 1, 0), EAGAIN);
        for (Pair& one : pairs) send_byte(one.writer, (char)round);
        for (Pair& one : pairs) expect_byte(kWays[0], one.reader, (char)round);
    }
}

CASE(a_filter_that_came_late_is_asked) {
    for (int number : {SYS_recvfrom, SYS_read})
        in_child([&] {
            const Way& way = kWays[number == SYS_read ? 1 : 0];
            const Pair pair = unix_pair();
            expect_empty(way, pair.reader);
            sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                                  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
            sock_fprog program{4, code};
            OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
            OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
            char byte;
            for (int i = 0; i < kOften; ++i) FAILS(way.read(pair.reader, &byte, 1), EXDEV);
        });
}
