// What debuggers, user mode kernels and sandboxes ask of tracing beyond its basics: calls that are only shown
// (PTRACE_SYSEMU), calls that a filter has the tracer decide about, watchpoints by debug registers.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#include <vector>

#include "tracing.h"

namespace {

constexpr int kSysEmu = 31, kSysEmuSingleStep = 32;
constexpr int kFilterStop = SIGTRAP | PTRACE_EVENT_SECCOMP << 8;

void set_registers(pid_t pid, const user_regs_struct& registers) { OK(trace(kSetRegs, pid, 0, (uint64_t)&registers)); }

// SECCOMP_RET_TRACE with `data` for one call.
void have_traced(int number, unsigned data) {
    sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                          BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE | data),
                          BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    sock_fprog program{4, code};
    OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    OK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}
pid_t filtered_child(void (*body)(), uint64_t options = PTRACE_O_TRACESECCOMP) {
    return traced_child(
        [&] {
            have_traced(SYS_getppid, 77);
            have_traced(SYS_getpgrp, 78);
            body();
        },
        options | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
}

constexpr size_t debug_register(int i) { return offsetof(user, u_debugreg) + (size_t)i * 8; }
long poke_debug(pid_t pid, int i, uint64_t value) { return trace(PTRACE_POKEUSR, pid, debug_register(i), value); }
uint64_t peek_debug(pid_t pid, int i) {
    uint64_t value = 0;
    OK(trace(PTRACE_PEEKUSR, pid, debug_register(i), (uint64_t)&value));
    return value;
}
// DR7 with register `i` on: `kind` 0 execution, 1 writing; `length` as the register has it (0: 1, 1: 2, 3: 4, 2: 8).
uint64_t control(int i, uint64_t kind, uint64_t length) {
    return uint64_t{1} << (2 * i) | (kind | length << 2) << (16 + 4 * i);
}

volatile uint64_t watched, beside[8];
__attribute__((noinline)) void do_something() { asm volatile("" ::: "memory"); }

}  // namespace

// ---- calls that are only shown

