// System calls made so often from one place that a kernel may think of something faster for it: they mean the same as
// before, whatever else happens meanwhile.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <atomic>

#include "case.h"

static const int kOften = 2000;

static void make_hot(int count = kOften) {
    for (int i = 0; i < count; ++i) EXPECT_EQ(syscall(SYS_getpid), getpid());
}

static void on_signal(int signo, void (*handler)(int), int flags = 0) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    OK(sigaction(signo, &action, nullptr));
}

CASE(results_stay_right) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    char data[512], back[512];
    for (int i = 0; i < kOften; ++i) {
        memset(data, i & 0x7f, sizeof(data));
        EXPECT_EQ(pwrite(fd, data, sizeof(data), (i % 8) * 512), 512);
        EXPECT_EQ(pread(fd, back, sizeof(back), (i % 8) * 512), 512);
        EXPECT_EQ(memcmp(data, back, sizeof(data)), 0);
        EXPECT_EQ(lseek(fd, i, SEEK_SET), i);
        EXPECT_EQ(lseek(fd, 0, SEEK_CUR), i);
        EXPECT_EQ(pread(-1, back, 1, 0), -1);
        EXPECT_EQ(errno, EBADF);
        EXPECT_EQ(pread(fd, bad(), 1, 0), -1);
        EXPECT_EQ(errno, EFAULT);
    }
}

CASE(six_arguments) {
    // The sixth comes from the stack in syscall(2).
    for (int i = 0; i < 500; ++i) {
        void* at =
            (void*)OK(syscall(SYS_mmap, nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L));
        *(volatile char*)at = 1;
        EXPECT_EQ(syscall(SYS_mmap, nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 1L), -1);
        EXPECT_EQ(errno, EINVAL);
        OK(munmap(at, 4096));
    }
}

CASE(open_and_close_many_times) {
    close(OK(open("f", O_RDWR | O_CREAT, 0644)));
    int first = OK(open("f", O_RDONLY));
    close(first);
    for (int i = 0; i < kOften; ++i) {
        int fd = open("f", O_RDONLY);
        EXPECT_EQ(fd, first);
        EXPECT_EQ(close(fd), 0);
        EXPECT_EQ(close(fd), -1);
        EXPECT_EQ(open("not-there", O_RDONLY), -1);
        EXPECT_EQ(errno, ENOENT);
    }
}

// Blocking calls from a place that did not block before.
CASE(a_pipe_that_becomes_empty) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = OK(fork());
    if (pid == 0) {
        for (int i = 0; i < 300; ++i) {
            if (i % 100 == 0) usleep(3000);
            unsigned value = (unsigned)i;
            if (write(ends[1], &value, sizeof(value)) != sizeof(value)) _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    unsigned value, expected = 0;
    while (read(ends[0], &value, sizeof(value)) == sizeof(value)) EXPECT_EQ(value, expected++);
    EXPECT_EQ(expected, 300);
    waitpid(pid, nullptr, 0);
}

CASE(a_pipe_that_becomes_full) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = OK(fork());
    if (pid == 0) {
        close(ends[1]);
        static char buffer[1000];
        long sum = 0;
        ssize_t got;
        while ((got = read(ends[0], buffer, sizeof(buffer))) > 0) {
            sum += got;
            if (sum % 50000 == 0) usleep(1000);
        }
        _exit(sum == 1000 * 500 ? 0 : 1);
    }
    close(ends[0]);
    static char block[1000];
    for (int i = 0; i < 500; ++i) EXPECT_EQ(write(ends[1], block, sizeof(block)), (ssize_t)sizeof(block));
    close(ends[1]);
    int status;
    OK(waitpid(pid, &status, 0));
    EXPECT_EQ(status, 0);
}

