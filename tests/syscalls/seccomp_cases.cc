// Filters that a program sets for itself: what is accepted, what each action does, who is bound by them.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <ucontext.h>

#include <cstddef>
#include <vector>

#include "case.h"

#ifndef SECCOMP_FILTER_FLAG_TSYNC_ESRCH
#define SECCOMP_FILTER_FLAG_TSYNC_ESRCH (1UL << 4)
#endif

using Code = std::vector<sock_filter>;

static sock_filter ret(uint32_t value) { return BPF_STMT(BPF_RET | BPF_K, value); }
static sock_filter load(unsigned offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
static sock_filter load_number() { return load(offsetof(seccomp_data, nr)); }
static sock_filter load_argument(int i, bool high = false) {
    return load((unsigned)offsetof(seccomp_data, args) + i * 8 + (high ? 4 : 0));
}
static sock_filter when(uint32_t k, int yes, int no) {
    return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, (uint8_t)yes, (uint8_t)no);
}

static long set(const Code& code, unsigned flags = 0) {
    sock_fprog program{(unsigned short)code.size(), (sock_filter*)code.data()};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}
static long install(const Code& code, unsigned flags = 0) {
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    return set(code, flags);
}
// One call gets `value`, all others are allowed.
static Code one(int number, uint32_t value) {
    return {load_number(), when((unsigned)number, 0, 1), ret(value), ret(SECCOMP_RET_ALLOW)};
}
static std::string status_field(const char* name) {
    std::string text = read_all("/proc/self/status"), key = std::string("\n") + name + ":\t";
    size_t at = text.find(key);
    if (at == std::string::npos) return "";
    at += key.size();
    return text.substr(at, text.find('\n', at) - at);
}
static long probe() { return syscall(SYS_getpriority, 0, 0); }

// ---- what is accepted

static void refused(const Code& code) {
    in_child([&] { FAILS(install(code), EINVAL); });
}
#define REFUSED_CASE(name, ...) \
    CASE(name) { refused(Code{__VA_ARGS__}); }
static const sock_filter kAllow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);

REFUSED_CASE(program_without_return, load(0))
REFUSED_CASE(program_falls_off, kAllow, load(0))
REFUSED_CASE(load_beyond_data, load(64), kAllow)
REFUSED_CASE(load_unaligned, load(2), kAllow)
REFUSED_CASE(load_half_word, BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0), kAllow)
REFUSED_CASE(load_byte, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), kAllow)
REFUSED_CASE(load_indirect, BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), kAllow)
REFUSED_CASE(load_msh, BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), kAllow)
REFUSED_CASE(modulo, BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), kAllow)
REFUSED_CASE(divide_by_zero, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), kAllow)
REFUSED_CASE(shift_by_32, BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), kAllow)
REFUSED_CASE(shift_right_by_99, BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 99), kAllow)
REFUSED_CASE(memory_word_16, BPF_STMT(BPF_ST, 16), kAllow)
REFUSED_CASE(memory_read_first, BPF_STMT(BPF_LD | BPF_MEM, 0), kAllow)
REFUSED_CASE(memory_written_on_one_way_only, load(0), when(1, 0, 1), BPF_STMT(BPF_ST, 3), BPF_STMT(BPF_LD | BPF_MEM, 3),
             kAllow)