CASE(sysemu_shows_calls_only) {
    pid_t pid = traced_child([] {
        long first = syscall(SYS_getppid), second = syscall(SYS_dup2, -1, 5);
        _exit(first == 1234 && second == -1 && errno == ENOSYS ? 6 : 7);
    });
    OK(trace(kSysEmu, pid));
    // Whatever the C library calls in between is made by nobody.
    while (true) {
        EXPECT_EQ(next_stop(pid), kSyscallStop);
        user_regs_struct registers = registers_of(pid);
        if (registers.orig_rax == SYS_exit_group) break;
        EXPECT_EQ(registers.rax, (uint64_t)-ENOSYS);
        if (registers.orig_rax == SYS_getppid) {
            registers.rax = 1234;
            set_registers(pid, registers);
        }
        OK(trace(kSysEmu, pid));
    }
    EXPECT_EQ(registers_of(pid).rdi, 6);
    end(pid);
}
CASE(sysemu_has_no_exit_stop) {
    pid_t pid = traced_child([] {
        syscall(SYS_getppid);
        syscall(SYS_getpgrp);
        for (;;) pause();
    });
    OK(trace(kSysEmu, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    while (registers_of(pid).orig_rax != SYS_getppid) {
        OK(trace(kSysEmu, pid));
        EXPECT_EQ(next_stop(pid), kSyscallStop);
    }
    OK(trace(kSysEmu, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).orig_rax, SYS_getpgrp);
    // Made an ordinary trace meanwhile: the end of the call is told, which still was not made.
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).rax, (uint64_t)-ENOSYS);
    end(pid);
}
CASE(sysemu_continued_makes_the_rest) {
    pid_t pid = traced_child([] {
        long skipped = syscall(SYS_getppid), made = syscall(SYS_getppid);
        _exit(skipped == -1 && made > 0 ? 3 : 4);
    });
    OK(trace(kSysEmu, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    while (registers_of(pid).orig_rax != SYS_getppid) {
        OK(trace(kSysEmu, pid));
        EXPECT_EQ(next_stop(pid), kSyscallStop);
    }
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 3 << 8);
}
CASE(sysemu_single_step) {
    pid_t pid = traced_child([] {
        asm volatile("int3\n nop\n mov $39, %%eax\n syscall\n nop\n nop\n int3" : : : "rax", "rcx", "r11", "memory");
        _exit(2);
    });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    uint64_t at = registers_of(pid).rip;
    for (int length : {1, 5}) {
        OK(trace(kSysEmuSingleStep, pid));
        EXPECT_EQ(next_stop(pid), SIGTRAP);
        EXPECT_EQ(registers_of(pid).rip, at += (uint64_t)length);
    }
    OK(trace(kSysEmuSingleStep, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).orig_rax, SYS_getpid);
    EXPECT_EQ(registers_of(pid).rip, at += 2);
    OK(trace(kSysEmuSingleStep, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    EXPECT_EQ(registers_of(pid).rip, at + 1);
    EXPECT_EQ(registers_of(pid).rax, (uint64_t)-ENOSYS);
    end(pid);
}

// ---- calls that a filter has the tracer decide about

CASE(filter_event) {
    pid_t pid = filtered_child([] { _exit(syscall(SYS_getppid) > 0 ? 5 : 6); });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    uint64_t message = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&message));
    EXPECT_EQ(message, 77);
    user_regs_struct registers = registers_of(pid);
    EXPECT_EQ(registers.orig_rax, SYS_getppid);
    EXPECT_EQ(registers.rax, (uint64_t)-ENOSYS);
    siginfo_t info{};
    OK(trace(PTRACE_GETSIGINFO, pid, 0, (uint64_t)&info));
    EXPECT_EQ(info.si_code, kFilterStop);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 5 << 8);
}
CASE(filter_event_info) {
    pid_t pid = filtered_child([] { syscall(SYS_getppid, 11, 12, 13, 14, 15, 16); });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    struct {
        uint8_t op, padding[3];
        uint32_t arch;
        uint64_t ip, sp, number, arguments[6];
        uint32_t told;
    } info{};
    EXPECT_EQ(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (uint64_t)&info), 84);
    EXPECT_EQ(info.op, 3);
    EXPECT_EQ(info.number, SYS_getppid);
    EXPECT_EQ(info.arguments[5], 16);
    EXPECT_EQ(info.told, 77);
    EXPECT_EQ(info.ip, registers_of(pid).rip);
    end(pid);
}
CASE(filter_event_skips_the_call) {
    pid_t pid = filtered_child([] { _exit((int)syscall(SYS_getppid)); });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    user_regs_struct registers = registers_of(pid);
    registers.orig_rax = (uint64_t)-1;
    registers.rax = 99;
    set_registers(pid, registers);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 99 << 8);
}
CASE(filter_event_changes_the_call) {
    // Another call that is to be asked about: once is enough.
    pid_t pid = filtered_child([] { _exit(syscall(SYS_getppid) == getpgid(0) ? 8 : 9); });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    user_regs_struct registers = registers_of(pid);
    registers.orig_rax = SYS_getpgrp;
    set_registers(pid, registers);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 8 << 8);
}
CASE(filter_event_between_the_others) {
    pid_t pid = filtered_child([] {
        syscall(SYS_getppid);
        for (;;) pause();
    });
    until_call(pid, SYS_getppid);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    EXPECT_EQ(registers_of(pid).orig_rax, SYS_getppid);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).rax, getpid());
    end(pid);
}
CASE(filter_event_then_exit_stop) {
    pid_t pid = filtered_child([] { syscall(SYS_getppid); });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).rax, getpid());
    end(pid);
}
CASE(filter_event_not_wanted) {
    pid_t pid = filtered_child([] { _exit(syscall(SYS_getppid) == -1 && errno == ENOSYS ? 4 : 5); }, 0);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 4 << 8);
}
CASE(filter_event_and_a_call_that_blocks) {
    int ends[2];
    OK(pipe(ends));
    pid_t pid = traced_child(
        [&] {
            have_traced(SYS_read, 1);
            char byte = 0;
            _exit(read(ends[0], &byte, 1) == 1 ? byte : 1);
        },
        PTRACE_O_TRACESECCOMP | PTRACE_O_EXITKILL);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), kFilterStop);
    OK(trace(PTRACE_CONT, pid));
    EXPECT(reaches_state(pid, "S"));
    OK(write(ends[1], "\x2a", 1));
    EXPECT_EQ(next_status(pid), 42 << 8);
}
CASE(info_without_marked_stops) {
    pid_t pid = traced_child([] { syscall(SYS_getppid); }, PTRACE_O_EXITKILL);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    ptrace_syscall_info info{};
    info.op = 9;
    EXPECT_EQ(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (uint64_t)&info), 24);
    EXPECT_EQ(info.op, PTRACE_SYSCALL_INFO_NONE);
    end(pid);
}

