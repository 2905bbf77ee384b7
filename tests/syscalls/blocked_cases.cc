// Calls that block while others wake, interrupt, stop or kill who waits in them: nothing is lost, whoever is first.
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <linux/futex.h>

#include <atomic>
#include <vector>

#include "case.h"

struct Pair {
    explicit Pair(bool sockets) {
        if (sockets) {
            int both[2];
            OK(socketpair(AF_UNIX, SOCK_STREAM, 0, both));
            in = both[0], out = both[1];
        } else {
            int ends[2];
            OK(pipe(ends));
            in = ends[0], out = ends[1];
        }
    }
    int in, out;
};
static std::atomic<int> handled;
static void note(int) { handled = handled + 1; }
static void handle(int number, int flags) {
    struct sigaction action {};
    action.sa_handler = note;
    action.sa_flags = flags;
    OK(sigaction(number, &action, nullptr));
}
static void run(pthread_t& thread, void* (*body)(void*), void* argument) {
    EXPECT_EQ(pthread_create(&thread, nullptr, body, argument), 0);
}

// Numbers go through in order although the reader is hit by signals all the time.
static void stream_under_signals(bool sockets) {
    constexpr int kNumbers = 3000;
    Pair p(sockets);
    handle(SIGUSR1, SA_RESTART);
    pid_t reader = child([&] {
        close(p.out);
        for (int i = 0; i < kNumbers; ++i) {
            int got = -1;
            EXPECT_EQ(read(p.in, &got, sizeof got), (ssize_t)sizeof got);
            EXPECT_EQ(got, i);
        }
        char rest;
        EXPECT_EQ(read(p.in, &rest, 1), 0);
        EXPECT(handled > 0);
    });
    close(p.in);
    for (int i = 0; i < kNumbers; ++i) {
        if (i % 3 == 0) kill(reader, SIGUSR1);
        EXPECT_EQ(write(p.out, &i, sizeof i), (ssize_t)sizeof i);
        if (i % 7 == 0) kill(reader, SIGUSR1);
        if (i % 500 == 499) sleep_ms(2);
    }
    close(p.out);
    EXPECT_EXIT(reader, 0);
}
CASE(pipe_stream_under_signals) { stream_under_signals(false); }
CASE(socket_stream_under_signals) { stream_under_signals(true); }

CASE(read_without_restart_is_interrupted) {
    for (bool sockets : {false, true}) {
        Pair p(sockets);
        handle(SIGUSR1, 0);
        pid_t reader = child([&] {
            char c;
            FAILS(read(p.in, &c, 1), EINTR);
            EXPECT_EQ(read(p.in, &c, 1), 1);
        });
        EXPECT(reaches_state(reader, "S"));
        kill(reader, SIGUSR1);
        sleep_ms(20);
        OK(write(p.out, "x", 1));
        EXPECT_EXIT(reader, 0);
    }
}

CASE(many_readers_of_one_pipe) {
    constexpr int kReaders = 8, kBytes = 400;
    Pair p(false);
    std::vector<pid_t> readers;
    for (int i = 0; i < kReaders; ++i)
        readers.push_back(child([&] {
            close(p.out);
            char c;
            int got = 0;
            while (read(p.in, &c, 1) == 1) ++got;
            _exit(got > 250 ? 250 : got);
        }));
    close(p.in);
    for (int i = 0; i < kBytes; ++i) {
        OK(write(p.out, "x", 1));
        if (i % 50 == 0) sleep_ms(1);
    }
    close(p.out);
    int total = 0;
    for (pid_t pid : readers) {
        int status = wait_for(pid);
        EXPECT(WIFEXITED(status));
        total += WEXITSTATUS(status);
    }
    EXPECT(total >= 250);  // all bytes, unless one reader took more than its status can tell
}

CASE(reader_is_killed_while_it_waits) {
    for (int i = 0; i < 30; ++i) {
        Pair p(i % 2);
        pid_t reader = child([&] {
            char c;
            (void)!read(p.in, &c, 1);
            pause();
        });
        if (i % 3) EXPECT(reaches_state(reader, "S"));
        if (i % 5 == 0) OK(write(p.out, "x", 1));
        kill(reader, SIGKILL);
        EXPECT_SIGNAL(reader, SIGKILL);
    }
}

CASE(reader_is_stopped_and_continued) {
    Pair p(false);
    pid_t reader = child([&] {
        char c;
        EXPECT_EQ(read(p.in, &c, 1), 1);
        EXPECT_EQ(c, 'y');
    });
    EXPECT(reaches_state(reader, "S"));
    kill(reader, SIGSTOP);
    EXPECT(reaches_state(reader, "T"));
    OK(write(p.out, "y", 1));
    sleep_ms(20);
    EXPECT_EQ(waitpid(reader, nullptr, WNOHANG), 0);
    kill(reader, SIGCONT);
    EXPECT_EXIT(reader, 0);
}

