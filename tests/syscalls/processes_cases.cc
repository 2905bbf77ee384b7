// fork, clone, wait, exit, groups and sessions, threads, pidfds.
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/times.h>

#include <vector>

#include "case.h"

static pid_t pause_child() {
    return child([] {
        for (;;) pause();
    });
}
static void end(pid_t pid) {
    kill(pid, SIGKILL);
    wait_for(pid);
}

// ---- fork, vfork, clone

CASE(fork_returns_twice) {
    pid_t parent = getpid();
    pid_t pid = child([&] {
        EXPECT(getpid() != parent);
        EXPECT_EQ(getppid(), parent);
    });
    EXPECT(pid > 0 && pid != parent);
    EXPECT_EXIT(pid, 0);
}
CASE(fork_memory_is_copied) {
    static int value = 1;
    in_child([] { value = 2; });
    EXPECT_EQ(value, 1);
}
CASE(fork_registers_kept) {
    double vector = 1.5;
    asm volatile("movsd %0, %%xmm7" : : "m"(vector) : "xmm7");
    long pid = syscall(SYS_fork);
    double after;
    asm volatile("movsd %%xmm7, %0" : "=m"(after));
    if (pid == 0) _exit(after == 1.5 ? 0 : 1);
    EXPECT(after == 1.5);
    EXPECT_EXIT(pid, 0);
}
CASE(fork_clears_pending_signals) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGUSR1);
    in_child([] {
        sigset_t pending;
        OK(sigpending(&pending));
        EXPECT(!sigismember(&pending, SIGUSR1));
        sigset_t mask;
        OK(sigprocmask(0, nullptr, &mask));
        EXPECT(sigismember(&mask, SIGUSR1));
    });
}
CASE(fork_many_one_after_another) {
    for (int i = 0; i < 50; ++i) EXPECT_EXIT(child([&] { _exit(i); }), i);
}
CASE(fork_many_at_once) {
    std::vector<pid_t> pids;
    for (int i = 0; i < 40; ++i) pids.push_back(child([&] { _exit(i); }));
    for (int i = 0; i < 40; ++i) EXPECT_EXIT(pids[i], i);
}
CASE(fork_tree) {
    in_child([] { in_child([] { in_child([] { in_child([] {}); }); }); });
}
CASE(fork_keeps_cwd_and_umask) {
    OK(mkdir("d", 0755));
    OK(chdir("d"));
    umask(055);
    in_child([] {
        EXPECT_EQ(umask(0), 055);
        OK(access("../d", F_OK));
        OK(chdir("/"));
    });
    OK(access("../d", F_OK));
}
CASE(vfork_shares_and_waits) {
    static volatile int value;
    value = 1;
    pid_t pid = vfork();
    if (pid == 0) {
        value = 2;
        _exit(3);
    }
    EXPECT_EQ(value, 2);
    EXPECT_EXIT(pid, 3);
}
CASE(process_limit) {
    if (geteuid() != 0) skip("needs root");
    in_child([] {
        rlimit limit{1, 1};
        OK(syscall(SYS_setresuid, 54321, 54321, 54321));
        OK(setrlimit(RLIMIT_NPROC, &limit));
        FAILS(fork(), EAGAIN);
    });
}
static char clone_stack[65536] __attribute__((aligned(16)));
CASE(clone_vm_shares_memory) {
    static volatile int value;
    value = 1;
    pid_t pid = OK(clone(
        [](void*) {
            value = 2;
            return 7;
        },
        clone_stack + sizeof clone_stack, CLONE_VM | SIGCHLD, nullptr));
    EXPECT_EXIT(pid, 7);
    EXPECT_EQ(value, 2);
}
CASE(clone_files_shares_descriptors) {
    static int fd;
    fd = -1;
    pid_t pid = OK(clone(
        [](void*) {
            fd = open("/", O_RDONLY);
            return 0;
        },
        clone_stack + sizeof clone_stack, CLONE_VM | CLONE_FILES | SIGCHLD, nullptr));
    EXPECT_EXIT(pid, 0);
    OK(fcntl(fd, F_GETFD));
}
CASE(clone_fs_shares_cwd) {
    OK(mkdir("d", 0755));
    pid_t pid =
        OK(clone([](void*) { return chdir("d"); }, clone_stack + sizeof clone_stack, CLONE_FS | SIGCHLD, nullptr));
    EXPECT_EXIT(pid, 0);
    OK(access("../d", F_OK));
}
CASE(clone_parent_settid) {
    pid_t seen = 0;
    long pid = OK(syscall(SYS_clone, CLONE_PARENT_SETTID | SIGCHLD, 0, &seen, 0, 0));
    if (pid == 0) _exit(0);
    EXPECT_EQ(seen, pid);
    EXPECT_EXIT(pid, 0);
}
CASE(clone_child_settid) {
    pid_t seen = 0;
    long pid = OK(syscall(SYS_clone, CLONE_CHILD_SETTID | SIGCHLD, 0, 0, &seen, 0));
    if (pid == 0) _exit(seen == getpid() ? 0 : 1);
    EXPECT_EXIT(pid, 0);
}
CASE(clone_other_exit_signal) {
    signal(SIGUSR2, [](int) {});
    long pid = OK(syscall(SYS_clone, SIGUSR2, 0, 0, 0, 0));
    if (pid == 0) _exit(0);
    int status;
    FAILS(waitpid(pid, &status, 0), ECHILD);
    EXPECT_EQ(waitpid(pid, &status, __WALL), pid);
}
CASE(clone_errors) {
    FAILS(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0), EINVAL);
    FAILS(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0), EINVAL);
    FAILS(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0), EINVAL);
}
CASE(clone_parent_makes_sibling) {
    int ends[2];
    OK(pipe(ends));
    in_child([&] {
        long sibling = OK(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
        if (sibling == 0) _exit(9);
        OK(write(ends[1], &sibling, sizeof sibling));
    });
    long sibling;
    EXPECT_EQ(read(ends[0], &sibling, sizeof sibling), sizeof sibling);
    EXPECT_EXIT(sibling, 9);
}
CASE(clone3_plain) {
    clone_args args{};
    args.exit_signal = SIGCHLD;
    long pid = OK(syscall(SYS_clone3, &args, sizeof args));
    if (pid == 0) _exit(5);
    EXPECT_EXIT(pid, 5);
}
CASE(clone3_pidfd) {
    clone_args args{};
    int fd = -1;
    args.flags = CLONE_PIDFD;
    args.pidfd = (uintptr_t)&fd;
    args.exit_signal = SIGCHLD;
    long pid = OK(syscall(SYS_clone3, &args, sizeof args));
    if (pid == 0) _exit(5);
    EXPECT(fd >= 0);
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_EXIT(pid, 5);
}
CASE(clone3_errors) {
    clone_args args{};
    FAILS(syscall(SYS_clone3, &args, 8), EINVAL);
    FAILS(syscall(SYS_clone3, bad(), sizeof args), EFAULT);
    args.exit_signal = 1000;
    FAILS(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    args.exit_signal = 0;
    args.flags = 1ull << 60;
    FAILS(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    FAILS(syscall(SYS_clone3, &args, 1 << 20), E2BIG);
}

// ---- exit and wait

CASE(exit_status_low_byte) {
    EXPECT_EXIT(child([] { _exit(0x1234); }), 0x34);
}
CASE(exit_flushes_nothing_but_runs_atexit) {
    int ends[2];
    OK(pipe(ends));
    static int end_fd;
    end_fd = ends[1];
    pid_t pid = child([] {
        atexit([] { OK(write(end_fd, "A", 1)); });
        exit(0);
    });
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(read(ends[0], scratch(), 10), 1);
}
CASE(wait_any) {
    pid_t a = child([] { _exit(1); });
    int status;
    EXPECT_EQ(wait(&status), a);
    EXPECT_EQ(WEXITSTATUS(status), 1);
    FAILS(wait(&status), ECHILD);
}
CASE(wait_nohang) {
    pid_t pid = pause_child();
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    end(pid);
    FAILS(waitpid(pid, nullptr, WNOHANG), ECHILD);
}
FAILS_CASE(wait_no_children, wait(nullptr), ECHILD)
FAILS_CASE(wait_not_my_child, waitpid(getppid(), nullptr, 0), ECHILD)
CASE(wait_errors) {
    pid_t pid = pause_child();
    FAILS(waitpid(pid, nullptr, 0x80), EINVAL);
    kill(pid, SIGKILL);
    FAILS(waitpid(pid, (int*)bad(), 0), EFAULT);
}
CASE(wait_killed) {
    pid_t pid = pause_child();
    kill(pid, SIGTERM);
    EXPECT_SIGNAL(pid, SIGTERM);
}
CASE(wait_by_group) {
    pid_t pid = child([] {
        setpgid(0, 0);
        _exit(3);
    });
    setpgid(pid, pid);
    int status;
    EXPECT_EQ(waitpid(-pid, &status, 0), pid);
    FAILS(waitpid(-pid, &status, 0), ECHILD);
}
CASE(wait_own_group) {
    pid_t pid = child([] { _exit(3); });
    EXPECT_EQ(waitpid(0, nullptr, 0), pid);
}
CASE(wait_stopped_and_continued) {
    pid_t pid = pause_child();
    int status;
    kill(pid, SIGSTOP);
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    EXPECT(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
    kill(pid, SIGCONT);
    EXPECT_EQ(waitpid(pid, &status, WCONTINUED), pid);
    EXPECT(WIFCONTINUED(status));
    end(pid);
}
CASE(wait4_usage) {
    pid_t pid = child([] {
        uint64_t until = now_ns() + 30000000;
        while (now_ns() < until) {
        }
    });
    rusage usage{};
    EXPECT_EQ(wait4(pid, nullptr, 0, &usage), pid);
    EXPECT(usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec > 0);
}
CASE(waitid_fields) {
    pid_t pid = child([] { _exit(6); });
    siginfo_t info{};
    OK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    EXPECT_EQ(info.si_pid, pid);
    EXPECT_EQ(info.si_code, CLD_EXITED);
    EXPECT_EQ(info.si_status, 6);
    EXPECT_EQ(info.si_signo, SIGCHLD);
    OK(waitid(P_ALL, 0, &info, WEXITED));
    FAILS(waitid(P_PID, pid, &info, WEXITED), ECHILD);
}
CASE(waitid_killed_and_nohang) {
    pid_t pid = pause_child();
    siginfo_t info;
    memset(&info, 1, sizeof info);
    OK(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
    EXPECT_EQ(info.si_pid, 0);
    kill(pid, SIGUSR1);
    OK(waitid(P_PID, pid, &info, WEXITED));
    EXPECT_EQ(info.si_code, CLD_KILLED);
    EXPECT_EQ(info.si_status, SIGUSR1);
}
CASE(waitid_stop_not_eaten_by_exit_wait) {
    pid_t pid = pause_child();
    siginfo_t info{};
    kill(pid, SIGSTOP);
    OK(waitid(P_PID, pid, &info, WSTOPPED));
    EXPECT_EQ(info.si_code, CLD_STOPPED);
    kill(pid, SIGCONT);
    OK(waitid(P_PID, pid, &info, WCONTINUED));
    EXPECT_EQ(info.si_code, CLD_CONTINUED);
    end(pid);
}
CASE(waitid_errors) {
    siginfo_t info;
    FAILS(waitid(P_ALL, 0, &info, 0), EINVAL);
    FAILS(waitid((idtype_t)77, 0, &info, WEXITED), EINVAL);
    FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    FAILS(waitid(P_PID, 0, &info, WEXITED), EINVAL);
}
CASE(zombie_is_seen) {
    pid_t pid = child([] {});
    EXPECT(reaches_state(pid, "Z"));
    OK(kill(pid, 0));
    wait_for(pid);
    FAILS(kill(pid, 0), ESRCH);
}
CASE(sigchld_ignored_reaps) {
    signal(SIGCHLD, SIG_IGN);
    pid_t pid = child([] {});
    FAILS(waitpid(pid, nullptr, 0), ECHILD);
}
CASE(sigchld_nocldwait_reaps) {
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    action.sa_flags = SA_NOCLDWAIT;
    OK(sigaction(SIGCHLD, &action, nullptr));
    pid_t pid = child([] {});
    FAILS(waitpid(pid, nullptr, 0), ECHILD);
}
CASE(orphan_gets_new_parent) {
    int ends[2];
    OK(pipe(ends));
    pid_t me = getpid();
    in_child([&] {
        pid_t middle = getpid();
        child([=] {
            while (getppid() == middle) sleep_ms(1);
            pid_t parent = getppid();
            OK(write(ends[1], &parent, sizeof parent));
        });
    });
    pid_t parent = 0;
    EXPECT_EQ(read(ends[0], &parent, sizeof parent), sizeof parent);
    EXPECT(parent != me && parent >= 0);
}
CASE(subreaper_adopts) {
    OK(syscall(SYS_prctl, 36 /* PR_SET_CHILD_SUBREAPER */, 1, 0, 0, 0));
    int ends[2];
    OK(pipe(ends));
    in_child([&] {
        pid_t grandchild = child([] {
            sleep_ms(20);
            _exit(11);
        });
        OK(write(ends[1], &grandchild, sizeof grandchild));
    });
    pid_t grandchild = 0;
    EXPECT_EQ(read(ends[0], &grandchild, sizeof grandchild), sizeof grandchild);
    EXPECT_EXIT(grandchild, 11);
}
CASE(children_times_counted) {
    in_child([] {
        timespec used{};
        do {
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        } while (used.tv_sec == 0 && used.tv_nsec < 60000000);
    });
    tms spent{};
    OK(times(&spent));
    EXPECT(spent.tms_cutime + spent.tms_cstime >= 1);
}

// ---- ids, groups, sessions

CASE(ids) {
    EXPECT(getpid() > 0 && getppid() >= 0);
    EXPECT_EQ(syscall(SYS_gettid), getpid());
    EXPECT_EQ(getsid(0), getsid(getpid()));
    EXPECT_EQ(getpgid(0), getpgrp());
}
CASE(setpgid_self) {
    in_child([] {
        OK(setpgid(0, 0));
        EXPECT_EQ(getpgrp(), getpid());
    });
}
CASE(setpgid_child_and_join) {
    pid_t a = pause_child(), b = pause_child();
    OK(setpgid(a, a));
    OK(setpgid(b, a));
    EXPECT_EQ(getpgid(b), a);
    end(a);
    end(b);
}
CASE(setpgid_errors) {
    FAILS(setpgid(0, -1), EINVAL);
    FAILS(setpgid(99999999, 0), ESRCH);
    pid_t pid = pause_child();
    FAILS(setpgid(pid, 99999999), EPERM);
    end(pid);
    FAILS(getpgid(99999999), ESRCH);
}
CASE(setsid_makes_session) {
    in_child([] {
        EXPECT_EQ(setsid(), getpid());
        EXPECT_EQ(getsid(0), getpid());
        EXPECT_EQ(getpgrp(), getpid());
        FAILS(setsid(), EPERM);
        FAILS(setpgid(0, 0), EPERM);
    });
}
CASE(setpgid_other_session) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        setsid();
        OK(write(ends[1], "x", 1));
        pause();
    });
    OK(read(ends[0], scratch(), 1));
    FAILS(setpgid(pid, getpgrp()), EPERM);
    end(pid);
}
FAILS_CASE(getsid_missing, getsid(99999999), ESRCH)
CASE(kill_group) {
    pid_t leader = child([] {
        setpgid(0, 0);
        for (int i = 0; i < 3; ++i) pause_child();
        for (;;) pause();
    });
    setpgid(leader, leader);
    sleep_ms(20);
    OK(kill(-leader, SIGKILL));
    EXPECT_SIGNAL(leader, SIGKILL);
}
CASE(orphaned_stopped_group_gets_hup) {
    int ends[2];
    OK(pipe(ends));
    in_child([&] {
        pid_t pid = child([&] {
            setpgid(0, 0);
            static int out;
            out = ends[1];
            signal(SIGHUP, [](int) { OK(write(out, "H", 1)); });
            raise(SIGSTOP);
            sleep_ms(50);
        });
        setpgid(pid, pid);
        int status;
        EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    });
    char c = 0;
    EXPECT_EQ(read(ends[0], &c, 1), 1);
    EXPECT_EQ(c, 'H');
}

// ---- threads

static void* thread_ids(void* out) {
    auto* ids = static_cast<long*>(out);
    ids[0] = getpid();
    ids[1] = syscall(SYS_gettid);
    return out;
}
CASE(thread_ids) {
    pthread_t thread;
    long ids[2];
    EXPECT_EQ(pthread_create(&thread, nullptr, thread_ids, ids), 0);
    EXPECT_EQ(pthread_join(thread, nullptr), 0);
    EXPECT_EQ(ids[0], getpid());
    EXPECT(ids[1] != getpid());
}
CASE(thread_many) {
    static volatile int total;
    pthread_t threads[32];
    for (auto& thread : threads)
        EXPECT_EQ(pthread_create(
                      &thread, nullptr,
                      [](void*) -> void* {
                          __atomic_add_fetch(&total, 1, 5);
                          return nullptr;
                      },
                      nullptr),
                  0);
    for (auto& thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
    EXPECT_EQ(total, 32);
}
CASE(thread_create_join_often) {
    for (int i = 0; i < 200; ++i) {
        pthread_t thread;
        EXPECT_EQ(pthread_create(
                      &thread, nullptr, [](void* x) { return x; }, nullptr),
                  0);
        EXPECT_EQ(pthread_join(thread, nullptr), 0);
    }
}
CASE(thread_local_storage) {
    static thread_local int own = 5;
    own = 6;
    pthread_t thread;
    void* seen;
    EXPECT_EQ(pthread_create(
                  &thread, nullptr, [](void*) { return (void*)(long)own; }, nullptr),
              0);
    EXPECT_EQ(pthread_join(thread, &seen), 0);
    EXPECT_EQ((long)seen, 5);
}
CASE(thread_exit_group) {
    EXPECT_EXIT(child([] {
                    pthread_t thread;
                    pthread_create(
                        &thread, nullptr, [](void*) -> void* { _exit(12); }, nullptr);
                    for (;;) pause();
                }),
                12);
}
CASE(thread_main_exits_first) {
    EXPECT_EXIT(child([] {
                    pthread_t thread;
                    pthread_create(
                        &thread, nullptr,
                        [](void*) -> void* {
                            sleep_ms(30);
                            _exit(13);
                        },
                        nullptr);
                    syscall(SYS_exit, 0);
                }),
                13);
}
CASE(thread_fault_kills_all) {
    EXPECT_SIGNAL(child([] {
                      pthread_t thread;
                      pthread_create(
                          &thread, nullptr,
                          [](void*) -> void* {
                              *(volatile char*)bad() = 1;
                              return nullptr;
                          },
                          nullptr);
                      for (;;) pause();
                  }),
                  SIGSEGV);
}
CASE(thread_fork_copies_only_caller) {
    static int ends[2];
    OK(pipe(ends));
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            read(ends[0], scratch(), 1);
            return nullptr;
        },
        nullptr);
    in_child([] {
        if (access("/proc/self/status", R_OK) != 0) skip("no /proc");
        std::string status = read_all("/proc/self/status");
        EXPECT(status.find("Threads:\t1\n") != std::string::npos);
    });
    OK(write(ends[1], "x", 1));
    pthread_join(thread, nullptr);
}
CASE(thread_tgkill) {
    static volatile pid_t handled_by;
    static volatile pid_t tid;
    signal(SIGUSR1, [](int) { handled_by = syscall(SYS_gettid); });
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            tid = syscall(SYS_gettid);
            while (handled_by == 0) sleep_ms(1);
            return nullptr;
        },
        nullptr);
    while (tid == 0) sleep_ms(1);
    OK(syscall(SYS_tgkill, getpid(), tid, SIGUSR1));
    pthread_join(thread, nullptr);
    EXPECT_EQ(handled_by, tid);
    FAILS(syscall(SYS_tgkill, getpid(), 99999999, 0), ESRCH);
    FAILS(syscall(SYS_tgkill, -1, 1, 0), EINVAL);
    FAILS(syscall(SYS_tgkill, getpid(), getpid(), 100), EINVAL);
}
CASE(thread_wait_by_another) {
    static pid_t pid;
    pid = child([] { _exit(4); });
    pthread_t thread;
    void* result;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            int status;
            return (void*)(long)(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 4);
        },
        nullptr);
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, 1);
}
CASE(thread_shared_cwd_unshare) {
    OK(mkdir("d", 0755));
    pthread_t thread;
    void* result;
    pthread_create(
        &thread, nullptr, [](void*) { return (void*)(long)chdir("d"); }, nullptr);
    pthread_join(thread, &result);
    OK(access("../d", F_OK));
    pthread_create(
        &thread, nullptr, [](void*) { return (void*)(long)(unshare(CLONE_FS) + chdir("/")); }, nullptr);
    pthread_join(thread, &result);
    EXPECT_EQ((long)result, 0);
    OK(access("../d", F_OK));
}
CASE(set_tid_address_returns_tid) {
    in_child([] {
        static int word;
        EXPECT_EQ(syscall(SYS_set_tid_address, &word), syscall(SYS_gettid));
    });
}
CASE(arch_prctl_fs) {
    unsigned long base = 0;
    OK(syscall(SYS_arch_prctl, 0x1003 /* ARCH_GET_FS */, &base));
    unsigned long self;
    asm("movq %%fs:0, %0" : "=r"(self));
    EXPECT_EQ(base, self);
    FAILS(syscall(SYS_arch_prctl, 0x1002 /* ARCH_SET_FS */, 0xffffffff81000000ul), EPERM);
    FAILS(syscall(SYS_arch_prctl, 0x7777, 0), EINVAL);
}
CASE(arch_prctl_gs) {
    static unsigned long target[2] = {0x1122334455667788, 7};
    OK(syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, target));
    unsigned long value, base = 0;
    asm volatile("movq %%gs:0, %0" : "=r"(value));
    EXPECT_EQ(value, target[0]);
    OK(syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &base));
    EXPECT_EQ(base, (unsigned long)target);
    in_child([] {
        unsigned long inherited;
        asm volatile("movq %%gs:8, %0" : "=r"(inherited));
        EXPECT_EQ(inherited, 7);
    });
    OK(syscall(SYS_arch_prctl, 0x1001, 0));
}

