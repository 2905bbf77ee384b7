// Actions, masks, delivery, queued signals, the alternate stack, restarts, stops, and what the handler sees.
#include <pthread.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/ucontext.h>
#include <ucontext.h>

#include <atomic>
#include <vector>

#include "case.h"

static volatile sig_atomic_t got;
static std::atomic<int> count;
static siginfo_t got_info;
static void note(int number) {
    got = number;
    ++count;
}
static void note_info(int number, siginfo_t* info, void*) {
    got = number;
    ++count;
    got_info = *info;
}
static void handle(int number, int flags = 0, void (*handler)(int) = note) {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    OK(sigaction(number, &action, nullptr));
}
static void handle_info(int number, int flags = 0, void (*handler)(int, siginfo_t*, void*) = note_info) {
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = flags | SA_SIGINFO;
    OK(sigaction(number, &action, nullptr));
}
static sigset_t set_of(std::initializer_list<int> numbers) {
    sigset_t set;
    sigemptyset(&set);
    for (int number : numbers) sigaddset(&set, number);
    return set;
}
static void block(std::initializer_list<int> numbers) {
    sigset_t set = set_of(numbers);
    OK(sigprocmask(SIG_BLOCK, &set, nullptr));
}
static void unblock(std::initializer_list<int> numbers) {
    sigset_t set = set_of(numbers);
    OK(sigprocmask(SIG_UNBLOCK, &set, nullptr));
}
// Runs `wait` in a child that has `number` handled, and signals the child once it sleeps.
template <typename Wait>
static void interrupted(int number, int flags, Wait wait) {
    pid_t pid = child([&] {
        handle(number, flags);
        wait();
    });
    EXPECT(reaches_state(pid, "S"));
    sleep_ms(20);
    OK(kill(pid, number));
    EXPECT_EXIT(pid, 0);
}

// ---- sigaction

