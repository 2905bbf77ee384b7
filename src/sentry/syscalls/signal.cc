// kill and its relatives, dispositions, masks, waiting for signals, the alternate stack.
#include <linux/capability.h>

#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/signal_frame.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

// ----------------------------------------------------------------------------------------------- dispositions

SysResult<int64_t> sys_rt_sigaction(Task& task, const SyscallArgs& args) {
    if (args.u64(3) != sizeof(SignalSet)) return Errno(EINVAL);
    int signo = args.i32(0);
    if (!valid_signal(signo)) return Errno(EINVAL);
    bool change = args.u64(1) != 0;
    if (change && (signal_bit(signo) & kUnblockable) != 0) return Errno(EINVAL);
    SignalAction now;
    if (change) {
        now = TRY(task.read(UserPtr<SignalAction>(args.u64(1))));
        now.mask &= ~kUnblockable;
        constexpr uint64_t kKnown = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER |
                                    SA_RESETHAND | kSaRestorer | 0x800 /* SA_EXPOSE_TAGBITS */;
        now.flags &= kKnown & ~uint64_t{0x800};
    }
    Process& process = task.process();
    SignalAction old;
    {
        std::lock_guard lock(process.signal_mutex);
        std::lock_guard handlers_lock(process.handlers->mutex);
        SignalAction& action = process.handlers->actions[static_cast<size_t>(signo)];
        old = action;
        if (change) {
            action = now;
            // POSIX: what is ignored from now on is not pending any more.
            bool ignored = now.is_ignore() || (now.is_default() && (kIgnoredByDefault & signal_bit(signo)) != 0);
            if (ignored) {
                process.pending.discard(signal_bit(signo));
                for (Task* one : process.signal_targets) one->parts().pending.discard(signal_bit(signo));
            }
        }
    }
    if (args.u64(2) != 0) TRY(task.write(UserPtr<SignalAction>(args.u64(2)), old));
    return 0;
}

SysResult<int64_t> sys_rt_sigprocmask(Task& task, const SyscallArgs& args) {
    if (args.u64(3) != sizeof(SignalSet)) return Errno(EINVAL);
    SignalSet old = task.parts().blocked;
    if (args.u64(1) != 0) {
        SignalSet given = TRY(task.read(UserPtr<SignalSet>(args.u64(1))));
        SignalSet now;
        switch (args.i32(0)) {
            case SIG_BLOCK:
                now = old | given;
                break;
            case SIG_UNBLOCK:
                now = old & ~given;
                break;
            case SIG_SETMASK:
                now = given;
                break;
            default:
                return Errno(EINVAL);
        }
        set_blocked(task, now);
    }
    if (args.u64(2) != 0) TRY(task.write(UserPtr<SignalSet>(args.u64(2)), old));
    return 0;
}

SysResult<int64_t> sys_rt_sigpending(Task& task, const SyscallArgs& args) {
    if (args.u64(1) > sizeof(SignalSet)) return Errno(EINVAL);
    SignalSet pending = task.pending_signals() & task.parts().blocked;
    TRY(task.memory().copy_out(args.u64(0), &pending, args.u64(1)));
    return 0;
}

SysResult<int64_t> sys_sigaltstack(Task& task, const SyscallArgs& args) {
    constexpr uint64_t kMinimumStack = 2048;  // MINSIGSTKSZ
    AlternateStack& stack = task.parts().alternate_stack;
    struct Given {
        uint64_t sp;
        int32_t flags;
        int32_t padding;
        uint64_t size;
    };
    bool on_it = task.has_registers() && stack.enabled() && (stack.flags & kStackAutodisarm) == 0 &&
                 stack.holds(task.registers().sp);
    Given old{stack.address, 0, 0, stack.size};
    old.flags =
        stack.enabled()
            ? static_cast<int32_t>((stack.flags & kStackAutodisarm) | static_cast<uint32_t>(on_it ? SS_ONSTACK : 0))
            : static_cast<int32_t>(SS_DISABLE);
    if (args.u64(0) != 0) {
        Given given = TRY(task.read(UserPtr<Given>(args.u64(0))));
        if (on_it) return Errno(EPERM);
        uint32_t mode = static_cast<uint32_t>(given.flags) & ~kStackAutodisarm;
        if (mode != 0 && mode != SS_DISABLE && mode != SS_ONSTACK) return Errno(EINVAL);
        if (mode == SS_DISABLE) {
            stack = AlternateStack{};
        } else {
            if (given.size < kMinimumStack) return Errno(ENOMEM);
            stack = AlternateStack{given.sp, given.size, static_cast<uint32_t>(given.flags) & kStackAutodisarm};
        }
    }
    if (args.u64(1) != 0) TRY(task.write(UserPtr<Given>(args.u64(1)), old));
    return 0;
}