// ---- pidfd

CASE(pidfd_open_poll_signal_wait) {
    pid_t pid = pause_child();
    int fd = OK(syscall(SYS_pidfd_open, pid, 0));
    pollfd watch{fd, POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 0), 0);
    OK(syscall(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0));
    EXPECT_EQ(poll(&watch, 1, 5000), 1);
    siginfo_t info{};
    OK(waitid(P_PIDFD, fd, &info, WEXITED));
    EXPECT_EQ(info.si_pid, pid);
    EXPECT_EQ(info.si_status, SIGTERM);
    FAILS(syscall(SYS_pidfd_send_signal, fd, 0, 0, 0), ESRCH);
}
CASE(pidfd_errors) {
    FAILS(syscall(SYS_pidfd_open, 99999999, 0), ESRCH);
    FAILS(syscall(SYS_pidfd_open, -1, 0), EINVAL);
    FAILS(syscall(SYS_pidfd_open, getpid(), 1), EINVAL);
    FAILS(syscall(SYS_pidfd_send_signal, -1, 0, 0, 0), EBADF);
    FAILS_ANY(syscall(SYS_pidfd_send_signal, OK(open("/", O_RDONLY)), 0, 0, 0), EBADF);
    EXPECT_EQ(fcntl(OK(syscall(SYS_pidfd_open, getpid(), 0)), F_GETFD), FD_CLOEXEC);
}
CASE(pidfd_getfd_takes) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        dup2(ends[1], 200);
        OK(write(ends[1], "r", 1));
        pause();
    });
    OK(read(ends[0], scratch(), 1));
    int fd = OK(syscall(SYS_pidfd_open, pid, 0));
    int taken = OK(syscall(SYS_pidfd_getfd, fd, 200, 0));
    EXPECT_EQ(write(taken, "y", 1), 1);
    FAILS(syscall(SYS_pidfd_getfd, fd, 201, 0), EBADF);
    end(pid);
}