CASE(handler_runs) {
    handle(SIGUSR1);
    OK(raise(SIGUSR1));
    EXPECT_EQ(got, SIGUSR1);
    EXPECT_EQ(count, 1);
}
CASE(sigaction_returns_old) {
    handle(SIGUSR1, SA_RESTART | SA_NODEFER);
    struct sigaction old {};
    OK(sigaction(SIGUSR1, nullptr, &old));
    EXPECT(old.sa_handler == note);
    EXPECT_EQ(old.sa_flags & (SA_RESTART | SA_NODEFER), SA_RESTART | SA_NODEFER);
}
CASE(sigaction_errors) {
    struct sigaction action {};
    action.sa_handler = note;
    FAILS(sigaction(0, &action, nullptr), EINVAL);
    FAILS(sigaction(65, &action, nullptr), EINVAL);
    FAILS(sigaction(SIGKILL, &action, nullptr), EINVAL);
    FAILS(sigaction(SIGSTOP, &action, nullptr), EINVAL);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, bad(), 0, 8), EFAULT);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, 0, bad(), 8), EFAULT);
    FAILS(syscall(SYS_rt_sigaction, SIGUSR1, 0, 0, 4), EINVAL);
}
CASE(handler_blocks_itself) {
    static int depth, deepest;
    handle(SIGUSR1, 0, [](int) {
        if (++depth > deepest) deepest = depth;
        if (count++ == 0) raise(SIGUSR1);
        --depth;
    });
    raise(SIGUSR1);
    EXPECT_EQ(deepest, 1);
    EXPECT_EQ(count, 2);
}
CASE(handler_nodefer) {
    static int depth, deepest;
    handle(SIGUSR1, SA_NODEFER, [](int) {
        if (++depth > deepest) deepest = depth;
        if (count++ == 0) raise(SIGUSR1);
        --depth;
    });
    raise(SIGUSR1);
    EXPECT_EQ(deepest, 2);
}
CASE(handler_mask_applies) {
    struct sigaction action {};
    static bool blocked;
    action.sa_handler = [](int) {
        sigset_t mask;
        sigprocmask(0, nullptr, &mask);
        blocked = sigismember(&mask, SIGUSR2) && sigismember(&mask, SIGUSR1);
    };
    action.sa_mask = set_of({SIGUSR2});
    OK(sigaction(SIGUSR1, &action, nullptr));
    raise(SIGUSR1);
    EXPECT(blocked);
    sigset_t mask;
    OK(sigprocmask(0, nullptr, &mask));
    EXPECT(!sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2));
}
CASE(resethand_once) {
    handle(SIGUSR1, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now {};
    OK(sigaction(SIGUSR1, nullptr, &now));
    EXPECT(now.sa_handler == SIG_DFL);
}
CASE(ignored_is_dropped) {
    signal(SIGUSR1, SIG_IGN);
    raise(SIGUSR1);
    handle(SIGUSR1);
    EXPECT_EQ(count, 0);
}
CASE(ignoring_discards_pending) {
    handle(SIGUSR1);
    block({SIGUSR1});
    raise(SIGUSR1);
    signal(SIGUSR1, SIG_IGN);
    handle(SIGUSR1);
    unblock({SIGUSR1});
    EXPECT_EQ(count, 0);
}
CASE(handlers_over_fork) {
    handle(SIGUSR1);
    in_child([] {
        raise(SIGUSR1);
        EXPECT_EQ(count, 1);
    });
    EXPECT_EQ(count, 0);
}
CASE(default_actions_end) {
    for (int number :
         {SIGHUP,  SIGINT, SIGQUIT, SIGILL,    SIGABRT, SIGFPE, SIGSEGV, SIGPIPE, SIGALRM,   SIGTERM, SIGUSR1,
          SIGUSR2, SIGBUS, SIGXCPU, SIGVTALRM, SIGIO,   SIGSYS, SIGTRAP, SIGPWR,  SIGSTKFLT, 34,      64})
        EXPECT_SIGNAL(child([&] { kill(getpid(), number); }), number);
}
CASE(default_actions_ignore) {
    in_child([] {
        for (int number : {SIGCHLD, SIGURG, SIGWINCH, SIGCONT}) OK(raise(number));
    });
}
CASE(init_like_kill_zero) {
    OK(kill(getpid(), 0));
    FAILS(kill(99999999, 0), ESRCH);
    FAILS(kill(getpid(), 65), EINVAL);
    FAILS(kill(getpid(), -1), EINVAL);
}
CASE(kill_needs_same_user) {
    if (geteuid() != 0) skip("needs root");
    pid_t parent = getpid();
    in_child([&] {
        OK(syscall(SYS_setresuid, 12345, 12345, 12345));
        FAILS(kill(parent, SIGTERM), EPERM);
        FAILS(kill(parent, 0), EPERM);
    });
}

// ---- masks and pending

CASE(blocked_is_pending_once) {
    handle(SIGUSR1);
    block({SIGUSR1});
    for (int i = 0; i < 5; ++i) raise(SIGUSR1);
    EXPECT_EQ(count, 0);
    sigset_t pending;
    OK(sigpending(&pending));
    EXPECT(sigismember(&pending, SIGUSR1));
    EXPECT(!sigismember(&pending, SIGUSR2));
    unblock({SIGUSR1});
    EXPECT_EQ(count, 1);
}
CASE(real_time_signals_queue) {
    static std::vector<int> values;
    handle_info(SIGRTMIN, 0, [](int, siginfo_t* info, void*) { values.push_back(info->si_value.sival_int); });
    block({SIGRTMIN});
    for (int i = 0; i < 5; ++i) OK(sigqueue(getpid(), SIGRTMIN, sigval{i}));
    unblock({SIGRTMIN});
    EXPECT_EQ(values.size(), 5);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(values[i], i);
}
CASE(lower_number_first) {
    static std::vector<int> order;
    for (int number : {SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2}) {
        struct sigaction action {};
        action.sa_handler = [](int which) { order.push_back(which); };
        action.sa_mask = set_of({SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2});
        OK(sigaction(number, &action, nullptr));
    }
    block({SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2});
    for (int number : {SIGRTMIN + 2, SIGRTMIN, SIGRTMIN + 1}) raise(number);
    unblock({SIGRTMIN, SIGRTMIN + 1, SIGRTMIN + 2});
    EXPECT_EQ(order.size(), 3);
    EXPECT_EQ(order[0], SIGRTMIN);
    EXPECT_EQ(order[2], SIGRTMIN + 2);
}
CASE(sigprocmask_setmask_and_old) {
    block({SIGUSR1});
    sigset_t set = set_of({SIGUSR2}), old;
    OK(sigprocmask(SIG_SETMASK, &set, &old));
    EXPECT(sigismember(&old, SIGUSR1));
    OK(sigprocmask(0, nullptr, &old));
    EXPECT(!sigismember(&old, SIGUSR1) && sigismember(&old, SIGUSR2));
}
CASE(kill_and_stop_cannot_be_blocked) {
    sigset_t all, now;
    sigfillset(&all);
    OK(sigprocmask(SIG_SETMASK, &all, nullptr));
    OK(sigprocmask(0, nullptr, &now));
    EXPECT(!sigismember(&now, SIGKILL) && !sigismember(&now, SIGSTOP));
}
CASE(sigprocmask_errors) {
    sigset_t set = set_of({});
    FAILS(sigprocmask(99, &set, nullptr), EINVAL);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, bad(), 0, 8), EFAULT);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, bad(), 8), EFAULT);
    FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, 0, 16), EINVAL);
    FAILS(syscall(SYS_rt_sigpending, bad(), 8), EFAULT);
}
CASE(queue_limit) {
    in_child([] {
        rlimit limit{2, 2};
        OK(setrlimit(RLIMIT_SIGPENDING, &limit));
        block({SIGRTMIN});
        int queued = 0;
        while (queued < 1000 && sigqueue(getpid(), SIGRTMIN, sigval{0}) == 0) ++queued;
        EXPECT_EQ(errno, EAGAIN);
    });
}
CASE(thread_mask_is_own) {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            block({SIGUSR1});
            return nullptr;
        },
        nullptr);
    pthread_join(thread, nullptr);
    sigset_t mask;
    OK(sigprocmask(0, nullptr, &mask));
    EXPECT(!sigismember(&mask, SIGUSR1));
}
CASE(process_signal_goes_to_willing_thread) {
    static volatile pid_t where;
    handle(SIGUSR1, 0, [](int) { where = syscall(SYS_gettid); });
    static volatile bool ready;
    static volatile pid_t other;
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void*) -> void* {
            other = syscall(SYS_gettid);
            unblock({SIGUSR1});
            ready = true;
            while (where == 0) sleep_ms(1);
            return nullptr;
        },
        nullptr);
    block({SIGUSR1});
    while (!ready) sleep_ms(1);
    OK(kill(getpid(), SIGUSR1));
    pthread_join(thread, nullptr);
    EXPECT_EQ(where, other);
}

