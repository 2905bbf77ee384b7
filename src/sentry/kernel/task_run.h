// TaskRunner: the parts of a task's own thread: the loop between application and syscalls, signal delivery, stops, the
// end.
#pragma once

#include <optional>

#include "sentry/kernel/session.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/loader/loader.h"

namespace casemate::sentry {

struct SyscallArgs;

class TaskRunner {
  public:
    // The body of the thread: runs the application until the task has ended.
    static void run(Task& task);

    // Makes `program` what the task runs: for exec and for a process that has not run yet.
    static SysResult<void> take_program(Task& task, LoadedProgram program);
    // execve(2) from the loaded program on: point of no return inside.
    static SysResult<int64_t> exec(Task& task, LoadedProgram program);
    // Takes a process that never ran out of the tables.
    static void end_unstarted(Task& task);

    // Makes a parked call of `task` again, for who claimed it.
    static void make_again(Task& task, WakeOn where);

    // A call that answer_now() parked: from here on it can be claimed.
    static void park_quick_call(Task& task);

    // A stop of a traced task at an event (PTRACE_EVENT_*), with its registers at hand.
    static void stop_for_event(Task& task, int event, uint64_t message);

    // The result of a call that can be made at once by a thread that is not the task's, while the application waits for
    // it outside of the kernel; nothing, and nothing done, if it cannot (quick_calls.cc).
    static std::optional<QuickAnswer> answer_now(Task& task, const SyscallStop& call);

    // Tells the platform what it may answer by itself about `task`, which is nothing while somebody wants to see its
    // calls (task_facts.cc). Own thread, or with the signal_mutex of its process, which guards its filter; whenever
    // something of it changed.
    static void tell_facts(Task& task);
    // The same with Task::mutex_.
    static void tell_facts_locked(Task& task);
    // For all tasks of the pod.
    static void tell_all_facts(Kernel& kernel);

    // exit(2) and exit_group(2): takes effect when the syscall returns to the loop.
    static void request_exit(Task& task, int wait_status);
    // Takes the application out of its code once, unnoticed: blocking calls go on. From any thread.
    static void stop_application(Task& task);

  private:
    // How the application goes on.
    struct Next {
        enum class Kind { kResume, kComplete, kPark } kind = Kind::kResume;
        int64_t result = 0;  // kComplete: a value, -errno or -kRestart...
    };
    static Next handle_stop(Task& task, const Stop& stop);
    static Next handle_syscall(Task& task, const Stop& stop, bool may_park = true);
    static void handle_fault(Task& task, const FaultStop& fault);
    static bool answer_vsyscall(Task& task, const FaultStop& fault);
    // False: the task is to end.
    static bool before_application(Task& task, Next& next, const Stop& last);
    static bool take_registers(Task& task, Next& next);
    static bool deliver(Task& task, Next& next, const siginfo_t& info, const SignalAction& action);
    static Next handle_untraced_syscall(Task& task, const Stop& stop, bool may_park);
    static Next carry_out(Task& task, const SyscallStop& call, bool may_park);

    // task_trace.cc
    static bool show_registers(Task& task, Next& next);
    static void take_back_registers(Task& task, Next& next);
    static int stop_for_tracer(Task& task, int code, const siginfo_t* info, uint64_t message = 0);
    static void stop_at_end(Task& task, Next& next);
    static void stop_for_group(Task& task, int signo);
    static bool stop_as_traced(Task& task, Next& next, bool& stopped);
    static bool stop_for_signal(Task& task, Next& next, siginfo_t& info);
    static Next handle_traced_syscall(Task& task, const Stop& stop);
    static Next handle_asked_syscall(Task& task, const Stop& stop, uint32_t told);
    static bool take_back_call(Task& task, SyscallStop& call);

    // task_watch.cc
    static bool end_step(Task& task);
    static void note_watched(Task& task);

    // task_park.cc
    static bool may_be_parked(uint64_t number);
    static Next again(Task& task, bool may_park);
    static Next wait_parked(Task& task, Stop& stop);
    static Next settle_parked(Task& task, Stop& stop, Stop came);
    static void show_call(Task& task, const SyscallStop& call);

    static void begin_stop(Task& task, int signo);
    // Parks while the process is stopped or its container frozen.
    static void park(Task& task);
    static bool must_park(Task& task);

    static SysResult<void> become_only_thread(Task& task);
    static void end(Task& task);
    static void end_memory(Task& task);
    static void end_process_locked(Task& task, std::vector<Ref<RefCounted>>& dropped,
                                   Ref<ControllingTerminal>& hung_up);
};

}  // namespace casemate::sentry