REFUSED_CASE(jump_out, BPF_STMT(BPF_JMP | BPF_JA, 5), kAllow)
REFUSED_CASE(jump_wraps, BPF_STMT(BPF_JMP | BPF_JA, 0xffffffff), kAllow)
REFUSED_CASE(branch_out, when(1, 0, 200), kAllow)
REFUSED_CASE(unknown_operation, BPF_STMT(0xffff, 0), kAllow)
REFUSED_CASE(return_of_index, BPF_STMT(BPF_RET | BPF_X, 0), kAllow)
REFUSED_CASE(empty_program)
CASE(too_long_program) {
    in_child([] {
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        FAILS(set(Code(4097, kAllow)), EINVAL);
        OK(set(Code(4096, kAllow)));
    });
}
CASE(program_elsewhere) {
    in_child([] {
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, bad()), EFAULT);
        sock_fprog program{1, (sock_filter*)bad()};
        FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), EFAULT);
    });
}
CASE(unknown_operation_number) { FAILS(syscall(SYS_seccomp, 77, 0, 0), EINVAL); }
CASE(unknown_flags) {
    in_child([] { FAILS(install({kAllow}, 0x8000), EINVAL); });
}
CASE(strict_takes_nothing) {
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, 0), EINVAL);
    FAILS(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, scratch()), EINVAL);
}
CASE(wait_killable_needs_listener) {
    in_child([] { FAILS(install({kAllow}, 1 << 5), EINVAL); });
}
CASE(listener_and_tsync_exclude_each_other) {
    in_child([] { FAILS(install({kAllow}, SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC), EINVAL); });
}
CASE(flags_that_change_nothing_visible) {
    in_child([] {
        OK(install({kAllow}, SECCOMP_FILTER_FLAG_SPEC_ALLOW));
        OK(install({kAllow}, SECCOMP_FILTER_FLAG_LOG));
        OK(install({kAllow}, SECCOMP_FILTER_FLAG_TSYNC));
    });
}
CASE(many_filters_end_in_enomem) {
    in_child([] {
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        Code long_one(4096, kAllow);
        int made = 0;
        while (set(long_one) == 0) ++made;
        EXPECT_EQ(errno, ENOMEM);
        EXPECT_EQ(made, 3);  // 32768 instructions, of which a return takes two, and 4 a filter
        OK(set({kAllow}));
    });
}
CASE(action_available) {
    for (uint32_t action : {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
                            SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW})
        OK(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    uint32_t strange = 0x00010000;
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &strange), EOPNOTSUPP);
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, &strange), EINVAL);
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, bad()), EFAULT);
}
CASE(notification_sizes) {
    seccomp_notif_sizes sizes{};
    OK(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes));
    EXPECT_EQ(sizes.seccomp_notif, 80);
    EXPECT_EQ(sizes.seccomp_notif_resp, 24);
    EXPECT_EQ(sizes.seccomp_data, 64);
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 1, &sizes), EINVAL);
    FAILS(syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, bad()), EFAULT);
}
CASE(prctl_modes) {
    in_child([] {
        FAILS(prctl(PR_SET_SECCOMP, 0, 0), EINVAL);
        FAILS(prctl(PR_SET_SECCOMP, 3, 0), EINVAL);
        OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
        Code code = one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV);
        sock_fprog program{(unsigned short)code.size(), code.data()};
        OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
        EXPECT_EQ(prctl(PR_GET_SECCOMP), 2);
        FAILS(probe(), EXDEV);
        FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0), EINVAL);
    });
}

// ---- the machine

// The low 16 bits of the accumulator come back as errno of getpriority.
static void computes(Code body, int expected) {
    in_child([&] {
        Code code = {load_number(), when(SYS_getpriority, 1, 0), kAllow};
        code.insert(code.end(), body.begin(), body.end());
        code.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xffff));
        code.push_back(BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO));
        code.push_back(BPF_STMT(BPF_RET | BPF_A, 0));
        OK(install(code));
        errno = 0;
        EXPECT_EQ(probe(), -1);
        EXPECT_EQ(errno, expected);
    });
}
#define ALU(operation, k) BPF_STMT(BPF_ALU | operation | BPF_K, (uint32_t)(k))
#define ALUX(operation) BPF_STMT(BPF_ALU | operation | BPF_X, 0)
#define IMM(k) BPF_STMT(BPF_LD | BPF_IMM, (uint32_t)(k))
#define IMMX(k) BPF_STMT(BPF_LDX | BPF_IMM, (uint32_t)(k))
#define COMPUTES_CASE(name, expected, ...) \
    CASE(name) { computes(Code{__VA_ARGS__}, expected); }