SysResult<int64_t> sys_rt_sigreturn(Task& task, const SyscallArgs&) {
    if (!task.has_registers() || !pop_signal_frame(task)) force_fatal(task, SIGSEGV);
    return Errno(kRegistersSet);
}

// ---------------------------------------------------------------------------------------------------- sending

siginfo_t user_signal(Task& task, Process& target, int signo, int code) {
    siginfo_t info{};
    info.si_signo = signo;
    info.si_code = code;
    info.si_uid = task.credentials().uid;
    std::lock_guard lock(task.kernel().tasks().mutex);
    if (target.pid) info.si_pid = task.process().pid->number_in(target.pid->space());
    return info;
}

SignalSource source_of(Task& task, Process& target) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    bool visible = !target.pid || task.process().pid->number_in(target.pid->space()) != 0;
    return visible ? SignalSource::kInside : SignalSource::kOutside;
}

SysResult<void> signal_process(Task& task, Process& target, int signo) {
    if (!may_signal(task, target, signo)) return Errno(EPERM);
    if (signo == 0) return {};
    siginfo_t info = user_signal(task, target, signo, SI_USER);
    int failure = send_to_process(target, info, source_of(task, target));
    return failure == 0 ? SysResult<void>() : SysResult<void>(Errno(failure));
}

// To many: success if one could be signalled.
SysResult<int64_t> signal_all(Task& task, const std::vector<Ref<Process>>& targets, int signo) {
    if (targets.empty()) return Errno(ESRCH);
    bool sent = false;
    Errno last(ESRCH);
    for (const Ref<Process>& target : targets) {
        auto result = signal_process(task, *target, signo);
        if (result.ok())
            sent = true;
        else
            last = result.take_error();
    }
    if (sent) return 0;
    return last;
}

SysResult<int64_t> sys_kill(Task& task, const SyscallArgs& args) {
    int pid = args.i32(0);
    int signo = args.i32(1);
    if (signo != 0 && !valid_signal(signo)) return Errno(EINVAL);
    TaskSet& tasks = task.kernel().tasks();
    if (pid > 0) {
        // A thread's number names its process, as in Linux.
        Ref<Task> target = tasks.find_task(task.pid_namespace(), pid);
        if (!target) return Errno(ESRCH);
        TRY(signal_process(task, target->process(), signo));
        return 0;
    }
    std::vector<Ref<Process>> targets;
    if (pid == -1) {
        Ref<Process> init;
        targets = tasks.processes(task.pid_namespace());
        std::erase_if(targets, [&](const Ref<Process>& one) {
            return one.get() == &task.process() || one.get() == task.pid_namespace().init;
        });
    } else {
        if (pid == INT32_MIN) return Errno(ESRCH);
        std::lock_guard lock(tasks.mutex);
        Pid* group = pid == 0 ? task.process().group.get() : tasks.find_pid_locked(task.pid_namespace(), -pid);
        if (group != nullptr)
            for (Process* one : group->group_members) targets.emplace_back(one);
    }
    return signal_all(task, targets, signo);
}