// ---- siginfo and context

CASE(siginfo_of_kill) {
    handle_info(SIGUSR1);
    in_child([] { OK(kill(getppid(), SIGUSR1)); });
    EXPECT_EQ(got_info.si_signo, SIGUSR1);
    EXPECT_EQ(got_info.si_code, SI_USER);
    EXPECT(got_info.si_pid > 0 && got_info.si_pid != getpid());
    EXPECT_EQ(got_info.si_uid, getuid());
}
CASE(siginfo_of_raise) {
    handle_info(SIGUSR1);
    raise(SIGUSR1);
    EXPECT_EQ(got_info.si_code, SI_TKILL);
    EXPECT_EQ(got_info.si_pid, getpid());
}
CASE(siginfo_of_sigqueue) {
    handle_info(SIGUSR1);
    sigval value;
    value.sival_ptr = (void*)0x123456789a;
    OK(sigqueue(getpid(), SIGUSR1, value));
    EXPECT_EQ(got_info.si_code, SI_QUEUE);
    EXPECT(got_info.si_value.sival_ptr == value.sival_ptr);
}
CASE(siginfo_of_child) {
    handle_info(SIGCHLD);
    pid_t pid = child([] { _exit(3); });
    while (count == 0) sleep_ms(1);
    EXPECT_EQ(got_info.si_code, CLD_EXITED);
    EXPECT_EQ(got_info.si_pid, pid);
    EXPECT_EQ(got_info.si_status, 3);
    wait_for(pid);
}
CASE(sigchld_nocldstop) {
    handle(SIGCHLD, SA_NOCLDSTOP);
    pid_t pid = child([] { pause(); });
    kill(pid, SIGSTOP);
    int status;
    EXPECT_EQ(waitpid(pid, &status, WUNTRACED), pid);
    EXPECT_EQ(count, 0);
    kill(pid, SIGKILL);
    wait_for(pid);
    EXPECT_EQ(count, 1);
}
CASE(rt_sigqueueinfo_rules) {
    siginfo_t info{};
    info.si_code = SI_USER;
    in_child([&] { FAILS(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &info), EPERM); });
    info.si_code = -60;
    handle_info(SIGUSR1);
    OK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info));
    EXPECT_EQ(got_info.si_code, -60);
    FAILS(syscall(SYS_rt_sigqueueinfo, 99999999, SIGUSR1, &info), ESRCH);
    FAILS(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, bad()), EFAULT);
    OK(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGUSR1, &info));
    EXPECT_EQ(count, 2);
}
CASE(context_registers_can_be_changed) {
    handle_info(SIGUSR1, 0,
                [](int, siginfo_t*, void* context) { ((ucontext_t*)context)->uc_mcontext.gregs[REG_RBX] = 0x1234; });
    long value = 1;
    long pid = getpid();
    asm volatile(
        "mov $0x55, %%rbx\n"
        "mov %1, %%rdi\n"
        "mov $10, %%esi\n"
        "mov $62, %%eax\n"
        "syscall\n"
        "mov %%rbx, %0\n"
        : "=r"(value)
        : "r"(pid)
        : "rax", "rbx", "rcx", "rdi", "rsi", "r11", "memory");
    EXPECT_EQ(value, 0x1234);
}
CASE(context_mask_restored) {
    handle_info(SIGUSR1, 0,
                [](int, siginfo_t*, void* context) { sigaddset(&((ucontext_t*)context)->uc_sigmask, SIGUSR2); });
    raise(SIGUSR1);
    sigset_t mask;
    OK(sigprocmask(0, nullptr, &mask));
    EXPECT(sigismember(&mask, SIGUSR2));
}
CASE(vector_registers_survive_handler) {
    handle(SIGUSR1, 0, [](int) {
        double zero = 0;
        asm volatile("movsd %0, %%xmm8\n movsd %0, %%xmm1" : : "m"(zero) : "xmm8", "xmm1");
    });
    double before = 2.25, after = 0;
    long pid = getpid();
    asm volatile(
        "movsd %1, %%xmm8\n"
        "mov %2, %%rdi\n"
        "mov $10, %%esi\n"
        "mov $62, %%eax\n"
        "syscall\n"
        "movsd %%xmm8, %0\n"
        : "=m"(after)
        : "m"(before), "r"(pid)
        : "rax", "rcx", "rdi", "rsi", "r11", "xmm8", "memory");
    EXPECT(after == 2.25);
}
CASE(syscall_keeps_registers) {
    uint64_t rbx, r12, r15, rdx, r8, r9, r10;
    asm volatile(
        "mov $0x1111, %%rbx\n mov $0x2222, %%r12\n mov $0x3333, %%r15\n mov $0x4444, %%rdx\n"
        "mov $0x5555, %%r8\n mov $0x6666, %%r9\n mov $0x7777, %%r10\n"
        "mov $39, %%eax\n syscall\n"
        "mov %%rbx, %0\n mov %%r12, %1\n mov %%r15, %2\n mov %%rdx, %3\n mov %%r8, %4\n mov %%r9, %5\n mov %%r10, %6\n"
        : "=m"(rbx), "=m"(r12), "=m"(r15), "=m"(rdx), "=m"(r8), "=m"(r9), "=m"(r10)
        :
        : "rax", "rbx", "r12", "r15", "rdx", "r8", "r9", "r10", "rcx", "r11", "memory");
    EXPECT_EQ(rbx, 0x1111);
    EXPECT_EQ(r12, 0x2222);
    EXPECT_EQ(r15, 0x3333);
    EXPECT_EQ(rdx, 0x4444);
    EXPECT_EQ(r8, 0x5555);
    EXPECT_EQ(r9, 0x6666);
    EXPECT_EQ(r10, 0x7777);
}
CASE(fault_divide) {
    static sigjmp_buf back;
    handle_info(SIGFPE, 0, [](int, siginfo_t* info, void*) {
        got_info = *info;
        siglongjmp(back, 1);
    });
    if (sigsetjmp(back, 1) == 0)
        asm volatile("xor %%edx, %%edx\n mov $1, %%eax\n xor %%ecx, %%ecx\n div %%ecx" : : : "eax", "ecx", "edx");
    EXPECT_EQ(got_info.si_code, FPE_INTDIV);
}
CASE(fault_illegal) {
    handle_info(SIGILL, 0, [](int, siginfo_t* info, void* context) {
        got_info = *info;
        ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] += 2;
    });
    asm volatile("ud2");
    EXPECT_EQ(got_info.si_signo, SIGILL);
    EXPECT_EQ(got_info.si_code, ILL_ILLOPN);
}
CASE(fault_breakpoint) {
    handle_info(SIGTRAP);
    asm volatile("int3");
    EXPECT_EQ(got, SIGTRAP);
    EXPECT_EQ(count, 1);
}
CASE(fault_privileged) {
    handle_info(SIGSEGV, 0, [](int number, siginfo_t*, void* context) {
        got = number;
        ((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] += 1;
    });
    asm volatile("hlt");
    EXPECT_EQ(got, SIGSEGV);
}
CASE(fault_while_blocked_kills) {
    EXPECT_SIGNAL(child([] {
                      handle(SIGSEGV);
                      block({SIGSEGV});
                      *(volatile char*)bad() = 1;
                  }),
                  SIGSEGV);
}
CASE(fault_while_ignored_kills) {
    EXPECT_SIGNAL(child([] {
                      signal(SIGSEGV, SIG_IGN);
                      *(volatile char*)bad() = 1;
                  }),
                  SIGSEGV);
}
CASE(single_step_by_trap_flag) {
    handle(SIGTRAP);
    asm volatile(
        "pushfq\n orq $0x100, (%%rsp)\n popfq\n nop\n nop\n nop\n"
        "pushfq\n andq $~0x100, (%%rsp)\n popfq\n"
        :
        :
        : "memory", "cc");
    EXPECT(count >= 3);
}

// ---- alternate stack

static char alternate[65536];
CASE(altstack_used) {
    stack_t stack{alternate, 0, sizeof alternate}, now{};
    OK(sigaltstack(&stack, nullptr));
    static volatile char* at;
    static volatile int flags;
    handle(SIGUSR1, SA_ONSTACK, [](int) {
        at = (char*)__builtin_frame_address(0);
        stack_t inside{};
        sigaltstack(nullptr, &inside);
        flags = inside.ss_flags;
    });
    raise(SIGUSR1);
    EXPECT(at >= alternate && at < alternate + sizeof alternate);
    EXPECT(flags & SS_ONSTACK);
    OK(sigaltstack(nullptr, &now));
    EXPECT(now.ss_sp == alternate && now.ss_flags == 0);
}
CASE(altstack_not_used_without_flag) {
    stack_t stack{alternate, 0, sizeof alternate};
    OK(sigaltstack(&stack, nullptr));
    static volatile char* at;
    handle(SIGUSR1, 0, [](int) { at = (char*)__builtin_frame_address(0); });
    raise(SIGUSR1);
    EXPECT(at < alternate || at >= alternate + sizeof alternate);
}
CASE(altstack_change_while_on_it) {
    stack_t stack{alternate, 0, sizeof alternate};
    OK(sigaltstack(&stack, nullptr));
    handle(SIGUSR1, SA_ONSTACK, [](int) {
        stack_t other{alternate, 0, sizeof alternate};
        got = sigaltstack(&other, nullptr) == -1 ? errno : 0;
    });
    raise(SIGUSR1);
    EXPECT_EQ(got, EPERM);
}
CASE(altstack_errors) {
    stack_t stack{alternate, 0, 100};
    FAILS(sigaltstack(&stack, nullptr), ENOMEM);
    stack = {alternate, 0x100, sizeof alternate};
    FAILS(sigaltstack(&stack, nullptr), EINVAL);
    FAILS(sigaltstack((stack_t*)bad(), nullptr), EFAULT);
    stack = {nullptr, SS_DISABLE, 0};
    OK(sigaltstack(&stack, nullptr));
}
CASE(altstack_over_fork) {
    stack_t stack{alternate, 0, sizeof alternate};
    OK(sigaltstack(&stack, nullptr));
    in_child([] {
        stack_t now{};
        OK(sigaltstack(nullptr, &now));
        EXPECT(now.ss_sp == alternate);
    });
}
static int endless(int depth) {
    volatile char frame[4096];
    frame[0] = depth;
    return depth < 0 ? 0 : endless(depth + 1) + frame[0];
}
CASE(stack_overflow_handled_on_altstack) {
    EXPECT_EXIT(child([] {
                    rlimit limit{1 << 20, RLIM_INFINITY};
                    setrlimit(RLIMIT_STACK, &limit);
                    stack_t stack{alternate, 0, sizeof alternate};
                    OK(sigaltstack(&stack, nullptr));
                    handle(SIGSEGV, SA_ONSTACK, [](int) { _exit(9); });
                    _exit(endless(0) & 1);
                }),
                9);
}

// ---- interruption and restart

CASE(read_interrupted) {
    int ends[2];
    OK(pipe(ends));
    interrupted(SIGUSR1, 0, [&] { FAILS(read(ends[0], scratch(), 1), EINTR); });
}
CASE(read_restarted) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        handle(SIGUSR1, SA_RESTART);
        EXPECT_EQ(read(ends[0], scratch(), 1), 1);
        EXPECT_EQ(count, 1);
    });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGUSR1));
    sleep_ms(30);
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
}
CASE(wait_interrupted) {
    interrupted(SIGUSR1, 0, [] {
        pid_t pid = child([] { pause(); });
        FAILS(waitpid(pid, nullptr, 0), EINTR);
        kill(pid, SIGKILL);
    });
}
CASE(pause_interrupted) {
    interrupted(SIGUSR1, SA_RESTART, [] { FAILS(pause(), EINTR); });
}
CASE(nanosleep_remaining) {
    interrupted(SIGUSR1, SA_RESTART, [] {
        timespec wanted{5, 0}, left{0, 0};
        FAILS(nanosleep(&wanted, &left), EINTR);
        EXPECT(left.tv_sec == 4);
    });
}
CASE(ignored_signal_does_not_interrupt) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        signal(SIGUSR1, SIG_IGN);
        EXPECT_EQ(read(ends[0], scratch(), 1), 1);
    });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGUSR1));
    sleep_ms(20);
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
}
CASE(stop_continue_does_not_interrupt_read) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] { EXPECT_EQ(read(ends[0], scratch(), 1), 1); });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGSTOP));
    EXPECT(reaches_state(pid, "T"));
    OK(kill(pid, SIGCONT));
    EXPECT(reaches_state(pid, "S"));
    OK(write(ends[1], "x", 1));
    EXPECT_EXIT(pid, 0);
}
CASE(sigsuspend_swaps_mask) {
    handle(SIGUSR1);
    block({SIGUSR1});
    raise(SIGUSR1);
    sigset_t none = set_of({});
    FAILS(sigsuspend(&none), EINTR);
    EXPECT_EQ(count, 1);
    sigset_t mask;
    OK(sigprocmask(0, nullptr, &mask));
    EXPECT(sigismember(&mask, SIGUSR1));
}
FAILS_CASE(sigsuspend_bad_size, syscall(SYS_rt_sigsuspend, scratch(), 4), EINVAL)
CASE(sigtimedwait_takes) {
    block({SIGUSR1, SIGRTMIN});
    OK(sigqueue(getpid(), SIGRTMIN, sigval{77}));
    siginfo_t info{};
    sigset_t set = set_of({SIGRTMIN});
    timespec soon{1, 0};
    EXPECT_EQ(sigtimedwait(&set, &info, &soon), SIGRTMIN);
    EXPECT_EQ(info.si_value.sival_int, 77);
    soon = {0, 1000000};
    FAILS(sigtimedwait(&set, &info, &soon), EAGAIN);
    soon = {0, 2000000000};
    FAILS(sigtimedwait(&set, &info, &soon), EINVAL);
}
CASE(sigtimedwait_interrupted_by_other) {
    interrupted(SIGUSR2, SA_RESTART, [] {
        block({SIGUSR1});
        sigset_t set = set_of({SIGUSR1});
        FAILS(syscall(SYS_rt_sigtimedwait, &set, 0, 0, 8), EINTR);
    });
}
CASE(sigwaitinfo_woken_by_child) {
    block({SIGUSR1});
    pid_t parent = getpid();
    pid_t pid = child([&] {
        reaches_state(parent, "S");
        kill(parent, SIGUSR1);
    });
    sigset_t set = set_of({SIGUSR1});
    siginfo_t info{};
    EXPECT_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    EXPECT_EQ(info.si_pid, pid);
    wait_for(pid);
}