// ---- scheduling, usage

CASE(sched_yield_ok) { OK(sched_yield()); }
CASE(affinity_get) {
    cpu_set_t set;
    CPU_ZERO(&set);
    EXPECT(syscall(SYS_sched_getaffinity, 0, sizeof set, &set) > 0);
    EXPECT(CPU_COUNT(&set) >= 1);
    FAILS(syscall(SYS_sched_getaffinity, 0, 1, &set), EINVAL);
    FAILS(syscall(SYS_sched_getaffinity, 99999999, sizeof set, &set), ESRCH);
    FAILS(syscall(SYS_sched_getaffinity, 0, sizeof set, bad()), EFAULT);
}
CASE(affinity_set_and_inherit) {
    cpu_set_t all, one;
    OK(sched_getaffinity(0, sizeof all, &all));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; ++i)
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
            break;
        }
    OK(sched_setaffinity(0, sizeof one, &one));
    in_child([&] {
        cpu_set_t seen;
        OK(sched_getaffinity(0, sizeof seen, &seen));
        EXPECT(CPU_EQUAL(&seen, &one));
        unsigned cpu = 9999;
        OK(syscall(SYS_getcpu, &cpu, nullptr, nullptr));
        EXPECT(CPU_ISSET(cpu, &one));
    });
    CPU_ZERO(&one);
    FAILS(sched_setaffinity(0, sizeof one, &one), EINVAL);
}
CASE(scheduler_policy) {
    EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
    sched_param param{};
    OK(sched_setscheduler(0, SCHED_BATCH, &param));
    EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
    FAILS(sched_setscheduler(0, 99, &param), EINVAL);
    FAILS(sched_getscheduler(99999999), ESRCH);
    FAILS(sched_getscheduler(-1), EINVAL);
    OK(sched_getparam(0, &param));
    EXPECT_EQ(param.sched_priority, 0);
    EXPECT_EQ(sched_get_priority_max(SCHED_FIFO), 99);
    EXPECT_EQ(sched_get_priority_min(SCHED_FIFO), 1);
    EXPECT_EQ(sched_get_priority_max(SCHED_OTHER), 0);
    FAILS(sched_get_priority_max(99), EINVAL);
}
CASE(nice_values) {
    // Whoever runs the tests may have a priority of his own.
    errno = 0;
    int start = getpriority(PRIO_PROCESS, 0);
    EXPECT_EQ(errno, 0);
    int nicer = start < 5 ? 5 : start < 19 ? start + 1 : 19;
    OK(setpriority(PRIO_PROCESS, 0, nicer));
    EXPECT_EQ(getpriority(PRIO_PROCESS, 0), nicer);
    in_child([&] { EXPECT_EQ(getpriority(PRIO_PROCESS, 0), nicer); });
    FAILS(getpriority(77, 0), EINVAL);
    FAILS(setpriority(PRIO_PROCESS, 99999999, 0), ESRCH);
}
CASE(getrusage_kinds) {
    rusage usage{};
    OK(getrusage(RUSAGE_SELF, &usage));
    EXPECT(usage.ru_maxrss > 0);
    OK(getrusage(RUSAGE_CHILDREN, &usage));
    OK(getrusage(RUSAGE_THREAD, &usage));
    FAILS(getrusage((__rusage_who)77, &usage), EINVAL);
    FAILS(syscall(SYS_getrusage, 0, bad()), EFAULT);
}
CASE(unknown_syscall) {
    FAILS(syscall(1000), ENOSYS);
    FAILS(syscall(400), ENOSYS);
    FAILS(syscall(-1), ENOSYS);
}
CASE(membarrier_query) {
    long commands = syscall(SYS_membarrier, 0, 0, 0);
    if (commands < 0 && errno == ENOSYS) skip("no membarrier");
    EXPECT(commands >= 0);
    FAILS(syscall(SYS_membarrier, 0, 77, 0), EINVAL);
    FAILS(syscall(SYS_membarrier, 1 << 30, 0, 0), EINVAL);
}
CASE(rseq_registered_twice) {
    struct {
        uint32_t words[8];
    } area __attribute__((aligned(32))){};
    long result = syscall(SYS_rseq, &area, 32, 0, 0x53053053);
    if (result < 0 && errno == ENOSYS) skip("no rseq");
    if (result < 0) EXPECT(errno == EBUSY || errno == EINVAL || errno == EPERM);
}
CASE(kcmp_same_file) {
    int fd = OK(open("/", O_RDONLY)), other = OK(dup(fd));
    long result = syscall(SYS_kcmp, getpid(), getpid(), 0, fd, other);
    if (result < 0 && (errno == ENOSYS || errno == EPERM)) skip("no kcmp");
    EXPECT_EQ(result, 0);
}
CASE(exit_closes_and_wakes_parent) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] { sleep_ms(20); });
    close(ends[1]);
    EXPECT_EQ(read(ends[0], scratch(), 1), 0);
    EXPECT_EXIT(pid, 0);
}