static void* read_for_ever(void* fd) {
    char c;
    while (read(*(int*)fd, &c, 1) == 1) {
    }
    return nullptr;
}
CASE(exit_while_threads_wait) {
    for (int i = 0; i < 10; ++i) {
        pid_t pid = child([&] {
            Pair p(i % 2);
            pthread_t threads[4];
            for (pthread_t& thread : threads) run(thread, read_for_ever, &p.in);
            if (i % 3) sleep_ms(5);
            OK(write(p.out, "abc", 3));
            _exit(7);
        });
        EXPECT_EXIT(pid, 7);
    }
}
CASE(exec_while_threads_wait) {
    for (int i = 0; i < 4; ++i) {
        pid_t pid = child([&] {
            Pair p(i % 2);
            pthread_t threads[3];
            for (pthread_t& thread : threads) run(thread, read_for_ever, &p.in);
            sleep_ms(5);
            OK(write(p.out, "abc", 3));
            execl("/bin/sh", "sh", "-c", "exit 9", nullptr);
        });
        EXPECT_EXIT(pid, 9);
    }
}
// The tasks that wait are woken by one that never waits itself.
CASE(readers_of_a_busy_writer) {
    Pair p(false), back(false);
    pid_t reader = child([&] {
        char c;
        EXPECT_EQ(read(p.in, &c, 1), 1);
        OK(write(back.out, &c, 1));
    });
    EXPECT(reaches_state(reader, "S"));
    OK(write(p.out, "x", 1));
    pollfd watch{back.in, POLLIN, 0};
    for (uint64_t until = now_ns() + 10000000000; now_ns() < until && poll(&watch, 1, 0) == 0;) {
    }
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EXIT(reader, 0);
}

// A wake-up that somebody else used up does not make the time-out start again.
struct Disturbed {
    int event, epoll;
    std::atomic<bool> over{false};
};
static void* disturb(void* argument) {
    auto* it = (Disturbed*)argument;
    for (int i = 0; i < 400 && !it->over; ++i) {
        uint64_t one = 1;
        (void)!write(it->event, &one, sizeof one);
        (void)!read(it->event, &one, sizeof one);
        sleep_ms(10);
    }
    return nullptr;
}
CASE(epoll_time_out_is_not_extended) {
    Disturbed it;
    it.event = OK(eventfd(0, EFD_NONBLOCK));
    it.epoll = OK(epoll_create1(0));
    epoll_event event{};
    event.events = EPOLLIN;
    OK(epoll_ctl(it.epoll, EPOLL_CTL_ADD, it.event, &event));
    pthread_t thread;
    run(thread, disturb, &it);
    uint64_t before = now_ns();
    int got;
    do {
        got = OK(epoll_wait(it.epoll, &event, 1, 200));
    } while (got != 0 && now_ns() < before + 3000000000);
    // Either the disturber was seen all the time, or the time-out came while it was still at work.
    EXPECT(got != 0 || !it.over);
    EXPECT(now_ns() - before >= 190000000);
    it.over = true;
    pthread_join(thread, nullptr);
}
CASE(epoll_time_out_is_never_early) {
    int epoll = OK(epoll_create1(0));
    for (int length : {1, 5, 30}) {
        uint64_t before = now_ns();
        epoll_event event;
        EXPECT_EQ(epoll_wait(epoll, &event, 1, length), 0);
        EXPECT(now_ns() - before >= (uint64_t)length * 1000000);
    }
}

// ---- futexes