// ---- stop, continue, kill

CASE(stop_and_continue_handler) {
    int ends[2];
    OK(pipe(ends));
    static int out;
    out = ends[1];
    pid_t pid = child([] {
        handle(SIGCONT, 0, [](int) { write(out, "C", 1); });
        for (;;) pause();
    });
    EXPECT(reaches_state(pid, "S"));
    OK(kill(pid, SIGSTOP));
    EXPECT(reaches_state(pid, "T"));
    OK(kill(pid, SIGCONT));
    EXPECT_EQ(read(ends[0], scratch(), 1), 1);
    OK(kill(pid, SIGKILL));
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(kill_ends_stopped) {
    pid_t pid = child([] { pause(); });
    OK(kill(pid, SIGSTOP));
    EXPECT(reaches_state(pid, "T"));
    OK(kill(pid, SIGKILL));
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(term_waits_while_stopped) {
    pid_t pid = child([] { pause(); });
    OK(kill(pid, SIGSTOP));
    EXPECT(reaches_state(pid, "T"));
    OK(kill(pid, SIGTERM));
    sleep_ms(20);
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    OK(kill(pid, SIGCONT));
    EXPECT_SIGNAL(pid, SIGTERM);
}
CASE(cont_cancels_pending_stop) {
    block({SIGTSTP});
    raise(SIGTSTP);
    raise(SIGCONT);
    sigset_t pending;
    OK(sigpending(&pending));
    EXPECT(!sigismember(&pending, SIGTSTP));
}
CASE(kill_busy_loop) {
    pid_t pid = child([] {
        for (;;) asm volatile("");
    });
    sleep_ms(20);
    OK(kill(pid, SIGKILL));
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(handler_interrupts_busy_loop) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = child([&] {
        handle(SIGUSR1);
        write(ends[1], "r", 1);
        while (count == 0) asm volatile("");
    });
    OK(read(ends[0], scratch(), 1));
    OK(kill(pid, SIGUSR1));
    EXPECT_EXIT(pid, 0);
}
CASE(kill_all_threads) {
    pid_t pid = child([] {
        pthread_t thread;
        for (int i = 0; i < 5; ++i)
            pthread_create(
                &thread, nullptr,
                [](void*) -> void* {
                    for (;;) pause();
                },
                nullptr);
        for (;;) pause();
    });
    sleep_ms(20);
    OK(kill(pid, SIGKILL));
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(sigpipe_from_write) {
    int ends[2];
    OK(pipe(ends));
    close(ends[0]);
    EXPECT_SIGNAL(child([&] { write(ends[1], "x", 1); }), SIGPIPE);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], "x", 1), EPIPE);
}
CASE(parent_death_signal) {
    int ends[2];
    OK(pipe(ends));
    in_child([&] {
        child([&] {
            syscall(SYS_prctl, 1 /* PR_SET_PDEATHSIG */, SIGUSR1, 0, 0, 0);
            static int out;
            out = ends[1];
            handle(SIGUSR1, 0, [](int) {
                write(out, "D", 1);
                _exit(0);
            });
            write(ends[1], "r", 1);
            for (;;) pause();
        });
        char c;
        EXPECT_EQ(read(ends[0], &c, 1), 1);
    });
    char c = 0;
    EXPECT_EQ(read(ends[0], &c, 1), 1);
    EXPECT_EQ(c, 'D');
}
CASE(cpu_limit_signal) {
    EXPECT_SIGNAL(child([] {
                      rlimit limit{1, 2};
                      OK(setrlimit(RLIMIT_CPU, &limit));
                      for (;;) asm volatile("");
                  }),
                  SIGXCPU);
}
CASE(longjmp_out_of_handler) {
    static sigjmp_buf back;
    handle(SIGUSR1, 0, [](int) { siglongjmp(back, 5); });
    for (int i = 0; i < 3; ++i) {
        int value = sigsetjmp(back, 1);
        if (value == 0) raise(SIGUSR1);
        EXPECT_EQ(value == 0 ? 5 : value, 5);
    }
}
CASE(many_signals_between_processes) {
    handle(SIGUSR1);
    pid_t parent = getpid();
    int ends[2];
    OK(pipe(ends));
    block({SIGUSR1});
    pid_t pid = child([&] {
        for (int i = 0; i < 200; ++i) {
            kill(parent, SIGUSR1);
            char c;
            EXPECT_EQ(read(ends[0], &c, 1), 1);
        }
    });
    sigset_t set = set_of({SIGUSR1});
    for (int i = 0; i < 200; ++i) {
        EXPECT_EQ(sigwaitinfo(&set, nullptr), SIGUSR1);
        OK(write(ends[1], "x", 1));
    }
    EXPECT_EXIT(pid, 0);
}
