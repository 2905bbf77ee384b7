// Tracing: bonds, stops of system calls, signals and events, registers and memory, single steps.
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/uio.h>

#include "tracing.h"

// ---- bonds

CASE(ptrace_traceme_twice) {
    in_child([] {
        OK(trace(PTRACE_TRACEME, 0));
        FAILS(trace(PTRACE_TRACEME, 0), EPERM);
    });
}
CASE(ptrace_attach_detach) {
    pid_t pid = child([] {
        for (;;) pause();
    });
    OK(trace(PTRACE_ATTACH, pid));
    EXPECT_EQ(next_stop(pid), SIGSTOP);
    EXPECT_EQ(tracer_of(pid), getpid());
    EXPECT(reaches_state(pid, "t"));
    FAILS(trace(PTRACE_ATTACH, pid), EPERM);
    OK(trace(PTRACE_DETACH, pid));
    EXPECT_EQ(tracer_of(pid), 0);
    EXPECT(reaches_state(pid, "S"));
    kill(pid, SIGKILL);
    EXPECT_SIGNAL(pid, SIGKILL);
}
FAILS_CASE(ptrace_attach_self, trace(PTRACE_ATTACH, getpid()), EPERM)
FAILS_CASE(ptrace_attach_none, trace(PTRACE_ATTACH, 0x3ffffff), ESRCH)
CASE(ptrace_not_traced) {
    pid_t pid = child([] {
        for (;;) pause();
    });
    FAILS(trace(PTRACE_CONT, pid), ESRCH);
    FAILS(trace(PTRACE_DETACH, pid), ESRCH);
    FAILS(trace(PTRACE_PEEKDATA, pid, 0, (uint64_t)scratch()), ESRCH);
    kill(pid, SIGKILL);
    EXPECT_SIGNAL(pid, SIGKILL);
}
CASE(ptrace_running_task_answers_nothing) {
    pid_t pid = traced_child([] {
        for (;;) pause();
    });
    OK(trace(PTRACE_CONT, pid));
    FAILS(trace(PTRACE_CONT, pid), ESRCH);
    end(pid);
}
CASE(ptrace_tracer_dies) {
    int ready[2];
    OK(pipe(ready));
    pid_t target = child([] {
        for (;;) pause();
    });
    in_child([&] {
        OK(trace(PTRACE_ATTACH, target));
        next_stop(target);
    });
    EXPECT_EQ(tracer_of(target), 0);
    EXPECT_EQ(waitpid(target, nullptr, WNOHANG), 0);
    in_child([&] { OK(trace(PTRACE_SEIZE, target, 0, PTRACE_O_EXITKILL)); });
    EXPECT_SIGNAL(target, SIGKILL);
}
CASE(ptrace_seize_does_not_stop) {
    pid_t pid = child([] {
        for (;;) pause();
    });
    FAILS(trace(PTRACE_SEIZE, pid, 1), EIO);
    OK(trace(PTRACE_SEIZE, pid));
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG | __WALL), 0);
    OK(trace(PTRACE_INTERRUPT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_STOP << 8);
    FAILS(trace(PTRACE_LISTEN, 0x3ffffff), ESRCH);
    end(pid);
}
CASE(ptrace_interrupt_only_seized) {
    pid_t pid = traced_child([] {});
    FAILS(trace(PTRACE_INTERRUPT, pid), EIO);
    end(pid);
}
CASE(ptrace_bad_options) {
    pid_t pid = traced_child([] {});
    FAILS(trace(PTRACE_SETOPTIONS, pid, 0, 1 << 15), EINVAL);
    end(pid);
}

// ---- system calls