COMPUTES_CASE(arithmetic, 41, IMM(10), ALU(BPF_ADD, 32), ALU(BPF_SUB, 1))
COMPUTES_CASE(multiply_divide, 21, IMM(9), ALU(BPF_MUL, 7), ALU(BPF_DIV, 3))
COMPUTES_CASE(arithmetic_by_index, 50, IMM(100), IMMX(2), ALUX(BPF_DIV), IMMX(10), ALUX(BPF_ADD), ALUX(BPF_SUB))
COMPUTES_CASE(logic, 5, IMM(12), ALU(BPF_OR, 3), ALU(BPF_XOR, 10), ALU(BPF_AND, 7))
COMPUTES_CASE(logic_by_index, 6, IMM(15), IMMX(6), ALUX(BPF_AND), IMMX(8), ALUX(BPF_OR), ALUX(BPF_XOR))
COMPUTES_CASE(shifts, 12, IMM(3), ALU(BPF_LSH, 4), ALU(BPF_RSH, 2))
COMPUTES_CASE(shifts_by_index, 24, IMM(3), IMMX(3), ALUX(BPF_LSH))
COMPUTES_CASE(negate, 7, IMM(-7), BPF_STMT(BPF_ALU | BPF_NEG, 0))
COMPUTES_CASE(lengths, 64, BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0))
COMPUTES_CASE(index_moves, 33, IMM(33), BPF_STMT(BPF_MISC | BPF_TAX, 0), IMM(1), BPF_STMT(BPF_MISC | BPF_TXA, 0))
COMPUTES_CASE(scratch_memory, 90, IMM(90), BPF_STMT(BPF_ST, 15), IMM(1), BPF_STMT(BPF_LDX | BPF_MEM, 15),
              BPF_STMT(BPF_STX, 0), BPF_STMT(BPF_LD | BPF_MEM, 0))
COMPUTES_CASE(jumps, 8, IMM(5), BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 4, 1, 0), IMM(90),
              BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 6, 0, 1), IMM(91), BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 1, 0),
              IMM(92), ALU(BPF_ADD, 3))
COMPUTES_CASE(jump_always, 3, IMM(3), BPF_STMT(BPF_JMP | BPF_JA, 1), IMM(99))
COMPUTES_CASE(architecture, 0x3e, load(4), ALU(BPF_AND, 0xff))
CASE(division_by_index_zero_kills) {
    EXPECT_SIGNAL(
        child([] {
            OK(install({load_number(), when(SYS_getpriority, 1, 0), kAllow, IMM(1), IMMX(0), ALUX(BPF_DIV), kAllow}));
            probe();
        }),
        SIGSYS);
}
CASE(arguments_are_seen) {
    in_child([] {
        OK(install({load_number(), when(SYS_getpriority, 1, 0), kAllow, load_argument(1, true), when(0x11223344, 0, 3),
                    load_argument(1), when(0x55667788, 0, 1), ret(SECCOMP_RET_ERRNO | EXDEV), kAllow}));
        FAILS(syscall(SYS_getpriority, 0, 0x1122334455667788), EXDEV);
        FAILS(syscall(SYS_getpriority, 99, 0x1122334455667789), EINVAL);
    });
}
CASE(instruction_pointer_is_seen) {
    in_child([] {
        // Code of this program lies below 4 GiB (it is static and not PIE).
        OK(install({load_number(), when(SYS_getpriority, 1, 0), kAllow, load(12), when(0, 0, 1),
                    ret(SECCOMP_RET_ERRNO | EXDEV), kAllow}));
        FAILS(probe(), EXDEV);
    });
}

// ---- actions

