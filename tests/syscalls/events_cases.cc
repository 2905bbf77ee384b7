// poll, select, epoll, eventfd, signalfd, inotify: who is ready, and who is told.
#include <dirent.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <vector>

#include "case.h"

struct Pipe {
    Pipe() { OK(pipe(ends)); }
    int ends[2];
    int in() const { return ends[0]; }
    int out() const { return ends[1]; }
};
static int add(int epoll, int fd, uint32_t events, uint64_t data = 0) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data ? data : fd;
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}
static std::vector<epoll_event> ready(int epoll, int timeout = 0, int most = 16) {
    std::vector<epoll_event> events(most);
    events.resize(OK(epoll_wait(epoll, events.data(), most, timeout)));
    return events;
}

// ---- poll and select

CASE(poll_many) {
    Pipe a, b;
    OK(write(b.out(), "x", 1));
    pollfd watch[] = {{a.in(), POLLIN, 0}, {b.in(), POLLIN, 0}, {-1, POLLIN, 0}, {a.out(), POLLOUT, 0}};
    EXPECT_EQ(poll(watch, 4, 0), 2);
    EXPECT_EQ(watch[0].revents, 0);
    EXPECT_EQ(watch[1].revents, POLLIN);
    EXPECT_EQ(watch[2].revents, 0);
    EXPECT_EQ(watch[3].revents, POLLOUT);
}
CASE(poll_invalid_descriptor) {
    pollfd watch{500, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(watch.revents, POLLNVAL);
}
CASE(poll_regular_file) {
    pollfd watch{OK(open("f", O_RDWR | O_CREAT, 0600)), POLLIN | POLLOUT, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(watch.revents, POLLIN | POLLOUT);
}
CASE(poll_woken) {
    Pipe p;
    pid_t pid = child([&] {
        pollfd watch{p.in(), POLLIN, 0};
        EXPECT_EQ(poll(&watch, 1, -1), 1);
    });
    EXPECT(reaches_state(pid, "S"));
    OK(write(p.out(), "x", 1));
    EXPECT_EXIT(pid, 0);
}
CASE(poll_errors) {
    FAILS(poll((pollfd*)bad(), 1, 0), EFAULT);
    FAILS(poll((pollfd*)scratch(), 10000000, 0), EINVAL);
    timespec wrong{0, 2000000000};
    FAILS(ppoll(nullptr, 0, &wrong, nullptr), EINVAL);
}
CASE(poll_interrupted_even_with_restart) {
    pid_t pid = child([] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        action.sa_flags = SA_RESTART;
        OK(sigaction(SIGUSR1, &action, nullptr));
        FAILS(poll(nullptr, 0, 5000), EINTR);
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(kill(pid, SIGUSR1));
    EXPECT_EXIT(pid, 0);
}
CASE(ppoll_mask) {
    static volatile int got;
    signal(SIGUSR1, [](int number) { got = number; });
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGUSR1);
    timespec wait{1, 0};
    FAILS(ppoll(nullptr, 0, &wait, &none), EINTR);
    EXPECT_EQ(got, SIGUSR1);
}
CASE(select_ready) {
    Pipe a, b;
    OK(write(a.out(), "x", 1));
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(a.in(), &in);
    FD_SET(b.in(), &in);
    FD_SET(b.out(), &out);
    timeval none{};
    EXPECT_EQ(select(b.out() + 1, &in, &out, nullptr, &none), 2);
    EXPECT(FD_ISSET(a.in(), &in) && !FD_ISSET(b.in(), &in) && FD_ISSET(b.out(), &out));
}
CASE(select_updates_timeout) {
    timeval left{5, 0};
    Pipe p;
    OK(write(p.out(), "x", 1));
    fd_set in;
    FD_ZERO(&in);
    FD_SET(p.in(), &in);
    EXPECT_EQ(syscall(SYS_select, p.in() + 1, &in, 0, 0, &left), 1);
    EXPECT(left.tv_sec <= 5);
    left = {0, 2000};
    FD_ZERO(&in);
    EXPECT_EQ(syscall(SYS_select, 0, 0, 0, 0, &left), 0);
    EXPECT(left.tv_sec == 0 && left.tv_usec == 0);
}
CASE(select_errors) {
    fd_set in;
    FD_ZERO(&in);
    FD_SET(500, &in);
    timeval none{};
    FAILS(select(501, &in, nullptr, nullptr, &none), EBADF);
    FAILS(select(-1, nullptr, nullptr, nullptr, &none), EINVAL);
    timeval wrong{-1, 0};
    FAILS(syscall(SYS_select, 0, 0, 0, 0, &wrong), EINVAL);
    FAILS(syscall(SYS_select, 10, bad(), 0, 0, &none), EFAULT);
}
CASE(pselect_times_out) {
    timespec soon{0, 5000000};
    EXPECT_EQ(pselect(0, nullptr, nullptr, nullptr, &soon, nullptr), 0);
}

// ---- epoll

CASE(epoll_level) {
    Pipe p;
    int ep = OK(epoll_create1(EPOLL_CLOEXEC));
    EXPECT_EQ(fcntl(ep, F_GETFD), FD_CLOEXEC);
    OK(add(ep, p.in(), EPOLLIN, 42));
    EXPECT_EQ(ready(ep).size(), 0);
    OK(write(p.out(), "xy", 2));
    for (int i = 0; i < 3; ++i) {
        auto events = ready(ep);
        EXPECT_EQ(events.size(), 1);
        EXPECT_EQ(events[0].data.u64, 42);
        EXPECT_EQ(events[0].events, EPOLLIN);
    }
    OK(read(p.in(), scratch(), 10));
    EXPECT_EQ(ready(ep).size(), 0);
}
CASE(epoll_edge) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN | EPOLLET));
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(ep).size(), 1);
    EXPECT_EQ(ready(ep).size(), 0);
    OK(write(p.out(), "y", 1));
    EXPECT_EQ(ready(ep).size(), 1);
}
CASE(epoll_edge_reports_initial_state) {
    Pipe p;
    OK(write(p.out(), "x", 1));
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN | EPOLLET));
    EXPECT_EQ(ready(ep).size(), 1);
    EXPECT_EQ(ready(ep).size(), 0);
    epoll_event event{EPOLLIN | EPOLLET, {}};
    OK(epoll_ctl(ep, EPOLL_CTL_MOD, p.in(), &event));
    EXPECT_EQ(ready(ep).size(), 1);
}
CASE(epoll_oneshot) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN | EPOLLONESHOT));
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(ep).size(), 1);
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(ep).size(), 0);
    epoll_event event{EPOLLIN | EPOLLONESHOT, {}};
    OK(epoll_ctl(ep, EPOLL_CTL_MOD, p.in(), &event));
    EXPECT_EQ(ready(ep).size(), 1);
}
CASE(epoll_exclusive) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN | EPOLLEXCLUSIVE));
    epoll_event event{EPOLLIN, {}};
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, p.in(), &event), EINVAL);
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(ep).size(), 1);
}
CASE(epoll_modify_and_delete) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), 0));
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(ep).size(), 0);
    epoll_event event{EPOLLIN, {}};
    OK(epoll_ctl(ep, EPOLL_CTL_MOD, p.in(), &event));
    EXPECT_EQ(ready(ep).size(), 1);
    OK(epoll_ctl(ep, EPOLL_CTL_DEL, p.in(), nullptr));
    EXPECT_EQ(ready(ep).size(), 0);
}
CASE(epoll_hangup_always) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), 0));
    close(p.out());
    auto events = ready(ep);
    EXPECT_EQ(events.size(), 1);
    EXPECT_EQ(events[0].events, EPOLLHUP);
}
CASE(epoll_rdhup) {
    int ends[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    int ep = OK(epoll_create1(0));
    OK(add(ep, ends[0], EPOLLIN | EPOLLRDHUP));
    OK(shutdown(ends[1], SHUT_WR));
    auto events = ready(ep);
    EXPECT_EQ(events.size(), 1);
    EXPECT_EQ(events[0].events, EPOLLIN | EPOLLRDHUP);
}
CASE(epoll_close_removes) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN));
    OK(write(p.out(), "x", 1));
    close(p.in());
    EXPECT_EQ(ready(ep).size(), 0);
}
CASE(epoll_dup_keeps) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN));
    OK(write(p.out(), "x", 1));
    int copy = OK(dup(p.in()));
    close(p.in());
    EXPECT_EQ(ready(ep).size(), 1);
    (void)copy;
}
CASE(epoll_errors) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    epoll_event event{EPOLLIN, {}};
    FAILS(epoll_create1(77), EINVAL);
    FAILS(syscall(SYS_epoll_create, 0), EINVAL);
    OK(syscall(SYS_epoll_create, 1));
    OK(add(ep, p.in(), EPOLLIN));
    FAILS(add(ep, p.in(), EPOLLIN), EEXIST);
    FAILS(epoll_ctl(ep, EPOLL_CTL_MOD, p.out(), &event), ENOENT);
    FAILS(epoll_ctl(ep, EPOLL_CTL_DEL, p.out(), &event), ENOENT);
    FAILS(epoll_ctl(ep, 77, p.in(), &event), EINVAL);
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, 500, &event), EBADF);
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &event), EINVAL);
    FAILS(epoll_ctl(p.in(), EPOLL_CTL_ADD, p.out(), &event), EINVAL);
    FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, p.out(), (epoll_event*)bad()), EFAULT);
    FAILS(add(ep, OK(open("f", O_RDWR | O_CREAT, 0600)), EPOLLIN), EPERM);
    FAILS(epoll_wait(ep, &event, 0, 0), EINVAL);
    FAILS(epoll_wait(ep, &event, -1, 0), EINVAL);
    FAILS(epoll_wait(-1, &event, 1, 0), EBADF);
    FAILS(epoll_wait(p.in(), &event, 1, 0), EINVAL);
    OK(write(p.out(), "x", 1));
    FAILS(epoll_wait(ep, (epoll_event*)bad(), 1, 0), EFAULT);
}
CASE(epoll_nested) {
    Pipe p;
    int inner = OK(epoll_create1(0)), outer = OK(epoll_create1(0));
    OK(add(inner, p.in(), EPOLLIN));
    OK(add(outer, inner, EPOLLIN));
    EXPECT_EQ(ready(outer).size(), 0);
    OK(write(p.out(), "x", 1));
    EXPECT_EQ(ready(outer).size(), 1);
    FAILS(add(inner, outer, EPOLLIN), ELOOP);
    pollfd watch{inner, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
}
CASE(epoll_most_events_rotates) {
    Pipe pipes[4];
    int ep = OK(epoll_create1(0));
    for (auto& p : pipes) {
        OK(add(ep, p.in(), EPOLLIN));
        OK(write(p.out(), "x", 1));
    }
    EXPECT_EQ(ready(ep, 0, 3).size(), 3);
    uint64_t seen = 0;
    for (int i = 0; i < 4; ++i) seen |= 1ull << ready(ep, 0, 1)[0].data.u64;
    EXPECT_EQ(__builtin_popcountll(seen), 4);
}
CASE(epoll_woken_by_thread) {
    static Pipe* p;
    p = new Pipe;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p->in(), EPOLLIN));
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            sleep_ms(20);
            write(p->out(), "x", 1);
            return nullptr;
        },
        nullptr);
    EXPECT_EQ(ready(ep, 5000).size(), 1);
    pthread_join(thread, nullptr);
}
CASE(epoll_timeout_lasts) {
    int ep = OK(epoll_create1(0));
    uint64_t start = now_ns();
    EXPECT_EQ(ready(ep, 20).size(), 0);
    EXPECT(now_ns() - start >= 19000000);
}
CASE(epoll_pwait_mask) {
    static volatile int got;
    signal(SIGUSR1, [](int number) { got = number; });
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGUSR1);
    epoll_event event;
    int ep = OK(epoll_create1(0));
    FAILS(epoll_pwait(ep, &event, 1, 1000, &none), EINTR);
    EXPECT_EQ(got, SIGUSR1);
}
CASE(epoll_pwait2_timespec) {
    epoll_event event;
    timespec soon{0, 2000000};
    EXPECT_EQ(syscall(SYS_epoll_pwait2, OK(epoll_create1(0)), &event, 1, &soon, 0, 8), 0);
}
CASE(epoll_over_fork) {
    Pipe p;
    int ep = OK(epoll_create1(0));
    OK(add(ep, p.in(), EPOLLIN));
    in_child([&] {
        OK(write(p.out(), "x", 1));
        EXPECT_EQ(ready(ep).size(), 1);
    });
    EXPECT_EQ(ready(ep).size(), 1);
}
CASE(epoll_writable_edge) {
    Pipe p;
    OK(fcntl(p.out(), F_SETFL, O_NONBLOCK));
    int ep = OK(epoll_create1(0));
    while (write(p.out(), scratch(), 4096) > 0) {
    }
    OK(add(ep, p.out(), EPOLLOUT | EPOLLET));
    EXPECT_EQ(ready(ep).size(), 0);
    OK(read(p.in(), scratch(), 65536));
    EXPECT_EQ(ready(ep).size(), 1);
    EXPECT_EQ(ready(ep).size(), 0);
}