CASE(ptrace_syscall_stops) {
    pid_t pid = traced_child([] { _exit(syscall(SYS_getuid) == 0 ? 3 : 4); });
    until_call(pid, SYS_getuid);
    EXPECT_EQ(registers_of(pid).rax, (uint64_t)-ENOSYS);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).rax, getuid());
    until_call(pid, SYS_exit_group);
    EXPECT_EQ(registers_of(pid).rdi, 3);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 3 << 8);
}
CASE(ptrace_syscall_changed) {
    pid_t pid = traced_child([] { _exit((int)syscall(SYS_getppid)); });
    until_call(pid, SYS_getppid);
    user_regs_struct registers = registers_of(pid);
    registers.orig_rax = SYS_dup2;
    registers.rdi = registers.rsi = 1000000;
    OK(trace(kSetRegs, pid, 0, (uint64_t)&registers));
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    registers = registers_of(pid);
    EXPECT_EQ(registers.rax, (uint64_t)-EBADF);
    registers.rax = 77;
    OK(trace(kSetRegs, pid, 0, (uint64_t)&registers));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 77 << 8);
}
CASE(ptrace_syscall_skipped) {
    pid_t pid = traced_child([] { _exit((int)syscall(SYS_getppid)); });
    until_call(pid, SYS_getppid);
    user_regs_struct registers = registers_of(pid);
    registers.orig_rax = (uint64_t)-1;
    registers.rax = 55;
    OK(trace(kSetRegs, pid, 0, (uint64_t)&registers));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 55 << 8);
}
CASE(ptrace_syscall_info) {
    pid_t pid = traced_child([] { syscall(SYS_dup2, -1, 12345); });
    until_call(pid, SYS_dup2);
    ptrace_syscall_info info{};
    EXPECT_EQ(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (uint64_t)&info), 80);
    EXPECT_EQ(info.op, PTRACE_SYSCALL_INFO_ENTRY);
    EXPECT_EQ(info.entry.nr, SYS_dup2);
    EXPECT_EQ(info.entry.args[1], 12345);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(trace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), (uint64_t)&info), 33);
    EXPECT_EQ(info.op, PTRACE_SYSCALL_INFO_EXIT);
    EXPECT_EQ(info.exit.rval, -EBADF);
    EXPECT_EQ(info.exit.is_error, 1);
    end(pid);
}
CASE(ptrace_blocked_call_is_made_again) {
    int pipe_ends[2];
    OK(pipe(pipe_ends));
    pid_t pid = traced_child([&] {
        char byte = 0;
        _exit(read(pipe_ends[0], &byte, 1) == 1 ? byte : 1);
    });
    until_call(pid, SYS_read);
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT(reaches_state(pid, "S"));
    kill(pid, SIGUSR1);
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).rax, (uint64_t)-512);  // ERESTARTSYS
    OK(trace(PTRACE_SYSCALL, pid));
    EXPECT_EQ(next_stop(pid), SIGUSR1);
    OK(trace(PTRACE_SYSCALL, pid));  // without the signal
    EXPECT_EQ(next_stop(pid), kSyscallStop);
    EXPECT_EQ(registers_of(pid).orig_rax, SYS_read);
    OK(write(pipe_ends[1], "\x2a", 1));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 42 << 8);
}

// ---- signals

CASE(ptrace_signal_suppressed_and_changed) {
    pid_t pid = traced_child([] {
        raise(SIGTERM);
        raise(SIGUSR1);
        for (;;) pause();
    });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTERM);
    siginfo_t info{};
    OK(trace(PTRACE_GETSIGINFO, pid, 0, (uint64_t)&info));
    EXPECT_EQ(info.si_signo, SIGTERM);
    EXPECT_EQ(info.si_pid, pid);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR2));
    EXPECT_EQ(next_status(pid) & 0x7f, SIGUSR2);
}
CASE(ptrace_ignored_signals_are_seen) {
    pid_t pid = traced_child([] {
        signal(SIGUSR1, SIG_IGN);
        raise(SIGUSR1);
    });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGUSR1);
    OK(trace(PTRACE_CONT, pid, 0, SIGUSR1));
    EXPECT_EQ(next_status(pid), 0);
}
CASE(ptrace_signal_number_checked) {
    pid_t pid = traced_child([] {});
    FAILS(trace(PTRACE_CONT, pid, 0, 65), EIO);
    end(pid);
}
CASE(ptrace_mask) {
    pid_t pid = traced_child([] {
        raise(SIGUSR1);
        raise(SIGUSR2);
    });
    uint64_t mask = 1ull << (SIGUSR1 - 1), before = 1;
    OK(trace(PTRACE_GETSIGMASK, pid, 8, (uint64_t)&before));
    EXPECT_EQ(before, 0);
    OK(trace(PTRACE_SETSIGMASK, pid, 8, (uint64_t)&mask));
    FAILS(trace(PTRACE_SETSIGMASK, pid, 4, (uint64_t)&mask), EINVAL);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGUSR2);
    end(pid);
}
CASE(ptrace_group_stop) {
    pid_t pid = child([] {
        for (;;) pause();
    });
    OK(trace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL));
    kill(pid, SIGSTOP);
    EXPECT_EQ(next_stop(pid), SIGSTOP);
    OK(trace(PTRACE_CONT, pid, 0, SIGSTOP));
    EXPECT_EQ(next_stop(pid), SIGSTOP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_LISTEN, pid));
    FAILS(trace(PTRACE_CONT, pid), ESRCH);
    kill(pid, SIGCONT);
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_STOP << 8);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGCONT);
    end(pid);
}