CASE(ping_pong) {
    int there[2], back[2];
    OK(pipe(there));
    OK(pipe(back));
    pid_t pid = OK(fork());
    if (pid == 0) {
        unsigned value;
        close(there[1]);
        while (read(there[0], &value, sizeof(value)) == sizeof(value)) {
            ++value;
            if (write(back[1], &value, sizeof(value)) != sizeof(value)) _exit(1);
        }
        _exit(0);
    }
    for (unsigned i = 0; i < 1000; ++i) {
        unsigned value = i;
        EXPECT_EQ(write(there[1], &value, sizeof(value)), (ssize_t)sizeof(value));
        EXPECT_EQ(read(back[0], &value, sizeof(value)), (ssize_t)sizeof(value));
        EXPECT_EQ(value, i + 1);
    }
    close(there[1]);
    waitpid(pid, nullptr, 0);
}

// ---- signals

static std::atomic<int> alarms;
static void count_alarm(int) {
    // The handler makes the same calls as what it interrupts.
    int before = errno;
    if (syscall(SYS_gettid) == syscall(SYS_getpid)) alarms.fetch_add(1);
    errno = before;
}

CASE(signals_in_the_middle_lose_nothing) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    unsigned numbers[64];
    for (unsigned i = 0; i < 64; ++i) numbers[i] = i * 0x01010101u;
    EXPECT_EQ(pwrite(fd, numbers, sizeof(numbers), 0), (ssize_t)sizeof(numbers));
    on_signal(SIGALRM, count_alarm, SA_RESTART);
    itimerval every{};
    every.it_interval.tv_usec = every.it_value.tv_usec = 400;
    OK(setitimer(ITIMER_REAL, &every, nullptr));
    pid_t self = getpid();
    for (int i = 0; alarms.load() < 100; ++i) {
        unsigned value = 0;
        EXPECT_EQ(pread(fd, &value, 4, (i % 64) * 4), 4);
        EXPECT_EQ(value, (unsigned)(i % 64) * 0x01010101u);
        EXPECT_EQ(syscall(SYS_getpid), self);
    }
    every = {};
    OK(setitimer(ITIMER_REAL, &every, nullptr));
}

static std::atomic<int> handled;
static void count_signal(int) { handled.fetch_add(1); }

CASE(a_signal_let_through_is_there_when_the_call_returns) {
    on_signal(SIGUSR1, count_signal);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (int i = 1; i <= 500; ++i) {
        OK(sigprocmask(SIG_BLOCK, &set, nullptr));
        raise(SIGUSR1);
        EXPECT_EQ(handled.load(), i - 1);
        OK(sigprocmask(SIG_UNBLOCK, &set, nullptr));
        EXPECT_EQ(handled.load(), i);
    }
}

CASE(a_write_to_nobody_raises_sigpipe_at_once) {
    on_signal(SIGPIPE, count_signal);
    int ends[2];
    OK(pipe(ends));
    int null = OK(open("/dev/null", O_WRONLY));
    for (int i = 0; i < kOften; ++i) EXPECT_EQ(write(null, "x", 1), 1);
    close(ends[0]);
    for (int i = 1; i <= 300; ++i) {
        EXPECT_EQ(write(ends[1], "x", 1), -1);
        EXPECT_EQ(errno, EPIPE);
        EXPECT_EQ(handled.load(), i);
    }
}

// ---- threads and processes

static std::atomic<bool> wrong;
static void* ask_who_i_am(void*) {
    const long self = syscall(SYS_gettid);
    for (int i = 0; i < kOften; ++i)
        if (syscall(SYS_gettid) != self) wrong.store(true);
    return nullptr;
}
CASE(threads_stay_themselves) {
    pthread_t threads[6];
    for (pthread_t& thread : threads) EXPECT_EQ(pthread_create(&thread, nullptr, ask_who_i_am, nullptr), 0);
    for (pthread_t& thread : threads) pthread_join(thread, nullptr);
    EXPECT(!wrong.load());
}

CASE(a_child_is_another) {
    make_hot();
    pid_t pid = OK(fork());
    if (pid == 0) {
        pid_t self = getpid();
        bool good = self != getppid();
        for (int i = 0; i < kOften; ++i) good = good && syscall(SYS_getpid) == self;
        _exit(good ? 0 : 1);
    }
    make_hot();
    int status;
    OK(waitpid(pid, &status, 0));
    EXPECT_EQ(status, 0);
    make_hot();
}

