// fork, clone, ids, groups and sessions, scheduling.
#include <linux/sched.h>
#include <sched.h>
#include <sys/resource.h>
#include <vector>

#include "processes.h"

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