// ---- debug registers

CASE(watch_registers_read_back) {
    pid_t pid = traced_child([] {});
    for (int i : {0, 1, 2, 3, 4, 5, 7}) EXPECT_EQ(peek_debug(pid, i), 0);
    EXPECT_EQ(peek_debug(pid, 6) & 0xf, 0);
    OK(poke_debug(pid, 1, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(1, 1, 2)));
    EXPECT_EQ(peek_debug(pid, 1), (uint64_t)&watched);
    EXPECT_EQ(peek_debug(pid, 7), control(1, 1, 2));
    OK(poke_debug(pid, 7, 0));
    EXPECT_EQ(peek_debug(pid, 7), 0);
    EXPECT_EQ(peek_debug(pid, 1), (uint64_t)&watched);
    end(pid);
}
CASE(watch_bad_values) {
    pid_t pid = traced_child([] {});
    FAILS(poke_debug(pid, 4, 1), EIO);
    FAILS(poke_debug(pid, 5, 1), EIO);
    FAILS(poke_debug(pid, 0, uint64_t{1} << 63), EINVAL);
    OK(poke_debug(pid, 0, (uint64_t)&watched + 1));
    FAILS(poke_debug(pid, 7, control(0, 1, 3)), EINVAL);
    EXPECT_EQ(peek_debug(pid, 7), 0);
    FAILS(poke_debug(pid, 7, control(0, 2, 0)), EINVAL);
    end(pid);
}
CASE(watch_fires_on_writing) {
    pid_t pid = traced_child([] {
        for (size_t i = 0; i < 8; ++i) beside[i] = i + 1;
        watched = 5;
        do_something();
        for (size_t i = 0; i < 8; ++i) beside[i] = i + 2;
        watched = 6;
        _exit(9);
    });
    OK(poke_debug(pid, 0, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(0, 1, 2)));
    for (uint64_t value : {5, 6}) {
        OK(trace(PTRACE_CONT, pid));
        EXPECT_EQ(next_stop(pid), SIGTRAP);
        EXPECT_EQ(peek_debug(pid, 6) & 0xf, 1);
        uint64_t seen = 0;
        OK(trace(PTRACE_PEEKDATA, pid, (uint64_t)&watched, (uint64_t)&seen));
        EXPECT_EQ(seen, value);
        siginfo_t info{};
        OK(trace(PTRACE_GETSIGINFO, pid, 0, (uint64_t)&info));
        EXPECT_EQ(info.si_code, TRAP_HWBKPT);
        EXPECT_EQ(registers_of(pid).eflags & 0x100, 0);
        OK(poke_debug(pid, 6, 0));
    }
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 9 << 8);
}
CASE(watch_ends_when_switched_off) {
    pid_t pid = traced_child([] {
        watched = 5;
        watched = 6;
        for (size_t i = 0; i < 8; ++i) beside[i] = i;
        _exit(3);
    });
    OK(poke_debug(pid, 2, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(2, 1, 2)));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    EXPECT_EQ(peek_debug(pid, 6) & 0xf, 4);
    OK(poke_debug(pid, 7, 0));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 3 << 8);
}
CASE(watch_outlives_the_tracing) {
    pid_t pid = traced_child([] {
        watched = 5;
        watched = 6;
        _exit(3);
    });
    OK(poke_debug(pid, 0, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(0, 1, 2)));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    OK(trace(PTRACE_DETACH, pid));  // nobody is there to hear of the second: it ends the process
    EXPECT_EQ(next_status(pid) & 0x7f, SIGTRAP);
}
CASE(watch_breaks_on_execution) {
    pid_t pid = traced_child([] {
        do_something();
        do_something();
        _exit(4);
    });
    OK(poke_debug(pid, 3, (uint64_t)&do_something));
    OK(poke_debug(pid, 7, control(3, 0, 0)));
    for (int i = 0; i < 2; ++i) {
        OK(trace(PTRACE_CONT, pid));
        EXPECT_EQ(next_stop(pid), SIGTRAP);
        EXPECT_EQ(registers_of(pid).rip, (uint64_t)&do_something);
        EXPECT_EQ(peek_debug(pid, 6) & 0xf, 8);
        // As gdb goes on: without it for one step.
        OK(poke_debug(pid, 7, 0));
        OK(trace(PTRACE_SINGLESTEP, pid));
        EXPECT_EQ(next_stop(pid), SIGTRAP);
        EXPECT(registers_of(pid).rip != (uint64_t)&do_something);
        OK(poke_debug(pid, 7, control(3, 0, 0)));
    }
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 4 << 8);
}
CASE(watch_ignores_the_kernels_writing) {
    int ends[2];
    OK(pipe(ends));
    OK(write(ends[1], "12345678", 8));
    pid_t pid = traced_child([&] {
        if (read(ends[0], (void*)&watched, 8) != 8) _exit(1);
        watched = 1;
        _exit(5);
    });
    OK(poke_debug(pid, 0, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(0, 1, 2)));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    uint64_t seen = 0;
    OK(trace(PTRACE_PEEKDATA, pid, (uint64_t)&watched, (uint64_t)&seen));
    EXPECT_EQ(seen, 1);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 5 << 8);
}
CASE(watch_with_signals_calls_and_children) {
    pid_t pid = traced_child([] {
        signal(SIGUSR1, [](int) { watched = 7; });
        raise(SIGUSR1);
        syscall(SYS_getppid);
        pid_t other = fork();
        if (other == 0) {
            watched = 1;  // not this process's
            _exit(0);
        }
        int status = -1;
        waitpid(other, &status, 0);
        watched = 8;
        _exit(status == 0 ? 6 : 7);
    });
    OK(poke_debug(pid, 0, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(0, 1, 2)));
    OK(trace(PTRACE_CONT, pid));
    std::vector<uint64_t> values;
    while (true) {
        int status = next_status(pid);
        if (!WIFSTOPPED(status)) {
            EXPECT_EQ(status, 6 << 8);
            break;
        }
        int signo = status >> 8;
        if (signo == SIGTRAP) {
            uint64_t seen = 0;
            OK(trace(PTRACE_PEEKDATA, pid, (uint64_t)&watched, (uint64_t)&seen));
            values.push_back(seen);
            signo = 0;
        }
        OK(trace(PTRACE_CONT, pid, 0, (uint64_t)signo));
    }
    EXPECT_EQ(values.size(), 2);
    EXPECT_EQ(values[0], 7);
    EXPECT_EQ(values[1], 8);
}
CASE(watch_does_not_survive_exec) {
    if (access("/bin/true", X_OK) != 0) skip("no /bin/true");
    pid_t pid = traced_child([] { execl("/bin/true", "true", nullptr); }, PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL);
    OK(poke_debug(pid, 0, (uint64_t)&watched));
    OK(poke_debug(pid, 7, control(0, 1, 2)));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_EXEC << 8);
    EXPECT_EQ(peek_debug(pid, 7), 0);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 0);
}