// ---- eventfd

CASE(eventfd_counts) {
    int fd = OK(eventfd(3, EFD_NONBLOCK));
    uint64_t value = 4;
    EXPECT_EQ(write(fd, &value, 8), 8);
    EXPECT_EQ(read(fd, &value, 8), 8);
    EXPECT_EQ(value, 7);
    FAILS(read(fd, &value, 8), EAGAIN);
}
CASE(eventfd_semaphore) {
    int fd = OK(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    uint64_t value;
    for (int i = 0; i < 2; ++i) {
        EXPECT_EQ(read(fd, &value, 8), 8);
        EXPECT_EQ(value, 1);
    }
    FAILS(read(fd, &value, 8), EAGAIN);
}
CASE(eventfd_overflow) {
    int fd = OK(eventfd(0, EFD_NONBLOCK));
    uint64_t value = ~0ull;
    FAILS(write(fd, &value, 8), EINVAL);
    value = ~0ull - 1;
    EXPECT_EQ(write(fd, &value, 8), 8);
    value = 1;
    FAILS(write(fd, &value, 8), EAGAIN);
    pollfd watch{fd, POLLIN | POLLOUT, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(watch.revents, POLLIN);
}
CASE(eventfd_errors) {
    FAILS(eventfd(0, 0x77), EINVAL);
    int fd = OK(eventfd(0, EFD_CLOEXEC));
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    FAILS(read(fd, scratch(), 4), EINVAL);
    FAILS(write(fd, scratch(), 4), EINVAL);
    uint64_t one = 1;
    EXPECT_EQ(write(fd, &one, 8), 8);
    FAILS(read(fd, bad(), 8), EFAULT);
}
CASE(eventfd_wakes_reader) {
    int fd = OK(eventfd(0, 0));
    pid_t pid = child([&] {
        uint64_t value;
        EXPECT_EQ(read(fd, &value, 8), 8);
        EXPECT_EQ(value, 5);
    });
    EXPECT(reaches_state(pid, "S"));
    uint64_t five = 5;
    EXPECT_EQ(write(fd, &five, 8), 8);
    EXPECT_EXIT(pid, 0);
}

// ---- signalfd

static sigset_t one(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    OK(sigprocmask(SIG_BLOCK, &set, nullptr));
    return set;
}
CASE(signalfd_reads) {
    sigset_t set = one(SIGUSR1);
    int fd = OK(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    signalfd_siginfo info{};
    FAILS(read(fd, &info, sizeof info), EAGAIN);
    OK(sigqueue(getpid(), SIGUSR1, sigval{55}));
    pollfd watch{fd, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 1);
    EXPECT_EQ(read(fd, &info, sizeof info), sizeof info);
    EXPECT_EQ(info.ssi_signo, SIGUSR1);
    EXPECT_EQ(info.ssi_pid, getpid());
    EXPECT_EQ(info.ssi_int, 55);
    FAILS(read(fd, &info, sizeof info), EAGAIN);
}
CASE(signalfd_several_at_once) {
    sigset_t set = one(SIGRTMIN);
    int fd = OK(signalfd(-1, &set, 0));
    for (int i = 0; i < 3; ++i) OK(sigqueue(getpid(), SIGRTMIN, sigval{i}));
    signalfd_siginfo info[4];
    EXPECT_EQ(read(fd, info, sizeof info), 3 * sizeof info[0]);
    EXPECT_EQ(info[2].ssi_int, 2);
}
CASE(signalfd_change_mask) {
    sigset_t set = one(SIGUSR1), other = one(SIGUSR2);
    int fd = OK(signalfd(-1, &set, SFD_NONBLOCK));
    EXPECT_EQ(signalfd(fd, &other, 0), fd);
    raise(SIGUSR1);
    signalfd_siginfo info;
    FAILS(read(fd, &info, sizeof info), EAGAIN);
    raise(SIGUSR2);
    EXPECT_EQ(read(fd, &info, sizeof info), sizeof info);
}
CASE(signalfd_child_death_wakes_epoll) {
    sigset_t set = one(SIGCHLD);
    int fd = OK(signalfd(-1, &set, 0)), ep = OK(epoll_create1(0));
    OK(add(ep, fd, EPOLLIN));
    pid_t pid = child([] { sleep_ms(20); });
    EXPECT_EQ(ready(ep, 5000).size(), 1);
    signalfd_siginfo info;
    EXPECT_EQ(read(fd, &info, sizeof info), sizeof info);
    EXPECT_EQ(info.ssi_pid, pid);
    wait_for(pid);
}
CASE(signalfd_errors) {
    sigset_t set = one(SIGUSR1);
    FAILS(signalfd(-1, &set, 0x77), EINVAL);
    FAILS(signalfd(500, &set, 0), EBADF);
    FAILS(signalfd(OK(open("/", O_RDONLY)), &set, 0), EINVAL);
    FAILS(syscall(SYS_signalfd4, -1, &set, 4, 0), EINVAL);
    FAILS_ANY(syscall(SYS_signalfd4, -1, bad(), 8, 0), EFAULT, EINVAL);
    FAILS(read(OK(signalfd(-1, &set, SFD_NONBLOCK)), scratch(), 10), EINVAL);
}

// ---- inotify

static std::vector<std::pair<uint32_t, std::string>> changes(int fd) {
    std::vector<std::pair<uint32_t, std::string>> all;
    OK(fcntl(fd, F_SETFL, O_NONBLOCK));
    ssize_t size = read(fd, scratch(), 65536);
    for (ssize_t at = 0; at < size;) {
        auto* event = (inotify_event*)(scratch() + at);
        all.push_back({event->mask, event->len ? event->name : ""});
        at += sizeof *event + event->len;
    }
    return all;
}
static bool has(const std::vector<std::pair<uint32_t, std::string>>& all, uint32_t mask, const std::string& name) {
    for (auto& [have, called] : all)
        if (have == mask && called == name) return true;
    return false;
}
CASE(inotify_directory) {
    int fd = OK(inotify_init1(IN_CLOEXEC));
    OK(inotify_add_watch(fd, ".", IN_ALL_EVENTS));
    write_file("f", "x");
    OK(rename("f", "g"));
    OK(unlink("g"));
    OK(mkdir("d", 0755));
    auto all = changes(fd);
    EXPECT(has(all, IN_CREATE, "f"));
    EXPECT(has(all, IN_OPEN, "f"));
    EXPECT(has(all, IN_MODIFY, "f"));
    EXPECT(has(all, IN_CLOSE_WRITE, "f"));
    EXPECT(has(all, IN_MOVED_FROM, "f"));
    EXPECT(has(all, IN_MOVED_TO, "g"));
    EXPECT(has(all, IN_DELETE, "g"));
    EXPECT(has(all, IN_CREATE | IN_ISDIR, "d"));
}
CASE(inotify_file) {
    write_file("f", "x");
    int fd = OK(inotify_init1(0));
    OK(inotify_add_watch(fd, "f", IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF));
    OK(chmod("f", 0600));
    OK(truncate("f", 0));
    OK(unlink("f"));
    auto all = changes(fd);
    EXPECT(has(all, IN_ATTRIB, ""));
    EXPECT(has(all, IN_MODIFY, ""));
    EXPECT(has(all, IN_DELETE_SELF, ""));
    EXPECT(has(all, IN_IGNORED, ""));
}
CASE(inotify_move_cookie) {
    write_file("f", "x");
    int fd = OK(inotify_init1(0));
    OK(inotify_add_watch(fd, ".", IN_MOVE));
    OK(rename("f", "g"));
    EXPECT(read(fd, scratch(), 4096) > 0);
    auto* first = (inotify_event*)scratch();
    auto* second = (inotify_event*)(scratch() + sizeof *first + first->len);
    EXPECT(first->cookie != 0);
    EXPECT_EQ(first->cookie, second->cookie);
}
CASE(inotify_remove_watch) {
    int fd = OK(inotify_init1(0));
    int watch = OK(inotify_add_watch(fd, ".", IN_CREATE));
    EXPECT_EQ(inotify_add_watch(fd, ".", IN_DELETE), watch);
    OK(inotify_rm_watch(fd, watch));
    auto all = changes(fd);
    EXPECT_EQ(all.size(), 1);
    EXPECT_EQ(all[0].first, IN_IGNORED);
    FAILS(inotify_rm_watch(fd, watch), EINVAL);
}
CASE(inotify_wakes_poll) {
    int fd = OK(inotify_init1(0));
    OK(inotify_add_watch(fd, ".", IN_CREATE));
    pollfd watch{fd, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 0);
    pid_t pid = child([] {
        sleep_ms(10);
        write_file("late", "");
    });
    EXPECT_EQ(poll(&watch, 1, 5000), 1);
    EXPECT_EXIT(pid, 0);
}
CASE(inotify_errors) {
    int fd = OK(inotify_init1(IN_NONBLOCK));
    FAILS(inotify_init1(0x77), EINVAL);
    FAILS(inotify_add_watch(fd, "nothing", IN_CREATE), ENOENT);
    FAILS(inotify_add_watch(fd, ".", 0), EINVAL);
    FAILS(inotify_add_watch(-1, ".", IN_CREATE), EBADF);
    FAILS(inotify_add_watch(OK(open("/", O_RDONLY)), ".", IN_CREATE), EINVAL);
    FAILS(inotify_add_watch(fd, (char*)bad(), IN_CREATE), EFAULT);
    FAILS(read(fd, scratch(), 4096), EAGAIN);
    write_file("f", "");
    FAILS(inotify_add_watch(fd, "f", IN_CREATE | IN_ONLYDIR), ENOTDIR);
}