// ---- events

CASE(ptrace_fork_event) {
    pid_t pid = traced_child([] { in_child([] { _exit(0); }); }, PTRACE_O_TRACEFORK | PTRACE_O_EXITKILL);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_FORK << 8);
    unsigned long made = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&made));
    EXPECT(made > 0);
    EXPECT_EQ(next_stop((pid_t)made), SIGSTOP);
    OK(trace(PTRACE_CONT, (pid_t)made));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status((pid_t)made), 0);
    int stop = next_status(pid);
    if (WIFSTOPPED(stop)) {
        EXPECT_EQ(stop >> 8, SIGCHLD);
        OK(trace(PTRACE_CONT, pid));
        stop = next_status(pid);
    }
    EXPECT_EQ(stop, 0);
}
CASE(ptrace_clone_event_and_thread_exit) {
    pid_t pid = traced_child(
        [] {
            pthread_t thread;
            pthread_create(
                &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr);
            pthread_join(thread, nullptr);
            _exit(9);
        },
        PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_CLONE << 8);
    unsigned long thread = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&thread));
    EXPECT_EQ(next_stop((pid_t)thread), SIGSTOP);
    OK(trace(PTRACE_CONT, (pid_t)thread));
    EXPECT_EQ(next_status((pid_t)thread), 0);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 9 << 8);
}
CASE(ptrace_exec_event) {
    pid_t pid = traced_child([] { execl("/proc/self/exe", "x", "--none", nullptr); }, PTRACE_O_TRACEEXEC);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_EXEC << 8);
    unsigned long before = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&before));
    EXPECT_EQ(before, pid);
    end(pid);
}
CASE(ptrace_exec_trap) {
    pid_t pid = traced_child([] { execl("/proc/self/exe", "x", "--none", nullptr); }, 0);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    end(pid);
}
CASE(ptrace_exit_event) {
    pid_t pid = traced_child([] { _exit(6); }, PTRACE_O_TRACEEXIT);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_EXIT << 8);
    unsigned long status = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&status));
    EXPECT_EQ(status, 6 << 8);
    EXPECT_EQ(registers_of(pid).orig_rax, SYS_exit_group);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 6 << 8);
}
CASE(ptrace_vfork_events) {
    pid_t pid = traced_child(
        [] {
            if (vfork() == 0) _exit(0);
            _exit(8);
        },
        PTRACE_O_TRACEVFORK | PTRACE_O_TRACEVFORKDONE);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_VFORK << 8);
    unsigned long made = 0;
    OK(trace(PTRACE_GETEVENTMSG, pid, 0, (uint64_t)&made));
    EXPECT_EQ(next_stop((pid_t)made), SIGSTOP);
    OK(trace(PTRACE_DETACH, (pid_t)made));
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP | PTRACE_EVENT_VFORK_DONE << 8);
    OK(trace(PTRACE_DETACH, pid));
    EXPECT_EQ(next_status(pid), 8 << 8);
}

// ---- registers, memory, steps