CASE(threads_end_while_they_call) {
    for (int round = 0; round < 20; ++round) {
        pid_t pid = OK(fork());
        if (pid == 0) {
            pthread_t thread;
            for (int i = 0; i < 3; ++i) pthread_create(&thread, nullptr, ask_who_i_am, nullptr);
            for (int i = 0; i < 50 * round; ++i) (void)syscall(SYS_getpid);
            syscall(SYS_exit_group, 7);
        }
        int status;
        OK(waitpid(pid, &status, 0));
        EXPECT_EQ(WEXITSTATUS(status), 7);
    }
}

CASE(a_filter_that_comes_later_binds) {
    make_hot();
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{4, code};
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    for (int i = 0; i < kOften; ++i) {
        EXPECT_EQ(syscall(SYS_getppid), -1);
        EXPECT_EQ(errno, EXDEV);
        EXPECT_EQ(syscall(SYS_getpid), getpid());
    }
}

// ---- the code itself

static char* page_of_syscall() { return (char*)((uintptr_t)&syscall & ~4095ul); }

// What the kernel tells of the code is what the file says.
CASE(the_kernel_shows_the_code_as_it_was) {
    alignas(64) static char before[128], after[128];
    iovec there{(void*)&syscall, 64}, here{before, 64};
    OK(process_vm_readv(getpid(), &here, 1, &there, 1, 0));
    make_hot();
    here.iov_base = after;
    OK(process_vm_readv(getpid(), &here, 1, &there, 1, 0));
    EXPECT_EQ(memcmp(before, after, 64), 0);
    int fd = OK(open("/proc/self/mem", O_RDONLY));
    EXPECT_EQ(pread(fd, after, 64, (off_t)(uintptr_t)&syscall), 64);
    EXPECT_EQ(memcmp(before, after, 64), 0);
}

CASE(code_made_writable_is_the_files) {
    static char before[128];
    memcpy(before, (void*)&syscall, 64);
    make_hot();
    OK(mprotect(page_of_syscall(), 8192, PROT_READ | PROT_WRITE | PROT_EXEC));
    EXPECT_EQ(memcmp((void*)&syscall, before, 64), 0);
    make_hot();
    memcpy((void*)&syscall, before, 64);
    make_hot();
    OK(mprotect(page_of_syscall(), 8192, PROT_READ | PROT_EXEC));
    EXPECT_EQ(memcmp((void*)&syscall, before, 64), 0);
    make_hot();
}

CASE(code_protected_again_goes_on) {
    for (int i = 0; i < 5; ++i) {
        make_hot(500);
        OK(mprotect(page_of_syscall(), 8192, PROT_READ | PROT_EXEC));
        make_hot(500);
    }
}

// Whatever else the address space holds goes, but the program and its stack.
CASE(everything_unknown_unmapped) {
    make_hot();
    FILE* maps = fopen("/proc/self/maps", "r");
    EXPECT(maps != nullptr);
    char line[512];
    uintptr_t found = 0;
    while (fgets(line, sizeof(line), maps) != nullptr)
        if (strstr(line, "[thunks]") != nullptr) sscanf(line, "%lx", &found);
    fclose(maps);
    if (found != 0) OK(munmap((void*)found, 4096));
    make_hot();
}

static void* ask_for_ever(void* stop) {
    const long self = syscall(SYS_gettid);
    while (!((std::atomic<bool>*)stop)->load())
        if (syscall(SYS_gettid) != self) wrong.store(true);
    return nullptr;
}
CASE(code_changes_while_others_run_it) {
    static std::atomic<bool> stop;
    pthread_t threads[2];
    for (pthread_t& thread : threads) EXPECT_EQ(pthread_create(&thread, nullptr, ask_for_ever, &stop), 0);
    for (int i = 0; i < 50; ++i) {
        make_hot(120);
        OK(mprotect(page_of_syscall(), 8192, PROT_READ | PROT_EXEC | (i % 2 ? PROT_WRITE : 0)));
    }
    stop.store(true);
    for (pthread_t& thread : threads) pthread_join(thread, nullptr);
    EXPECT(!wrong.load());
}