CASE(errno_zero_is_success) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | 0)));
        EXPECT_EQ(probe(), 0);
    });
}
CASE(errno_is_at_most_4095) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | 0xffff)));
        EXPECT_EQ(probe(), -1);
        EXPECT_EQ(errno, 4095);
    });
}
CASE(unknown_numbers_are_filtered) {
    in_child([] {
        OK(install(one(10000, SECCOMP_RET_ERRNO | EXDEV)));
        FAILS(syscall(10000), EXDEV);
        FAILS(syscall(10001), ENOSYS);
    });
}
CASE(missing_calls_are_filtered) {
    in_child([] {
        OK(install(one(SYS_create_module, SECCOMP_RET_ERRNO | EXDEV)));
        FAILS(syscall(SYS_create_module), EXDEV);
    });
}
CASE(log_lets_pass) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_LOG)));
        EXPECT(probe() >= 0);
    });
}
CASE(trace_without_tracer) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_TRACE | 7)));
        FAILS(probe(), ENOSYS);
    });
}
CASE(notification_without_listener) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_USER_NOTIF)));
        FAILS(probe(), ENOSYS);
    });
}
CASE(kill_process_ends_all_threads) {
    EXPECT_SIGNAL(child([] {
                      OK(install(one(SYS_getpriority, SECCOMP_RET_KILL_PROCESS)));
                      pthread_t thread;
                      pthread_create(
                          &thread, nullptr, [](void*) -> void* { return (void*)probe(); }, nullptr);
                      for (;;) pause();
                  }),
                  SIGSYS);
}
CASE(kill_cannot_be_handled) {
    EXPECT_SIGNAL(child([] {
                      signal(SIGSYS, [](int) { _exit(3); });
                      OK(install(one(SYS_getpriority, SECCOMP_RET_KILL_PROCESS)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(kill_thread_spares_the_others) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_KILL_THREAD)));
        pthread_t thread;
        static volatile bool survived;
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
                probe();
                survived = true;
                return nullptr;
            },
            nullptr);
        pthread_join(thread, nullptr);
        EXPECT(!survived);
    });
}
CASE(kill_thread_of_the_only_one) {
    EXPECT_SIGNAL(child([] {
                      OK(install(one(SYS_getpriority, SECCOMP_RET_KILL_THREAD)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(unknown_action_kills) {
    EXPECT_SIGNAL(child([] {
                      OK(install(one(SYS_getpriority, 0x00100000)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(trap_tells_everything) {
    static siginfo_t seen;
    static greg_t ax;
    in_child([] {
        struct sigaction action {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t* info, void* context) {
            seen = *info;
            auto* machine = (ucontext_t*)context;
            ax = machine->uc_mcontext.gregs[REG_RAX];
            machine->uc_mcontext.gregs[REG_RAX] = 4711;
        };
        OK(sigaction(SIGSYS, &action, nullptr));
        OK(install(one(SYS_getpriority, SECCOMP_RET_TRAP | 42)));
        EXPECT_EQ(probe(), 4711);  // the handler answers
        EXPECT_EQ(ax, SYS_getpriority);
        EXPECT_EQ(seen.si_signo, SIGSYS);
        EXPECT_EQ(seen.si_code, 1);
        EXPECT_EQ(seen.si_errno, 42);
        EXPECT_EQ(seen.si_syscall, SYS_getpriority);
        EXPECT_EQ(seen.si_arch, AUDIT_ARCH_X86_64);
        EXPECT(seen.si_call_addr != nullptr);
    });
}
CASE(trap_without_handler) {
    EXPECT_SIGNAL(child([] {
                      OK(install(one(SYS_getpriority, SECCOMP_RET_TRAP)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(trap_while_blocked) {
    EXPECT_SIGNAL(child([] {
                      signal(SIGSYS, [](int) { _exit(3); });
                      sigset_t mask;
                      sigemptyset(&mask);
                      sigaddset(&mask, SIGSYS);
                      sigprocmask(SIG_BLOCK, &mask, nullptr);
                      OK(install(one(SYS_getpriority, SECCOMP_RET_TRAP)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(the_strictest_answer_counts) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
        OK(install(one(SYS_getpriority, SECCOMP_RET_LOG)));
        FAILS(probe(), EXDEV);
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EDOM)));
        FAILS(probe(), EDOM);  // of equal ones the newest
    });
    EXPECT_SIGNAL(child([] {
                      OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
                      OK(install(one(SYS_getpriority, SECCOMP_RET_KILL_PROCESS)));
                      OK(install(one(SYS_getpriority, SECCOMP_RET_TRAP)));
                      probe();
                  }),
                  SIGSYS);
}
CASE(filters_can_forbid_filters) {
    in_child([] {
        OK(install(one(SYS_seccomp, SECCOMP_RET_ERRNO | EXDEV)));
        FAILS(set({kAllow}), EXDEV);
    });
}
CASE(restarted_calls_are_filtered_again) {
    in_child([] {
        int ends[2];
        OK(pipe(ends));
        signal(SIGUSR1, [](int) {});
        // read(2) of descriptor 99 is refused; of the pipe it is allowed, interrupted, and goes on.
        OK(install({load_number(), when(SYS_read, 1, 0), kAllow, load_argument(0), when(99, 0, 1),
                    ret(SECCOMP_RET_ERRNO | EXDEV), kAllow}));
        pid_t parent = getpid(), helper = child([&] {
                                     reaches_state(parent, "S");
                                     kill(parent, SIGUSR1);
                                     sleep_ms(20);
                                     (void)!write(ends[1], "x", 1);
                                 });
        char c;
        EXPECT_EQ(read(ends[0], &c, 1), 1);
        FAILS(read(99, &c, 1), EXDEV);
        EXPECT_EXIT(helper, 0);
    });
}

// ---- strict mode

CASE(strict_allows_four_calls) {
    pid_t pid = child([] {
        int ends[2];
        OK(pipe(ends));
        OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
        char c = 'x';
        if (syscall(SYS_write, ends[1], &c, 1) != 1) syscall(SYS_exit, 1);
        if (syscall(SYS_read, ends[0], &c, 1) != 1) syscall(SYS_exit, 2);
        syscall(SYS_exit, 42);
    });
    EXPECT_EXIT(pid, 42);
}
CASE(strict_kills_by_sigkill) {
    EXPECT_SIGNAL(child([] {
                      OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0));
                      syscall(SYS_getpid);
                      syscall(SYS_exit, 1);
                  }),
                  SIGKILL);
}
CASE(strict_forbids_exit_group) {
    EXPECT_SIGNAL(child([] {
                      OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
                      syscall(SYS_exit_group, 0);
                  }),
                  SIGKILL);
}

// ---- who is bound

CASE(needs_no_new_privs) {
    if (geteuid() != 0) skip("needs root");
    in_child([] {
        OK(syscall(SYS_setresuid, 1000, 1000, 1000));
        FAILS(set({kAllow}), EACCES);
        OK(install({kAllow}));
    });
}
CASE(privileged_needs_none) {
    if (geteuid() != 0) skip("needs root");
    in_child([] {
        long done = set({kAllow});
        if (done != 0 && errno == EACCES) skip("no CAP_SYS_ADMIN");
        OK(done);
        EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
    });
}
CASE(children_inherit) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
        in_child([] {
            FAILS(probe(), EXDEV);
            in_child([] { FAILS(probe(), EXDEV); });
        });
    });
}
CASE(parents_are_free) {
    in_child([] {
        in_child([] { OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV))); });
        EXPECT(probe() >= 0);
        EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
    });
}
CASE(exec_keeps_filters) {
    in_child([] {
        OK(install(one(SYS_uname, SECCOMP_RET_ERRNO | EXDEV)));
        int ends[2];
        OK(pipe(ends));
        pid_t pid = child([&] {
            dup2(ends[1], 1);
            execl("/bin/grep", "grep", "Seccomp", "/proc/self/status", nullptr);
            _exit(1);
        });
        close(ends[1]);
        std::string text = read_all_fd(ends[0]);
        EXPECT_EXIT(pid, 0);
        EXPECT_EQ(text, std::string("Seccomp:\t2\nSeccomp_filters:\t1\n"));
    });
}
CASE(execve_can_be_forbidden) {
    in_child([] {
        OK(install(one(SYS_execve, SECCOMP_RET_ERRNO | EXDEV)));
        FAILS(execl("/bin/true", "true", nullptr), EXDEV);
    });
}
CASE(threads_inherit) {
    in_child([] {
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
        pthread_t thread;
        void* result;
        pthread_create(
            &thread, nullptr, [](void*) -> void* { return (void*)(long)(probe() == -1 ? errno : 0); }, nullptr);
        pthread_join(thread, &result);
        EXPECT_EQ((long)result, EXDEV);
    });
}

static int go[2], come[2];
// A thread that tells what getpriority gives it whenever a byte is sent.
static void* asker(void*) {
    char c;
    while (read(go[0], &c, 1) == 1) {
        errno = 0;
        int result = probe() == -1 ? errno : 0;
        int told[2] = {result, (int)prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)};
        (void)!write(come[1], told, sizeof(told));
    }
    return nullptr;
}
struct Told {
    int error, no_new_privs;
};
static Told ask() {
    Told told{};
    EXPECT_EQ(write(go[1], "x", 1), 1);
    EXPECT_EQ(read(come[0], &told, sizeof(told)), (long)sizeof(told));
    return told;
}
static void start_asker() {
    OK(pipe(go));
    OK(pipe(come));
    pthread_t thread;
    EXPECT_EQ(pthread_create(&thread, nullptr, asker, nullptr), 0);
    EXPECT_EQ(ask().error, 0);
}
CASE(other_threads_are_free) {
    in_child([] {
        start_asker();
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
        FAILS(probe(), EXDEV);
        EXPECT_EQ(ask().error, 0);
        EXPECT_EQ(ask().no_new_privs, 0);
    });
}
CASE(tsync_binds_all_threads) {
    in_child([] {
        start_asker();
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV), SECCOMP_FILTER_FLAG_TSYNC));
        Told told = ask();
        EXPECT_EQ(told.error, EXDEV);
        EXPECT_EQ(told.no_new_privs, 1);
    });
}
CASE(tsync_carries_older_filters) {
    in_child([] {
        start_asker();
        OK(install(one(SYS_getpriority, SECCOMP_RET_ERRNO | EXDEV)));
        EXPECT_EQ(ask().error, 0);
        OK(install({kAllow}, SECCOMP_FILTER_FLAG_TSYNC));
        EXPECT_EQ(ask().error, EXDEV);
    });
}
static void* filters_itself(void* tid) {
    *(int*)tid = (int)syscall(SYS_gettid);
    if (install({kAllow}) != 0) *(int*)tid = -1;
    (void)!write(come[1], "x", 1);
    for (;;) pause();
}
CASE(tsync_names_the_thread_in_the_way) {
    in_child([] {
        OK(pipe(come));
        static int tid;
        pthread_t thread;
        pthread_create(&thread, nullptr, filters_itself, &tid);
        char c;
        EXPECT_EQ(read(come[0], &c, 1), 1);
        EXPECT(tid > 0);
        EXPECT_EQ(install({kAllow}, SECCOMP_FILTER_FLAG_TSYNC), tid);
        FAILS(install({kAllow}, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH), ESRCH);
        EXPECT_EQ(prctl(PR_GET_SECCOMP), 0);
    });
}
CASE(status_fields) {
    in_child([] {
        EXPECT_EQ(status_field("Seccomp"), std::string("0"));
        EXPECT_EQ(status_field("Seccomp_filters"), std::string("0"));
        EXPECT_EQ(status_field("NoNewPrivs"), std::string("0"));
        OK(install({kAllow}));
        OK(install({kAllow}));
        EXPECT_EQ(status_field("Seccomp"), std::string("2"));
        EXPECT_EQ(status_field("Seccomp_filters"), std::string("2"));
        EXPECT_EQ(status_field("NoNewPrivs"), std::string("1"));
    });
}

// ---- a supervisor

static int install_listener(const Code& code) {
    long fd = install(code, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if (fd < 0) fail(__FILE__, __LINE__, "listener: " + errno_name(errno));
    return (int)fd;
}
static void send_fd(int socket, int fd) {
    char c = 'x', control[CMSG_SPACE(sizeof(int))] = {};
    iovec piece{&c, 1};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(fd));
    EXPECT_EQ(sendmsg(socket, &message, 0), 1);
}
static int receive_fd(int socket) {
    char c, control[CMSG_SPACE(sizeof(int))];
    iovec piece{&c, 1};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    EXPECT_EQ(recvmsg(socket, &message, 0), 1);
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
    return fd;
}
// A child under a filter with a listener, which runs `body`; the listener is the parent's.
template <typename Body>
static std::pair<pid_t, int> supervised(int number, Body body) {
    int pair[2];
    OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    pid_t pid = child([&] {
        int listener = install_listener(one(number, SECCOMP_RET_USER_NOTIF));
        send_fd(pair[1], listener);
        close(listener);
        body();
    });
    int listener = receive_fd(pair[0]);
    close(pair[0]);
    close(pair[1]);
    return {pid, listener};
}
static seccomp_notif next_call(int listener) {
    seccomp_notif notice{};
    OK(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &notice));
    return notice;
}
static int reply(int listener, uint64_t id, int64_t value, int error, uint32_t flags = 0) {
    seccomp_notif_resp answer{id, value, error, flags};
    return ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
}

CASE(supervisor_answers) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] {
            EXPECT_EQ(syscall(SYS_getpriority, 5, 6), 4711);
            FAILS(probe(), EXDEV);
        });
        seccomp_notif notice = next_call(listener);
        EXPECT_EQ(notice.pid, pid);
        EXPECT_EQ(notice.data.nr, SYS_getpriority);
        EXPECT_EQ(notice.data.arch, AUDIT_ARCH_X86_64);
        EXPECT_EQ(notice.data.args[0], 5);
        EXPECT_EQ(notice.data.args[1], 6);
        OK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &notice.id));
        OK(reply(listener, notice.id, 4711, 0));
        notice = next_call(listener);
        OK(reply(listener, notice.id, 0, -EXDEV));
        EXPECT_EXIT(pid, 0);
    });
}
CASE(supervisor_lets_pass) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getppid, [] { EXPECT(syscall(SYS_getppid) > 0); });
        seccomp_notif notice = next_call(listener);
        FAILS(reply(listener, notice.id, 1, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE), EINVAL);
        OK(reply(listener, notice.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE));
        EXPECT_EXIT(pid, 0);
    });
}
CASE(supervisor_mistakes) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] { EXPECT_EQ(probe(), 1); });
        uint64_t id = 999999;
        FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id), ENOENT);
        FAILS(reply(listener, 999999, 0, 0), ENOENT);
        FAILS(reply(listener, 999999, 0, 0, 0x80), EINVAL);
        FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, bad()), EFAULT);
        seccomp_notif full{};
        full.pid = 1;
        FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &full), EINVAL);
        FAILS(ioctl(listener, 0x1234, 0), EINVAL);
        seccomp_notif notice = next_call(listener);
        OK(reply(listener, notice.id, 1, 0));
        FAILS_ANY(reply(listener, notice.id, 1, 0), ENOENT, EINPROGRESS);
        EXPECT_EXIT(pid, 0);
    });
}
CASE(supervisor_polls) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] { probe(); });
        pollfd wait{listener, POLLIN | POLLOUT, 0};
        EXPECT_EQ(poll(&wait, 1, 10000), 1);
        EXPECT_EQ(wait.revents, POLLIN);
        seccomp_notif notice = next_call(listener);
        EXPECT_EQ(poll(&wait, 1, 10000), 1);
        EXPECT_EQ(wait.revents, POLLOUT);
        OK(reply(listener, notice.id, 0, 0));
        EXPECT_EXIT(pid, 0);
        wait.events = POLLIN;
        EXPECT_EQ(poll(&wait, 1, 10000), 1);
        EXPECT((wait.revents & POLLHUP) != 0);
    });
}
CASE(supervisor_goes) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] {
            FAILS(probe(), ENOSYS);
            FAILS(probe(), ENOSYS);
        });
        next_call(listener);
        close(listener);
        EXPECT_EXIT(pid, 0);
    });
}
CASE(supervised_is_killed) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] { probe(); });
        seccomp_notif notice = next_call(listener);
        OK(kill(pid, SIGKILL));
        EXPECT_SIGNAL(pid, SIGKILL);
        FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &notice.id), ENOENT);
        FAILS(reply(listener, notice.id, 0, 0), ENOENT);
    });
}
CASE(supervisor_adds_descriptors) {
    in_child([] {
        auto [pid, listener] = supervised(SYS_getpriority, [] {
            char c = 0;
            long fd = probe();
            EXPECT(fd >= 0);
            EXPECT_EQ(read((int)fd, &c, 1), 1);
            EXPECT_EQ(c, 'y');
            EXPECT_EQ(read(77, &c, 1), 1);
            EXPECT_EQ(c, 'z');
        });
        seccomp_notif notice = next_call(listener);
        int ends[2];
        OK(pipe(ends));
        EXPECT_EQ(write(ends[1], "yz", 2), 2);
        seccomp_notif_addfd add{};
        add.id = notice.id;
        add.srcfd = (uint32_t)ends[0];
        add.newfd = 77;
        FAILS(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add), EINVAL);
        add.flags = SECCOMP_ADDFD_FLAG_SETFD;
        EXPECT_EQ(OK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add)), 77);
        add.flags = 0;
        add.newfd = 0;
        int fd = OK(ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
        OK(reply(listener, notice.id, fd, 0));
        EXPECT_EXIT(pid, 0);
    });
}
CASE(one_listener_a_chain) {
    in_child([] {
        install_listener({kAllow});
        FAILS(install({kAllow}, SECCOMP_FILTER_FLAG_NEW_LISTENER), EBUSY);
        OK(install({kAllow}));
    });
}
CASE(listener_name) {
    in_child([] {
        int fd = install_listener({kAllow});
        char path[64], name[64] = {};
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        OK(readlink(path, name, sizeof(name) - 1));
        EXPECT_EQ(std::string(name), std::string("anon_inode:seccomp notify"));
        EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    });
}
