// Calls that are made so often from one place that a kernel may take a shorter way: they tell the same on it, whatever
// happened since.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/time.h>

#include <atomic>
#include <cstddef>

#include "case.h"

namespace {

constexpr int kOften = 400;

// All calls of this file but libc's come from here.
[[gnu::noinline]] long call(long number, long a = 0, long b = 0, long c = 0) { return syscall(number, a, b, c); }
long often(long number, long a = 0, long b = 0, long c = 0) {
    long result = 0;
    for (int i = 0; i < kOften; ++i) result = call(number, a, b, c);
    return result;
}
void warm_up() {
    for (long number : {SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid}) often(number);
}

void set_filter(int number, uint32_t action, unsigned flags = 0) {
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, action), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{4, code};
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

}  // namespace

CASE(a_fork_has_another_number) {
    warm_up();
    const long mine = call(SYS_getpid);
    int pipes[2];
    OK(pipe(pipes));
    const pid_t pid = child([&] {
        long told[2] = {call(SYS_getpid), call(SYS_gettid)};
        EXPECT_EQ(often(SYS_getpid), told[0]);
        OK(write(pipes[1], told, sizeof(told)));
    });
    long told[2];
    EXPECT_EQ(read(pipes[0], told, sizeof(told)), (ssize_t)sizeof(told));
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ(told[0], pid);
    EXPECT_EQ(told[1], pid);
    EXPECT_EQ(call(SYS_getpid), mine);
    EXPECT_EQ(call(SYS_gettid), mine);
}

CASE(a_vfork_has_another_number) {
    warm_up();
    const long mine = call(SYS_getpid);
    static volatile long told;
    told = 0;
    const pid_t pid = vfork();
    if (pid == 0) {
        told = call(SYS_getpid);
        _exit(0);
    }
    EXPECT_EXIT(pid, 0);
    EXPECT_EQ((long)told, pid);
    EXPECT_EQ(call(SYS_getpid), mine);
}

CASE(threads_have_numbers_of_their_own) {
    warm_up();
    const long mine = call(SYS_gettid);
    struct Told {
        long tid, pid, again;
    } told[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        pthread_create(
            &threads[i], nullptr,
            [](void* at) -> void* {
                auto* one = (Told*)at;
                one->tid = call(SYS_gettid);
                one->again = often(SYS_gettid);
                one->pid = often(SYS_getpid);
                return nullptr;
            },
            &told[i]);
    for (auto& thread : threads) pthread_join(thread, nullptr);
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(told[i].pid, mine);
        EXPECT_EQ(told[i].again, told[i].tid);
        EXPECT(told[i].tid != mine);
        for (int j = 0; j < i; ++j) EXPECT(told[i].tid != told[j].tid);
    }
}

CASE(many_threads_have_numbers_of_their_own) {
    warm_up();
    static std::atomic<int> wrong, ready;
    static std::atomic<bool> go;
    wrong = ready = 0, go = false;
    constexpr int kThreads = 80;
    pthread_t threads[kThreads];
    for (auto& thread : threads)
        OK(pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                const long first = syscall(SYS_gettid);
                ++ready;
                while (!go) sleep_ms(1);
                if (often(SYS_gettid) != first) ++wrong;
                return nullptr;
            },
            nullptr));
    while (ready != kThreads) sleep_ms(1);
    go = true;
    for (auto& thread : threads) pthread_join(thread, nullptr);
    EXPECT_EQ(wrong.load(), 0);
}

CASE(users_change) {
    if (geteuid() != 0) skip("not root");
    in_child([] {
        warm_up();
        EXPECT_EQ(call(SYS_getuid), 0);
        OK(syscall(SYS_setresuid, 12, 34, 0));
        EXPECT_EQ(call(SYS_getuid), 12);
        EXPECT_EQ(call(SYS_geteuid), 34);
        OK(syscall(SYS_setresuid, -1, 0, 0));
        EXPECT_EQ(call(SYS_geteuid), 0);
        OK(syscall(SYS_setresgid, 56, 78, 0));
        EXPECT_EQ(call(SYS_getgid), 56);
        EXPECT_EQ(call(SYS_getegid), 78);
        OK(syscall(SYS_setuid, 0xfffffffe));
        EXPECT_EQ(often(SYS_getuid), 0xfffffffe);
    });
}