SysResult<int64_t> signal_thread(Task& task, int tgid, int tid, int signo, const siginfo_t* given) {
    if (tid <= 0 || (signo != 0 && !valid_signal(signo))) return Errno(EINVAL);
    Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), tid);
    if (!target) return Errno(ESRCH);
    Process& process = target->process();
    if (tgid > 0) {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (!process.pid || process.pid->number_in(task.pid_namespace()) != tgid) return Errno(ESRCH);
    }
    if (!may_signal(task, process, signo)) return Errno(EPERM);
    if (signo == 0) return 0;
    siginfo_t info = given != nullptr ? *given : user_signal(task, process, signo, SI_TKILL);
    int failure = send_to_task(*target, info, source_of(task, process));
    if (failure != 0) return Errno(failure);
    return 0;
}

SysResult<int64_t> sys_tkill(Task& task, const SyscallArgs& args) {
    return signal_thread(task, 0, args.i32(0), args.i32(1), nullptr);
}

SysResult<int64_t> sys_tgkill(Task& task, const SyscallArgs& args) {
    if (args.i32(0) <= 0) return Errno(EINVAL);
    return signal_thread(task, args.i32(0), args.i32(1), args.i32(2), nullptr);
}

// The details come from the application: it may not pretend to be the kernel or kill(2) towards others.
SysResult<siginfo_t> read_info(Task& task, GuestAddr address, int signo, bool to_self) {
    siginfo_t info = TRY(task.read(UserPtr<siginfo_t>(address)));
    info.si_signo = signo;
    if ((info.si_code >= 0 || info.si_code == SI_TKILL) && !to_self) return Errno(EPERM);
    return info;
}

SysResult<int64_t> sys_rt_sigqueueinfo(Task& task, const SyscallArgs& args) {
    int signo = args.i32(1);
    if (signo != 0 && !valid_signal(signo)) return Errno(EINVAL);
    Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), args.i32(0));
    bool to_self = target && &target->process() == &task.process();
    siginfo_t info = TRY(read_info(task, args.u64(2), signo, to_self));
    if (!target) return Errno(ESRCH);
    if (!may_signal(task, target->process(), signo)) return Errno(EPERM);
    if (signo == 0) return 0;
    int failure = send_to_process(target->process(), info, source_of(task, target->process()));
    if (failure != 0) return Errno(failure);
    return 0;
}

SysResult<int64_t> sys_rt_tgsigqueueinfo(Task& task, const SyscallArgs& args) {
    int tgid = args.i32(0), tid = args.i32(1);
    if (tgid <= 0 || tid <= 0) return Errno(EINVAL);
    Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), tid);
    bool to_self = target && &target->process() == &task.process();
    siginfo_t info = TRY(read_info(task, args.u64(3), args.i32(2), to_self));
    return signal_thread(task, tgid, tid, args.i32(2), &info);
}

SysResult<int64_t> sys_pidfd_send_signal(Task& task, const SyscallArgs& args) {
    constexpr uint32_t kThread = 1, kThreadGroup = 2, kProcessGroup = 4;
    uint32_t flags = args.u32(3);
    int signo = args.i32(1);
    if ((flags & ~(kThread | kThreadGroup | kProcessGroup)) != 0 || (flags & (flags - 1)) != 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    Ref<Pid> pid;
    Ref<Process> process = process_of_directory(file->path());  // an open /proc/PID stands for its process
    if (process) {
        std::lock_guard lock(task.kernel().tasks().mutex);
        pid = process->pid;
    } else {
        pid = TRY(pid_of(*file));
    }
    if (signo != 0 && !valid_signal(signo)) return Errno(EINVAL);
    Ref<Task> thread;
    std::vector<Ref<Process>> group;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (pid->number_in(task.pid_namespace()) == 0) return Errno(EINVAL);
        thread = Ref<Task>(pid->task);
        process = Ref<Process>(pid->process);
        for (Process* one : pid->group_members) group.emplace_back(one);
    }
    if (flags == kProcessGroup) return signal_all(task, group, signo);
    if (!process && !(flags == kThread && thread)) return Errno(ESRCH);
    Process& target = process ? *process : thread->process();
    siginfo_t info;
    if (args.u64(2) != 0) {
        info = TRY(task.read(UserPtr<siginfo_t>(args.u64(2))));
        if (info.si_signo != signo) return Errno(EINVAL);
        if ((info.si_code >= 0 || info.si_code == SI_TKILL) && &target != &task.process()) return Errno(EPERM);
    } else {
        info = user_signal(task, target, signo, flags == kThread ? SI_TKILL : SI_USER);
    }
    if (!may_signal(task, target, signo)) return Errno(EPERM);
    if (signo == 0) return 0;
    int failure = flags == kThread ? send_to_task(*thread, info, source_of(task, target))
                                   : send_to_process(target, info, source_of(task, target));
    if (failure != 0) return Errno(failure);
    return 0;
}

