// A stream that was read until it was empty, or a file whose end was gone to, so often that a kernel may say so
// beforehand: it must not say so once there is something to read, the file is longer or shorter, its position
// elsewhere, or once the descriptor means something else.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstring>

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

// Who is told by poll or epoll what to read may be given it beforehand: all of it once, and in order.
CASE(what_was_polled_for_is_read_once) {
    constexpr unsigned kRounds = 3'000;
    constexpr int kPairs = 4;
    struct Message {
        unsigned number;
        char filling[300];
    };
    auto size_of = [](unsigned number) { return sizeof(unsigned) + number % 280; };
    auto expect = [&](const Message& message, ssize_t size, unsigned wanted) {
        EXPECT_EQ(message.number, wanted);
        EXPECT_EQ((size_t)size, size_of(wanted));
    };
    Pair pairs[kPairs];
    pid_t servers[kPairs];
    for (int i = 0; i < kPairs; ++i) {
        pairs[i] = unix_pair();
        servers[i] = child([&] {
            const int epoll = OK(epoll_create1(0));
            epoll_event event{EPOLLIN, {}};
            OK(epoll_ctl(epoll, EPOLL_CTL_ADD, pairs[i].reader, &event));
            for (unsigned round = 0; round < kRounds;) {
                Message message{};
                const ssize_t size = recv(pairs[i].reader, &message, sizeof(message), 0);
                if (size < 0) {
                    EXPECT_EQ(errno, EAGAIN);
                    EXPECT_EQ(OK(epoll_wait(epoll, &event, 1, 20'000)), 1);
                    continue;
                }
                expect(message, size, round++);
                EXPECT_EQ(OK(send(pairs[i].reader, &message, (size_t)size, 0)), size);
            }
        });
    }
    pollfd polled[kPairs];
    unsigned rounds[kPairs] = {};
    Message message{};
    for (int i = 0; i < kPairs; ++i) {
        polled[i] = {pairs[i].writer, POLLIN, 0};
        OK(send(pairs[i].writer, &message, size_of(0), 0));
    }
    for (int left = kPairs; left > 0;) {
        EXPECT(OK(poll(polled, kPairs, 20'000)) > 0);
        for (int i = 0; i < kPairs; ++i) {
            if ((polled[i].revents & POLLIN) == 0) continue;
            // Every now and then it is read in two parts, or by another call.
            message = {};
            ssize_t size = 0;
            if (rounds[i] % 5 == 3) size = OK(recv(polled[i].fd, &message, 2, 0));
            if (rounds[i] % 7 == 6) FAILS(recv(polled[i].fd, (void*)1, 300, 0), EFAULT);
            size += rounds[i] % 3 == 2
                        ? OK(read(polled[i].fd, (char*)&message + size, sizeof(message) - (size_t)size))
                        : OK(recv(polled[i].fd, (char*)&message + size, sizeof(message) - (size_t)size, 0));
            expect(message, size, rounds[i]);
            if (++rounds[i] == kRounds) {
                polled[i].fd = -1;
                --left;
                continue;
            }
            message.number = rounds[i];
            OK(send(polled[i].fd, &message, size_of(rounds[i]), 0));
        }
    }
    for (const pid_t pid : servers) EXPECT_EXIT(pid, 0);
}

CASE(an_edge_is_never_lost) {
    for (const Pair pair : {unix_pair(), tcp_pair()}) {
        constexpr int kBytes = 3'000;
        const pid_t pid = child([&] {
            for (int i = 0; i < kBytes; ++i) {
                const char byte = (char)i;
                while (write(pair.writer, &byte, 1) != 1) {
                    EXPECT_EQ(errno, EAGAIN);  // no more room
                    sched_yield();
                }
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

namespace {

void expect_end(int fd, off_t end) {
    for (int i = 0; i < kOften; ++i) EXPECT_EQ(lseek(fd, 0, SEEK_END), end);
}
int file_of(const char* path, const char* content) {
    const int fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC, 0644));
    EXPECT_EQ(write(fd, content, strlen(content)), strlen(content));
    return fd;
}

}  // namespace

CASE(the_end_of_a_file_moves) {
    const int fd = file_of("f", "12345"), other = OK(open("f", O_RDWR | O_APPEND));
    expect_end(fd, 5);
    for (off_t size = 5; size < 50; ++size) {
        EXPECT_EQ(lseek(fd, 0, SEEK_END), size);
        if (size % 3 == 0) send_byte(fd, 'a');
        if (size % 3 == 1) send_byte(other, 'b');
        if (size % 3 == 2) EXPECT_EQ(pwrite(other, "c", 1, size), 1);
        EXPECT_EQ(lseek(fd, 0, SEEK_END), size + 1);
        EXPECT_EQ(lseek(fd, 0, SEEK_END), size + 1);
    }
    expect_end(fd, 50);
    OK(ftruncate(other, 7));
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 7);
    expect_end(fd, 7);
    OK(truncate("f", 9));
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 9);
    expect_end(fd, 9);
    close(OK(open("f", O_WRONLY | O_TRUNC)));
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 0);
    expect_end(fd, 0);
    in_child([&] { send_byte(other, 'd'); });
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 1);
}

CASE(the_position_is_at_the_end) {
    const int fd = file_of("f", "12345"), twin = OK(dup(fd));
    char byte = 0;
    for (int fd_moved : {fd, twin}) {
        expect_end(fd, 5);
        EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 5);
        EXPECT_EQ(read(fd, &byte, 1), 0);
        EXPECT_EQ(lseek(fd_moved, 1, SEEK_SET), 1);
        EXPECT_EQ(lseek(fd, 0, SEEK_END), 5);
        EXPECT_EQ(lseek(fd_moved, 0, SEEK_CUR), 5);
        EXPECT_EQ(lseek(fd_moved, -2, SEEK_END), 3);
        EXPECT_EQ(read(fd, &byte, 1), 1);
        EXPECT_EQ(byte, '4');
        expect_end(fd, 5);
        in_child([&] { EXPECT_EQ(lseek(fd_moved, 2, SEEK_SET), 2); });
        EXPECT_EQ(read(fd, &byte, 1), 1);
        EXPECT_EQ(byte, '3');
    }
    expect_end(fd, 5);
    send_byte(fd, '6');
    EXPECT_EQ(pread(fd, &byte, 1, 5), 1);
    EXPECT_EQ(byte, '6');
    // Other seeks with it are others.
    expect_end(fd, 6);
    EXPECT_EQ(lseek(fd, 1, SEEK_END), 7);
    expect_end(fd, 6);
    EXPECT_EQ(lseek(fd, 0, SEEK_SET), 0);
    expect_end(fd, 6);
    FAILS(lseek(fd, 0, 77), EINVAL);
    FAILS(lseek(fd, -7, SEEK_END), EINVAL);
    EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 6);
}

CASE(a_files_number_comes_to_mean_something_else) {
    const int fd = file_of("f", "12345"), other = file_of("g", "123");
    expect_end(fd, 5);
    OK(dup2(other, fd));
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 3);
    expect_end(fd, 3);
    close(fd);
    FAILS(lseek(fd, 0, SEEK_END), EBADF);
    int ends[2];
    OK(pipe(ends));
    EXPECT_EQ(ends[0], fd);
    FAILS(lseek(fd, 0, SEEK_END), ESPIPE);
    expect_end(other, 3);
    FAILS(lseek(other + 8, 0, SEEK_END), EBADF);
    FAILS(lseek(other + (1 << 15), 0, SEEK_END), EBADF);
}

CASE(two_lengthen_a_file_and_go_to_its_end) {
    // Who has been told that something was written sees it.
    const int fd = file_of("f", "");
    int turns[2][2];
    OK(pipe(turns[0]));
    OK(pipe(turns[1]));
    constexpr int kTurns = 1'000;
    auto take_turns = [&](int in, int out) {
        const int own = OK(open("f", O_RDWR));
        char turn;
        off_t end = 0;
        for (int i = 0; i < kTurns; ++i) {
            EXPECT_EQ(OK(read(in, &turn, 1)), 1);
            const off_t now = OK(lseek(own, 0, SEEK_END));
            EXPECT(i == 0 || now == end + 1);
            for (int known : {own, own, fd, fd}) EXPECT_EQ(lseek(known, 0, SEEK_END), now);
            EXPECT_EQ(pwrite(own, "x", 1, now), 1);
            end = now + 1;
            for (int known : {own, own, fd, fd}) EXPECT_EQ(lseek(known, 0, SEEK_END), end);
            send_byte(out, 't');
        }
    };
    const pid_t pid = child([&] { take_turns(turns[0][0], turns[1][1]); });
    send_byte(turns[0][1], 't');
    take_turns(turns[1][0], turns[0][1]);
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 2 * kTurns);
}
