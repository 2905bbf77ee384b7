// Tracing of one task by another: what ptrace(2) is made of.
//
// A traced task stops in its own thread's loop (task_trace.cc): before and after system calls, before a signal is acted
// on, at events such as fork and exec. It sleeps there, with its registers at hand, until its tracer's ptrace(2)
// (syscalls/ptrace.cc) has it go on; wait4 tells the tracer of the stop. Who traces whom is guarded by TaskSet::mutex
// and the tracee's Process::signal_mutex together (changed under both, read under either), the stop by signal_mutex
// alone.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstdint>

#include "sentry/kernel/pid.h"

namespace casemate::sentry {

class Process;
class Task;

// The debug registers of a traced task. The host's are nobody's to set, so while one is on, the task takes one step at
// a time and its own thread looks after each (task_watch.cc). What is written is told by what has changed there.
struct Watchpoints {
    static constexpr size_t kCount = 4;
    uint64_t address[kCount] = {};
    uint64_t status = 0;   // DR6
    uint64_t control = 0;  // DR7
    uint64_t content[kCount] = {};
    bool on() const { return (control & 0xff) != 0; }
};

struct Tracing {
    // How the task goes on after a stop.
    enum class Mode { kContinue, kSyscall, kStep, kEmulate, kEmulateStep };
    // Where in a system call it stopped, for PTRACE_GET_SYSCALL_INFO.
    enum class Phase { kNone, kEntry, kExit, kFilter };

    // --- TaskSet::mutex and signal_mutex ---
    std::atomic<Task*> tracer{nullptr};  // also looked at without a lock, by the task itself
    bool seized = false;
    uint64_t options = 0;  // PTRACE_O_*

    // --- signal_mutex ---
    bool stopped = false;          // its thread sleeps in a stop: the registers are the tracer's
    bool unwaited = false;         // the stop has not been told by wait4 yet
    bool listening = false;        // PTRACE_LISTEN: stopped, but not for requests
    bool trap_wanted = false;      // PTRACE_INTERRUPT, or a seized task that is to stop at once
    bool group_stop_over = false;  // the present stop of its group was told, and the tracer had it go on
    int code = 0;                  // of the stop, as wait4's status >> 8
    bool has_info = false;
    siginfo_t info{};
    uint64_t message = 0;  // PTRACE_GETEVENTMSG
    int resume_signal = 0;
    Phase phase = Phase::kNone;

    // --- Its own thread; the tracer's while it is stopped ---
    Mode mode = Mode::kContinue;
    int64_t original_ax = -1;  // number of the system call that it is in; -1: none
    bool step_over = false;    // a step ended with a system call: the trap is due
    Watchpoints watchpoints;
    // Its own thread set the trap flag for the watchpoints: it may be on until the next trap.
    bool trap_flag_is_ours = false;
    bool steps() const { return mode == Mode::kStep || mode == Mode::kEmulateStep; }
    // The application runs with the trap flag.
    bool traps() const { return steps() || watchpoints.on(); }
};

// The end of a traced thread, kept for its tracer's wait4 when no zombie child tells it.
struct TracedExit {
    Ref<Pid> pid;
    Ref<Pid> group;
    int status = 0;
    uint32_t uid = 0;
};

bool is_traced(Task& task);

// EINVAL: not what a watchpoint can be, or what ours cannot. `top`: the first address that applications may not use.
SysResult<void> check_watchpoint(const Watchpoints& watch, size_t i, uint64_t top);

// All with TaskSet::mutex held.
void attach_tracer_locked(Task& tracer, Task& tracee, bool seized, uint64_t options);
// The tracee goes on, with `signo` if it is not 0, and is nobody's any more.
void detach_tracer_locked(Task& tracee, int signo);
// A thread has ended (with `told`: and its tracer is to hear of it by wait4).
void traced_task_ended_locked(Task& task, bool told, int status);
// A tracer has ended: what it traced goes on or, if it wanted that, is killed.
void tracer_ended_locked(Task& tracer);

}  // namespace casemate::sentry
