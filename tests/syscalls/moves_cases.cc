// System calls behind moves between registers alone, as Go's programs make all of theirs (Syscall6): a kernel that
// makes such a place faster has no instruction there that is as long as a jump.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

#include <atomic>

#include "case.h"

extern "C" {
// From the first move on, and from the last one on, which is all that is left to do then.
long call_by_moves(long number, long a, long b, long c, long d);
long call_by_last_move(long number, long a, long b, long c, long d);
extern const char by_moves_last[], by_moves_end[];
}
asm(R"(
    .text
    .balign 64
call_by_moves:
    push %rbx
    mov %rdi, %rax
    mov %rsi, %rbx
    mov %rcx, %rdi
    mov %rdx, %rcx
    mov %r8, %rsi
    xor %r8d, %r8d
    xor %r9d, %r9d
    jmp 1f
    .balign 64
1:  mov %rsi, %r10
    mov %rdi, %rdx
    mov %rcx, %rsi
by_moves_last:
    mov %rbx, %rdi
    syscall
by_moves_end:
    pop %rbx
    ret
call_by_last_move:
    push %rbx
    mov %rdi, %rax
    mov %rsi, %rbx
    mov %rdx, %rsi
    mov %rcx, %rdx
    mov %r8, %r10
    xor %r8d, %r8d
    xor %r9d, %r9d
    jmp by_moves_last
)");

static const int kOften = 2000;

static void make_hot(int count = kOften) {
    const int own = getpriority(PRIO_PROCESS, 0);
    for (int i = 0; i < count; ++i) EXPECT_EQ(call_by_moves(SYS_getpriority, PRIO_PROCESS, 0, 0, 0), 20 - own);
}

static void protect(int protection) {
    const uintptr_t page = (uintptr_t)by_moves_last & ~4095ul;
    OK(mprotect((void*)page, 8192, protection));
}

CASE(arguments_and_results) {
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    char data[512], back[512];
    for (int i = 0; i < kOften; ++i) {
        memset(data, i & 0x7f, sizeof(data));
        EXPECT_EQ(call_by_moves(SYS_pwrite64, fd, (long)data, sizeof(data), (i % 8) * 512), 512);
        EXPECT_EQ(call_by_moves(SYS_pread64, fd, (long)back, sizeof(back), (i % 8) * 512), 512);
        EXPECT_EQ(memcmp(data, back, sizeof(data)), 0);
        EXPECT_EQ(call_by_moves(SYS_pread64, -1, (long)back, 1, 0), -EBADF);
        EXPECT_EQ(call_by_moves(SYS_getpid, 0, 0, 0, 0), getpid());
        EXPECT_EQ(call_by_moves(SYS_write, fd, (long)bad(), 1, 0), -EFAULT);
        EXPECT_EQ(call_by_moves(12345, 1, 2, 3, 4), -ENOSYS);
    }
}

CASE(entered_in_the_middle) {
    make_hot();
    int fd = OK(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    for (int i = 0; i < kOften; ++i) {
        long value = i, back = -1;
        EXPECT_EQ(call_by_last_move(SYS_pwrite64, fd, (long)&value, sizeof(value), 8 * i), (long)sizeof(value));
        EXPECT_EQ(call_by_moves(SYS_pread64, fd, (long)&back, sizeof(back), 8 * i), (long)sizeof(back));
        EXPECT_EQ(back, i);
    }
}

CASE(a_child_has_it_too) {
    make_hot();
    for (int i = 0; i < 5; ++i) {
        pid_t pid = OK(fork());
        if (pid == 0) {
            for (int j = 0; j < 500; ++j)
                if (call_by_moves(SYS_getpid, 0, 0, 0, 0) != getpid() ||
                    call_by_last_move(SYS_getpid, 0, 0, 0, 0) != getpid())
                    _exit(1);
            _exit(0);
        }
        int status;
        OK(waitpid(pid, &status, 0));
        EXPECT_EQ(status, 0);
        make_hot(200);
    }
}

static std::atomic<bool> stop, wrong;

static void* ask_for_ever(void* by_last) {
    const long self = syscall(SYS_gettid);
    while (!stop.load())
        if ((by_last != nullptr ? call_by_last_move : call_by_moves)(SYS_gettid, 0, 0, 0, 0) != self) wrong = true;
    return nullptr;
}

// The place changes, and changes back, under threads that are anywhere in it.
CASE(changes_while_others_run_it) {
    pthread_t threads[3];
    for (size_t i = 0; i < 3; ++i)
        EXPECT_EQ(pthread_create(&threads[i], nullptr, ask_for_ever, i == 0 ? &stop : nullptr), 0);
    for (int i = 0; i < 50; ++i) {
        make_hot(150);
        protect(PROT_READ | PROT_EXEC | (i % 2 ? PROT_WRITE : 0));
    }
    stop = true;
    for (pthread_t& thread : threads) pthread_join(thread, nullptr);
    EXPECT(!wrong.load());
}

static std::atomic<int> alarms, elsewhere;

// Wherever it comes while the main thread does nothing but such calls: at one of these instructions, as if nothing had
// changed.
static void on_alarm(int, siginfo_t*, void* context) {
    const auto& registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    const uintptr_t ip = (uintptr_t)registers[REG_RIP], place = (uintptr_t)by_moves_end;
    ++alarms;
    if (ip <= place - 14 || ip > place) return;  // the loop around it
    if (ip != place && ip != place - 2 && ip != place - 5 && ip != place - 8 && ip != place - 11) ++elsewhere;
}

CASE(signals_see_the_place_as_it_was) {
    struct sigaction action {};
    action.sa_sigaction = on_alarm;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    OK(sigaction(SIGALRM, &action, nullptr));
    struct itimerval often = {{0, 1000}, {0, 1000}};
    OK(setitimer(ITIMER_REAL, &often, nullptr));
    const long self = syscall(SYS_getpid);
    while (alarms < 100) {
        for (int i = 0; i < 50; ++i) {
            EXPECT_EQ(call_by_moves(SYS_getpid, 0, 0, 0, 0), self);
            EXPECT_EQ(call_by_moves(SYS_getpgid, 0, 0, 0, 0), getpgrp());
        }
    }
    struct itimerval never {};
    OK(setitimer(ITIMER_REAL, &never, nullptr));
    EXPECT_EQ(elsewhere.load(), 0);
}

static std::atomic<int> traps;

static void on_trap(int, siginfo_t*, void* context) {
    auto& ip = ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP];
    if ((uintptr_t)ip != (uintptr_t)by_moves_last + 1) _exit(3);
    ++traps;
    *(char*)by_moves_last = 0x48;
    --ip;
}

CASE(a_breakpoint_of_ones_own) {
    make_hot();
    struct sigaction action {};
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO;
    OK(sigaction(SIGTRAP, &action, nullptr));
    protect(PROT_READ | PROT_WRITE | PROT_EXEC);
    EXPECT_EQ((unsigned char)*by_moves_last, 0x48);
    for (int i = 1; i <= 3; ++i) {
        *(volatile char*)by_moves_last = (char)0xcc;
        EXPECT_EQ(call_by_moves(SYS_getpid, 0, 0, 0, 0), getpid());
        EXPECT_EQ(traps.load(), i);
    }
    protect(PROT_READ | PROT_EXEC);
    make_hot();
    EXPECT_EQ(traps.load(), 3);
}
