// Threads and pidfds.
#include <poll.h>
#include <pthread.h>

#include "processes.h"

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