CASE(a_filter_that_came_late_is_asked) {
    in_child([] {
        warm_up();
        set_filter(SYS_getpid, SECCOMP_RET_ERRNO | EXDEV);
        errno = 0;
        EXPECT_EQ(call(SYS_getpid), -1);
        EXPECT_EQ(errno, EXDEV);
        EXPECT_EQ(often(SYS_getpid), -1);
        EXPECT(call(SYS_gettid) > 0);
    });
}

CASE(a_filter_for_all_threads_is_asked) {
    in_child([] {
        static std::atomic<int> step;
        static std::atomic<long> told;
        step = 0, told = 0;
        pthread_t thread;
        OK(pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                warm_up();
                step = 1;
                while (step != 2) sched_yield();
                told = call(SYS_getuid);
                return nullptr;
            },
            nullptr));
        while (step != 1) sched_yield();
        set_filter(SYS_getuid, SECCOMP_RET_ERRNO | EXDEV, SECCOMP_FILTER_FLAG_TSYNC);
        step = 2;
        pthread_join(thread, nullptr);
        EXPECT_EQ(told.load(), -1);
    });
}

CASE(a_filter_that_kills_kills) {
    const pid_t pid = child([] {
        warm_up();
        set_filter(SYS_getegid, SECCOMP_RET_KILL_PROCESS);
        call(SYS_getegid);
    });
    EXPECT_SIGNAL(pid, SIGSYS);
}

CASE(a_tracer_sees_each) {
    const pid_t pid = child([] {
        warm_up();
        OK(syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
        raise(SIGSTOP);
        for (int i = 0; i < 10; ++i) call(SYS_getpid);
    });
    int status = 0, seen = 0;
    OK(waitpid(pid, &status, 0));
    EXPECT(WIFSTOPPED(status));
    OK(syscall(SYS_ptrace, PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL));
    while (WIFSTOPPED(status)) {
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            struct {
                uint8_t op, padding[3];
                uint32_t arch;
                uint64_t ip, sp, nr, args[6];
            } info{};
            OK(syscall(SYS_ptrace, 0x420e, pid, sizeof(info), &info));  // PTRACE_GET_SYSCALL_INFO
            if (info.op == 1 && info.nr == (uint64_t)SYS_getpid) ++seen;
        }
        OK(syscall(SYS_ptrace, PTRACE_SYSCALL, pid, 0, 0));
        OK(waitpid(pid, &status, 0));
    }
    EXPECT_EQ(seen, 10);
}

CASE(numbers_that_nobody_has_fail) {
    warm_up();
    for (long number : {-1L, -8L, 0xfff7L, 0x7fffffffL, 335L + 200, 1L << 30}) {
        errno = 0;
        EXPECT_EQ(often(number), -1);
        EXPECT_EQ(errno, ENOSYS);
    }
}

CASE(read_of_nothing_is_read) {
    warm_up();
    int pipes[2];
    OK(pipe(pipes));
    EXPECT_EQ(write(pipes[1], "xyz", 3), 3);
    char got[4] = {};
    EXPECT_EQ(call(SYS_read, pipes[0], (long)got, 3), 3);
    EXPECT_EQ(got[2], 'z');
    EXPECT_EQ(often(SYS_read, pipes[0], (long)got, 0), 0);
}

CASE(what_signals_interrupt_goes_on) {
    static std::atomic<int> caught;
    caught = 0;
    signal(SIGALRM, [](int) { ++caught; });
    const itimerval often_enough{{0, 500}, {0, 500}};
    OK(setitimer(ITIMER_REAL, &often_enough, nullptr));
    const long mine = getpid();
    const uint64_t end = now_ns() + 300'000'000;
    long calls = 0;
    while (now_ns() < end || caught < 3) {
        EXPECT_EQ(call(SYS_getpid), mine);
        EXPECT_EQ(call(SYS_getppid), getppid());
        EXPECT_EQ(call(SYS_lseek, -1, 0, SEEK_SET), -1);
        EXPECT_EQ(errno, EBADF);
        ++calls;
    }
    EXPECT(calls > 0);
}