CASE(ptrace_memory) {
    static volatile uint64_t word = 0x1122334455667788;
    static const uint64_t constant[512] __attribute__((aligned(4096))) = {0x99};
    pid_t pid = traced_child([] {
        for (;;) pause();
    });
    uint64_t seen = 0;
    OK(trace(PTRACE_PEEKDATA, pid, (uint64_t)&word, (uint64_t)&seen));
    EXPECT_EQ(seen, 0x1122334455667788);
    OK(trace(PTRACE_POKEDATA, pid, (uint64_t)&word, 5));
    OK(trace(PTRACE_PEEKDATA, pid, (uint64_t)&word, (uint64_t)&seen));
    EXPECT_EQ(seen, 5);
    EXPECT_EQ(word, 0x1122334455667788);
    // Read-only memory is written too, as a copy.
    OK(trace(PTRACE_POKETEXT, pid, (uint64_t)constant, 7));
    OK(trace(PTRACE_PEEKTEXT, pid, (uint64_t)constant, (uint64_t)&seen));
    EXPECT_EQ(seen, 7);
    EXPECT_EQ(*(const volatile uint64_t*)constant, 0x99);
    FAILS(trace(PTRACE_PEEKDATA, pid, (uint64_t)bad(), (uint64_t)&seen), EIO);
    end(pid);
}
CASE(ptrace_user_area) {
    pid_t pid = traced_child([] {
        for (;;) pause();
    });
    uint64_t value = 0;
    OK(trace(PTRACE_PEEKUSR, pid, offsetof(user, regs.rsp), (uint64_t)&value));
    EXPECT_EQ(value, registers_of(pid).rsp);
    OK(trace(PTRACE_POKEUSR, pid, offsetof(user, regs.r15), 0xabcdef));
    EXPECT_EQ(registers_of(pid).r15, 0xabcdef);
    FAILS(trace(PTRACE_PEEKUSR, pid, 3, (uint64_t)&value), EIO);
    FAILS(trace(PTRACE_PEEKUSR, pid, 8192, (uint64_t)&value), EIO);
    end(pid);
}
CASE(ptrace_register_sets) {
    pid_t pid = traced_child([] {
        for (;;) pause();
    });
    user_regs_struct registers{};
    iovec vector{&registers, sizeof(registers)};
    OK(trace(PTRACE_GETREGSET, pid, NT_PRSTATUS, (uint64_t)&vector));
    EXPECT_EQ(vector.iov_len, sizeof(registers));
    EXPECT_EQ(registers.rip, registers_of(pid).rip);
    EXPECT_EQ(registers.cs, 0x33);
    registers.r14 = 4242;
    OK(trace(PTRACE_SETREGSET, pid, NT_PRSTATUS, (uint64_t)&vector));
    EXPECT_EQ(registers_of(pid).r14, 4242);
    user_fpregs_struct fp{};
    OK(trace(kGetFpRegs, pid, 0, (uint64_t)&fp));
    EXPECT_EQ(fp.cwd, 0x37f);
    fp.xmm_space[4] = 0x1234;
    OK(trace(kSetFpRegs, pid, 0, (uint64_t)&fp));
    static char image[16384];
    vector = {image, sizeof(image)};
    OK(trace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (uint64_t)&vector));
    EXPECT(vector.iov_len >= 576);
    EXPECT_EQ(*(uint32_t*)(image + 160 + 16), 0x1234);
    EXPECT((*(uint64_t*)(image + 464) & 3) == 3);
    OK(trace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (uint64_t)&vector));
    FAILS(trace(PTRACE_GETREGSET, pid, 0x7777, (uint64_t)&vector), EINVAL);
    end(pid);
}
CASE(ptrace_single_steps) {
    pid_t pid = traced_child([] {
        asm volatile("int3\n nop\n nop\n mov $39, %%eax\n syscall\n nop\n int3" : : : "rax", "rcx", "r11", "memory");
        _exit(2);
    });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    uint64_t at = registers_of(pid).rip;
    for (int length : {1, 1, 5, 2, 1}) {
        OK(trace(PTRACE_SINGLESTEP, pid));
        EXPECT_EQ(next_stop(pid), SIGTRAP);
        at += (uint64_t)length;
        EXPECT_EQ(registers_of(pid).rip, at);
    }
    EXPECT_EQ(registers_of(pid).rax, pid);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 2 << 8);
}
CASE(ptrace_step_into_handler) {
    static int ran;
    pid_t pid = traced_child([] {
        signal(SIGUSR1, [](int) { ran = 1; });
        raise(SIGUSR1);
        _exit(ran == 1 ? 0 : 1);
    });
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_stop(pid), SIGUSR1);
    OK(trace(PTRACE_SINGLESTEP, pid, 0, SIGUSR1));
    EXPECT_EQ(next_stop(pid), SIGTRAP);
    EXPECT_EQ(registers_of(pid).rdi, SIGUSR1);
    OK(trace(PTRACE_CONT, pid));
    EXPECT_EQ(next_status(pid), 0);
}
CASE(ptrace_waitid_tells) {
    pid_t pid = traced_child([] { raise(SIGUSR1); });
    OK(trace(PTRACE_CONT, pid));
    siginfo_t info{};
    OK(waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT));
    EXPECT_EQ(info.si_code, CLD_TRAPPED);
    EXPECT_EQ(info.si_status, SIGUSR1);
    EXPECT_EQ(next_stop(pid), SIGUSR1);
    EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
    end(pid);
}