static uint32_t turn_word;
static std::atomic<int> turns_taken;
static long futex(uint32_t* word, int operation, uint32_t value, const timespec* timeout = nullptr) {
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, timeout, nullptr, 0);
}
constexpr int kTakers = 6, kTurns = 1200;
static void* take_turns(void* argument) {
    long me = (long)argument;
    for (;;) {
        uint32_t now = __atomic_load_n(&turn_word, __ATOMIC_SEQ_CST);
        if (now >= kTurns) break;
        if ((long)(now % kTakers) == me) {
            ++turns_taken;
            __atomic_store_n(&turn_word, now + 1, __ATOMIC_SEQ_CST);
            futex(&turn_word, FUTEX_WAKE, INT32_MAX);
        } else {
            timespec patience{5, 0};
            futex(&turn_word, FUTEX_WAIT, now, me % 2 ? &patience : nullptr);
        }
    }
    futex(&turn_word, FUTEX_WAKE, INT32_MAX);
    return nullptr;
}
CASE(futex_turns_of_many_threads) {
    turn_word = 0;
    turns_taken = 0;
    handle(SIGUSR2, SA_RESTART);
    pthread_t threads[kTakers];
    for (long i = 0; i < kTakers; ++i) run(threads[i], take_turns, (void*)i);
    while (__atomic_load_n(&turn_word, __ATOMIC_SEQ_CST) < kTurns) {
        for (pthread_t thread : threads) pthread_kill(thread, SIGUSR2);
        sleep_ms(1);
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
    EXPECT_EQ(turns_taken, kTurns);
}
static std::atomic<long> slept;
static void* sleep_on_word(void*) {
    static uint32_t word;
    timespec patience{0, 30000000};
    slept = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &patience, nullptr, 0) == -1 ? errno : 0;
    return nullptr;
}
CASE(futex_time_out_in_a_thread) {
    slept = -1;
    pthread_t thread;
    uint64_t before = now_ns();
    run(thread, sleep_on_word, nullptr);
    pthread_join(thread, nullptr);
    EXPECT_EQ(slept, ETIMEDOUT);
    EXPECT(now_ns() - before >= 30000000);
}
CASE(futex_wake_counts_waiters_that_wait) {
    static uint32_t word;
    pthread_t threads[3];
    static std::atomic<int> woken;
    for (pthread_t& thread : threads)
        run(
            thread,
            [](void*) -> void* {
                while (futex(&word, FUTEX_WAIT, 0) != 0) {
                }
                ++woken;
                return nullptr;
            },
            nullptr);
    long total = 0;
    while (total < 3) {
        total += futex(&word, FUTEX_WAKE, 1);
        sleep_ms(1);
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
    EXPECT_EQ(woken, 3);
    EXPECT_EQ(total, 3);
}
CASE(wait4_sees_children_in_any_order) {
    for (int round = 0; round < 5; ++round) {
        std::vector<pid_t> pids;
        for (int i = 0; i < 6; ++i)
            pids.push_back(child([&] {
                if (i % 2) sleep_ms(i);
                _exit(40 + i);
            }));
        int seen = 0, sum = 0, status;
        while (waitpid(-1, &status, 0) > 0) {
            EXPECT(WIFEXITED(status));
            sum += WEXITSTATUS(status);
            ++seen;
        }
        EXPECT_EQ(errno, ECHILD);
        EXPECT_EQ(seen, 6);
        EXPECT_EQ(sum, 6 * 40 + 15);
    }
}

// ---- poll and accept

CASE(poll_of_several_pipes) {
    constexpr int kRounds = 600;
    int ends[3][2], back[2];
    for (auto& pair : ends) OK(pipe(pair));
    OK(pipe(back));
    pid_t poller = child([&] {
        for (int i = 0; i < kRounds; ++i) {
            pollfd watch[] = {{ends[0][0], POLLIN, 0}, {ends[1][0], POLLIN, 0}, {ends[2][0], POLLIN, 0}};
            EXPECT_EQ(poll(watch, 3, i % 2 ? -1 : 20000), 1);
            EXPECT_EQ(watch[i % 3].revents, POLLIN);
            char c;
            EXPECT_EQ(read(ends[i % 3][0], &c, 1), 1);
            EXPECT_EQ(write(back[1], &c, 1), 1);
        }
    });
    for (int i = 0; i < kRounds; ++i) {
        char c = 'p';
        EXPECT_EQ(write(ends[i % 3][1], &c, 1), 1);
        EXPECT_EQ(read(back[0], &c, 1), 1);
        if (i % 200 == 0) sleep_ms(5);
    }
    EXPECT_EXIT(poller, 0);
}
CASE(poll_time_out_over_a_stop) {
    int ends[2];
    OK(pipe(ends));
    pid_t poller = child([&] {
        pollfd watch{ends[0], POLLIN, 0};
        uint64_t before = now_ns();
        EXPECT_EQ(poll(&watch, 1, 150), 0);
        EXPECT(now_ns() - before >= 150000000);
    });
    EXPECT(reaches_state(poller, "S"));
    kill(poller, SIGSTOP);
    sleep_ms(20);
    kill(poller, SIGCONT);
    EXPECT_EXIT(poller, 0);
}
CASE(poll_is_interrupted) {
    int ends[2];
    OK(pipe(ends));
    handle(SIGUSR1, SA_RESTART);
    pid_t poller = child([&] {
        pollfd watch{ends[0], POLLIN, 0};
        FAILS(poll(&watch, 1, -1), EINTR);
    });
    EXPECT(reaches_state(poller, "S"));
    kill(poller, SIGUSR1);
    EXPECT_EXIT(poller, 0);
}
CASE(accept_waits_for_each_connection) {
    int listener = OK(socket(AF_UNIX, SOCK_STREAM, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, "s");
    OK(bind(listener, (sockaddr*)&address, sizeof address));
    OK(listen(listener, 4));
    pid_t server = child([&] {
        for (int i = 0; i < 50; ++i) {
            int fd = OK(accept(listener, nullptr, nullptr));
            char c;
            EXPECT_EQ(read(fd, &c, 1), 1);
            EXPECT_EQ(write(fd, &c, 1), 1);
            close(fd);
        }
    });
    for (int i = 0; i < 50; ++i) {
        int fd = OK(socket(AF_UNIX, SOCK_STREAM, 0));
        OK(connect(fd, (sockaddr*)&address, sizeof address));
        char c = 'a' + i % 20, got = 0;
        EXPECT_EQ(write(fd, &c, 1), 1);
        EXPECT_EQ(read(fd, &got, 1), 1);
        EXPECT_EQ(got, c);
        EXPECT_EQ(read(fd, &got, 1), 0);
        close(fd);
    }
    EXPECT_EXIT(server, 0);
}