// ---------------------------------------------------------------------------------------------------- waiting

SysResult<int64_t> sys_pause(Task& task, const SyscallArgs&) {
    auto slept = task.sleep_until(std::nullopt);
    static_cast<void>(slept);
    return Errno(kRestartNoHandler);
}

SysResult<int64_t> sys_rt_sigsuspend(Task& task, const SyscallArgs& args) {
    SignalSet mask = TRY(read_signal_set(task, args.u64(0), args.u64(1)));
    task.set_temporary_mask(mask & ~kUnblockable);
    auto slept = task.sleep_until(std::nullopt);
    static_cast<void>(slept);
    return Errno(kRestartNoHandler);
}

SysResult<int64_t> sys_rt_sigtimedwait(Task& task, const SyscallArgs& args) {
    SignalSet wanted = TRY(read_signal_set(task, args.u64(0), args.u64(3)));
    wanted &= ~kUnblockable;
    Deadline deadline;
    if (args.u64(2) != 0) {
        timespec timeout = TRY(task.read(UserPtr<timespec>(args.u64(2))));
        if (!valid(timeout)) return Errno(EINVAL);
        deadline = saturating_add(monotonic_now(), to_nanoseconds(timeout));
    }
    Process& process = task.process();
    Task::Parts& parts = task.parts();
    {
        // From here on a wanted signal wakes this thread although it is blocked.
        std::lock_guard lock(process.signal_mutex);
        parts.wanted = wanted;
    }
    SysResult<void> slept;
    std::optional<siginfo_t> taken = task.take_signal(wanted);
    if (!taken) {
        slept = task.sleep_until(deadline);
        taken = task.take_signal(wanted);
    }
    {
        std::lock_guard lock(process.signal_mutex);
        parts.wanted = 0;
        look_at_signals_locked(task);
    }
    if (!taken) return Errno(!slept.ok() && slept.error() == Errno(ETIMEDOUT) ? EAGAIN : EINTR);
    if (args.u64(1) != 0) TRY(task.write(UserPtr<siginfo_t>(args.u64(1)), *taken));
    return taken->si_signo;
}

SysResult<int64_t> sys_restart_syscall(Task&, const SyscallArgs&) { return Errno(EINTR); }

constexpr SyscallRow kRows[] = {
    {13, "rt_sigaction", sys_rt_sigaction, Support::kFull},
    {14, "rt_sigprocmask", sys_rt_sigprocmask, Support::kFull},
    {15, "rt_sigreturn", sys_rt_sigreturn, Support::kFull},
    {34, "pause", sys_pause, Support::kFull},
    {62, "kill", sys_kill, Support::kFull},
    {127, "rt_sigpending", sys_rt_sigpending, Support::kFull},
    {128, "rt_sigtimedwait", sys_rt_sigtimedwait, Support::kFull},
    {129, "rt_sigqueueinfo", sys_rt_sigqueueinfo, Support::kFull},
    {130, "rt_sigsuspend", sys_rt_sigsuspend, Support::kFull},
    {131, "sigaltstack", sys_sigaltstack, Support::kFull},
    {200, "tkill", sys_tkill, Support::kFull},
    {219, "restart_syscall", sys_restart_syscall, Support::kFull, "calls are restarted inside the sentry"},
    {234, "tgkill", sys_tgkill, Support::kFull},
    {297, "rt_tgsigqueueinfo", sys_rt_tgsigqueueinfo, Support::kFull},
    {424, "pidfd_send_signal", sys_pidfd_send_signal, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> signal_syscalls() { return kRows; }

}  // namespace casemate::sentry
