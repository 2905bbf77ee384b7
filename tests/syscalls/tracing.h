// What the cases of tracing share: requests, stops and children that are traced.
#pragma once

#include <linux/ptrace.h>
#include <sys/user.h>

#include "case.h"

inline long trace(int request, pid_t pid, uint64_t address = 0, uint64_t data = 0) {
    return syscall(SYS_ptrace, request, pid, address, data);
}

constexpr int kSyscallStop = SIGTRAP | 0x80;
// Only in a header that goes with no other of ptrace.
constexpr int kGetRegs = 12, kSetRegs = 13, kGetFpRegs = 14, kSetFpRegs = 15;

inline int next_status(pid_t pid) {
    int status = 0;
    OK(waitpid(pid, &status, __WALL));
    return status;
}
// The next stop of `pid`, as (signal | event << 8).
inline int next_stop(pid_t pid) {
    int status = next_status(pid);
    EXPECT(WIFSTOPPED(status));
    return status >> 8;
}

inline user_regs_struct registers_of(pid_t pid) {
    user_regs_struct registers{};
    OK(trace(kGetRegs, pid, 0, (uint64_t)&registers));
    return registers;
}

// A child that asked to be traced and stopped itself, with these options.
template <typename Body>
pid_t traced_child(Body body, uint64_t options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) {
    pid_t pid = child([&] {
        OK(trace(PTRACE_TRACEME, 0));
        raise(SIGSTOP);
        body();
    });
    EXPECT_EQ(next_stop(pid), SIGSTOP);
    OK(trace(PTRACE_SETOPTIONS, pid, 0, options));
    return pid;
}

inline void end(pid_t pid) {
    kill(pid, SIGKILL);
    int status = next_status(pid);
    while (WIFSTOPPED(status)) status = next_status(pid);
    EXPECT(WIFSIGNALED(status));
}

// Up to the entry of system call `number`.
inline void until_call(pid_t pid, uint64_t number) {
    for (int i = 0; i < 1000; ++i) {
        OK(trace(PTRACE_SYSCALL, pid));
        if (next_stop(pid) != kSyscallStop) continue;
        if (registers_of(pid).orig_rax == number) return;
    }
    fail(__FILE__, __LINE__, "the call did not come");
}

inline int tracer_of(pid_t pid) {
    std::string text = read_all(("/proc/" + std::to_string(pid) + "/status").c_str());
    size_t at = text.find("TracerPid:\t");
    return at == std::string::npos ? -1 : atoi(text.c_str() + at + 11);
}
