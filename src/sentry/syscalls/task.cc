// clone, exec, exit, wait and what tells a task about itself.
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sys/wait.h>

#include <cstring>

#include "base/checked.h"

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_clone.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_wait.h"
#include "sentry/loader/loader.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

// --------------------------------------------------------------------------------------------------- clone

constexpr uint64_t kSignalMask = 0xff;

SysResult<int64_t> sys_clone(Task& task, const SyscallArgs& args) {
    CloneRequest request;
    uint64_t flags = args.u32(0);  // the upper half belongs to clone3
    request.flags = flags & ~kSignalMask;
    request.exit_signal = static_cast<int>(flags & kSignalMask);
    if (request.exit_signal > kSignalCount) return Errno(EINVAL);
    request.stack = args.u64(1);
    request.parent_tid = args.u64(2);
    request.pidfd = args.u64(2);
    request.child_tid = args.u64(3);
    request.tls = args.u64(4);
    if ((request.flags & CLONE_PIDFD) != 0 && (request.flags & CLONE_PARENT_SETTID) != 0) return Errno(EINVAL);
    return clone_task(task, request);
}

SysResult<int64_t> sys_fork(Task& task, const SyscallArgs&) {
    CloneRequest request;
    request.exit_signal = SIGCHLD;
    return clone_task(task, request);
}

SysResult<int64_t> sys_vfork(Task& task, const SyscallArgs&) {
    CloneRequest request;
    request.flags = CLONE_VM | CLONE_VFORK;
    request.exit_signal = SIGCHLD;
    return clone_task(task, request);
}

SysResult<int64_t> sys_clone3(Task& task, const SyscallArgs& args) {
    struct clone_args given {};
    TRY(copy_in_struct(task, args.u64(0), args.u64(1), CLONE_ARGS_SIZE_VER0, &given, sizeof(given)));
    constexpr uint64_t kKnown = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_PIDFD | CLONE_PTRACE |
                                CLONE_VFORK | CLONE_PARENT | CLONE_THREAD | CLONE_NEWNS | CLONE_SYSVSEM | CLONE_SETTLS |
                                CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_UNTRACED | CLONE_CHILD_SETTID |
                                CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                CLONE_NEWNET | CLONE_IO | CLONE_CLEAR_SIGHAND;
    if ((given.flags & ~kKnown) != 0) return Errno(EINVAL);  // CLONE_INTO_CGROUP and CLONE_NEWTIME among them
    if (given.exit_signal > kSignalCount) return Errno(EINVAL);
    if ((given.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && given.exit_signal != 0) return Errno(EINVAL);
    if ((given.stack == 0) != (given.stack_size == 0)) return Errno(EINVAL);
    CloneRequest request;
    request.flags = given.flags;
    request.exit_signal = static_cast<int>(given.exit_signal);
    if (given.stack != 0 && __builtin_add_overflow(given.stack, given.stack_size, &request.stack)) return Errno(EINVAL);
    request.parent_tid = given.parent_tid;
    request.child_tid = given.child_tid;
    request.pidfd = given.pidfd;
    request.tls = given.tls;
    if (given.set_tid_size > PidNamespace::kMaxLevel) return Errno(EINVAL);
    if ((given.set_tid == 0) != (given.set_tid_size == 0)) return Errno(EINVAL);
    if (given.set_tid_size != 0) {
        if (!task.has_capability(CAP_CHECKPOINT_RESTORE) && !task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
        request.wanted_tids.resize(given.set_tid_size);
        TRY(task.memory().copy_in(given.set_tid, request.wanted_tids.data(), given.set_tid_size * sizeof(int)));
    }
    return clone_task(task, request);
}

// ---------------------------------------------------------------------------------------------------- exec

SysResult<StringList> read_strings(Task& task, GuestAddr array, uint64_t& budget) {
    StringList list;
    if (array == 0) return list;
    for (uint64_t i = 0;; ++i) {
        uint64_t pointers[32];
        // In blocks, but never past the end of the page the array may stop on.
        size_t room = (kPageSize - array % kPageSize) / sizeof(uint64_t);
        size_t count = room == 0 ? 1 : room < 32 ? room : 32;
        TRY(task.memory().copy_in(array, pointers, count * sizeof(uint64_t)));
        for (size_t k = 0; k < count; ++k) {
            if (pointers[k] == 0) return list;
            auto text = task.memory().copy_in_string(pointers[k], kMaxStringLength);
            if (!text.ok()) return errno_of(text.error()) == ENAMETOOLONG ? Errno(E2BIG) : text.take_error();
            uint64_t cost = text->size() + 1 + sizeof(uint64_t);
            if (cost > budget) return Errno(E2BIG);
            budget -= cost;
            list.append(*text);
        }
        array += count * sizeof(uint64_t);
    }
}

SysResult<int64_t> execute(Task& task, int dirfd, GuestAddr path_at, GuestAddr argv, GuestAddr envp, int flags) {
    if ((flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return Errno(EINVAL);
    LoadRequest request;
    std::string path = TRY(task.read_path(path_at));
    request.file = TRY(open_executable(task, dirfd, path, flags));
    bool by_descriptor = path.empty() || (path[0] != '/' && dirfd != AT_FDCWD);
    request.path = path;
    if (by_descriptor) {
        request.path = "/dev/fd/" + std::to_string(dirfd) + (path.empty() ? "" : "/" + path);
        auto entry = task.files().get_entry(dirfd);
        request.close_on_exec = entry.ok() && entry->close_on_exec;
    }
    uint64_t budget = argument_limit(task.limit(RLIMIT_STACK));
    request.arguments = TRY(read_strings(task, argv, budget));
    request.environment = TRY(read_strings(task, envp, budget));
    LoadedProgram program = TRY(load(task, std::move(request)));
    return TaskRunner::exec(task, std::move(program));
}

SysResult<int64_t> sys_execve(Task& task, const SyscallArgs& args) {
    return execute(task, AT_FDCWD, args.u64(0), args.u64(1), args.u64(2), 0);
}

SysResult<int64_t> sys_execveat(Task& task, const SyscallArgs& args) {
    return execute(task, args.fd(0), args.u64(1), args.u64(2), args.u64(3), args.i32(4));
}

// ---------------------------------------------------------------------------------------------------- exit

SysResult<int64_t> sys_exit(Task& task, const SyscallArgs& args) {
    TaskRunner::request_exit(task, (args.i32(0) & 0xff) << 8);
    return 0;
}

SysResult<int64_t> sys_exit_group(Task& task, const SyscallArgs& args) {
    int status = (args.i32(0) & 0xff) << 8;
    {
        std::lock_guard lock(task.process().signal_mutex);
        task.process().begin_group_exit_locked(status);
    }
    TaskRunner::request_exit(task, status);
    return 0;
}

// ---------------------------------------------------------------------------------------------------- wait

Ref<Pid> find_pid(Task& task, int number) {
    TaskSet& tasks = task.kernel().tasks();
    std::lock_guard lock(tasks.mutex);
    return Ref<Pid>(tasks.find_pid_locked(task.pid_namespace(), number));
}

SysResult<int64_t> sys_wait4(Task& task, const SyscallArgs& args) {
    int pid = args.i32(0);
    int options = args.i32(2);
    if ((options & ~(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0) return Errno(EINVAL);
    WaitRequest request;
    request.options = options | WEXITED;
    if (pid == INT_MIN) return Errno(ESRCH);
    if (pid < -1) {
        request.who = WaitRequest::Who::kGroup;
        request.target = find_pid(task, -pid);
    } else if (pid == 0) {
        request.who = WaitRequest::Who::kSameGroup;
    } else if (pid > 0) {
        request.who = WaitRequest::Who::kPid;
        request.target = find_pid(task, pid);
        request.number = pid;
    }
    if (pid < -1 && !request.target) return Errno(ECHILD);
    WaitAnswer answer = TRY(wait_for_child(task, request));
    if (answer.pid != 0 && args.u64(1) != 0) TRY(task.write(UserPtr<int>(args.u64(1)), answer.status));
    if (args.u64(3) != 0 && answer.pid != 0)
        TRY(task.write(UserPtr<struct rusage>(args.u64(3)), to_rusage(answer.use)));
    return answer.pid;
}

SysResult<int64_t> sys_waitid(Task& task, const SyscallArgs& args) {
    int options = args.i32(3);
    if ((options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0)
        return Errno(EINVAL);
    if ((options & (WEXITED | WSTOPPED | WCONTINUED)) == 0) return Errno(EINVAL);
    WaitRequest request;
    request.options = options;
    bool named = true;
    bool nonblocking = false;
    switch (args.i32(0)) {
        case P_ALL:
            named = false;
            break;
        case P_PID:
            if (args.i32(1) <= 0) return Errno(EINVAL);
            request.who = WaitRequest::Who::kPid;
            request.target = find_pid(task, args.i32(1));
            request.number = args.i32(1);
            named = false;  // one that was traced may be told although its number is gone
            break;
        case P_PGID:
            if (args.i32(1) < 0) return Errno(EINVAL);
            if (args.i32(1) == 0) {
                request.who = WaitRequest::Who::kSameGroup;
                named = false;
            } else {
                request.who = WaitRequest::Who::kGroup;
                request.target = find_pid(task, args.i32(1));
            }
            break;
        case P_PIDFD: {
            if (args.i32(1) < 0) return Errno(EINVAL);
            Ref<File> file = TRY(task.files().get(args.i32(1)));
            request.who = WaitRequest::Who::kPid;
            request.target = TRY(pid_of(*file));
            request.number = request.target->number_in(task.pid_namespace());
            nonblocking = file->nonblocking();
            break;
        }
        default:
            return Errno(EINVAL);
    }
    if (named && !request.target) return Errno(ECHILD);
    bool hang = (options & WNOHANG) == 0;
    if (nonblocking) request.options |= WNOHANG;
    WaitAnswer answer = TRY(wait_for_child(task, request));
    if (answer.pid == 0 && nonblocking && hang) return Errno(EAGAIN);
    if (args.u64(4) != 0 && answer.pid != 0)
        TRY(task.write(UserPtr<struct rusage>(args.u64(4)), to_rusage(answer.use)));
    if (args.u64(2) != 0) {
        siginfo_t info{};
        if (answer.pid != 0) {
            info.si_signo = SIGCHLD;
            info.si_code = answer.code;
            info.si_pid = answer.pid;
            info.si_uid = answer.uid;
            info.si_status = answer.value;
        }
        TRY(task.write(UserPtr<siginfo_t>(args.u64(2)), info));
    }
    return 0;
}

// ----------------------------------------------------------------------------------------------- identities

SysResult<int64_t> sys_getpid(Task& task, const SyscallArgs&) { return task.tgid(); }
SysResult<int64_t> sys_gettid(Task& task, const SyscallArgs&) { return task.tid(); }

SysResult<int64_t> sys_getppid(Task& task, const SyscallArgs&) {
    TaskSet& tasks = task.kernel().tasks();
    std::lock_guard lock(tasks.mutex);
    return tasks.parent_pid_locked(task.process(), task.pid_namespace());
}

SysResult<int64_t> sys_set_tid_address(Task& task, const SyscallArgs& args) {
    task.parts().clear_child_tid = args.u64(0);
    return task.tid();
}

SysResult<int64_t> sys_arch_prctl(Task& task, const SyscallArgs& args) {
    constexpr int kSetGs = 0x1001, kSetFs = 0x1002, kGetFs = 0x1003, kGetGs = 0x1004, kGetCpuid = 0x1011,
                  kSetCpuid = 0x1012;
    uint64_t address = args.u64(1);
    bool valid = address < task.kernel().platform().max_user_address();
    if (args.i32(0) == kGetCpuid) return 1;
    if (args.i32(0) == kSetCpuid) return Errno(ENODEV);
    if (!task.has_registers()) return Errno(EINVAL);
    Registers& registers = task.registers();
    switch (args.i32(0)) {
        case kSetFs:
        case kSetGs:
            if (!valid) return Errno(EPERM);
            (args.i32(0) == kSetFs ? registers.fs_base : registers.gs_base) = address;
            // The registers go with resume(), so the result must be in them.
            registers.ax = 0;
            return Errno(kRegistersSet);
        case kGetFs:
            TRY(task.write(UserPtr<uint64_t>(address), registers.fs_base));
            return 0;
        case kGetGs:
            TRY(task.write(UserPtr<uint64_t>(address), registers.gs_base));
            return 0;
        default:
            return Errno(EINVAL);
    }
}

// --------------------------------------------------------------------------------------------------- pidfds

SysResult<int64_t> sys_pidfd_open(Task& task, const SyscallArgs& args) {
    constexpr uint32_t kThread = O_EXCL;  // PIDFD_THREAD
    int pid = args.i32(0);
    uint32_t flags = args.u32(1);
    if ((flags & ~(static_cast<uint32_t>(O_NONBLOCK) | kThread)) != 0 || pid <= 0) return Errno(EINVAL);
    Ref<Pid> found = find_pid(task, pid);
    TaskSet& tasks = task.kernel().tasks();
    {
        std::lock_guard lock(tasks.mutex);
        if (!found || (found->task == nullptr && found->process == nullptr)) return Errno(ESRCH);
        if (found->process == nullptr && (flags & kThread) == 0) return Errno(EINVAL);
    }
    int status = (flags & static_cast<uint32_t>(O_NONBLOCK)) != 0 ? O_NONBLOCK : 0;
    return TRY(
        task.files().insert(make_pidfd(task.kernel(), std::move(found), status), true, task.limit(RLIMIT_NOFILE)));
}

SysResult<int64_t> sys_pidfd_getfd(Task& task, const SyscallArgs& args) {
    if (args.u32(2) != 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    Ref<Pid> pid = TRY(pid_of(*file));
    Ref<Task> target;
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        target = Ref<Task>(pid->task);
    }
    if (!target) return Errno(ESRCH);
    if (!may_inspect(task, *target)) return Errno(EPERM);
    Ref<FdTable> files = target->files_of();
    if (!files) return Errno(ESRCH);
    Ref<File> wanted = TRY(files->get(args.fd(1), true));
    return TRY(task.files().insert(std::move(wanted), true, task.limit(RLIMIT_NOFILE)));
}

constexpr SyscallRow kRows[] = {
    {39, "getpid", sys_getpid, Support::kFull},
    {56, "clone", sys_clone, Support::kPartial, "no CLONE_NEWUSER; CLONE_IO and CLONE_SYSVSEM change nothing"},
    {57, "fork", sys_fork, Support::kFull},
    {58, "vfork", sys_vfork, Support::kFull},
    {59, "execve", sys_execve, Support::kFull},
    {60, "exit", sys_exit, Support::kFull},
    {61, "wait4", sys_wait4, Support::kFull},
    {110, "getppid", sys_getppid, Support::kFull},
    {158, "arch_prctl", sys_arch_prctl, Support::kPartial, "FS and GS base; CPUID cannot be switched off"},
    {186, "gettid", sys_gettid, Support::kFull},
    {218, "set_tid_address", sys_set_tid_address, Support::kFull},
    {231, "exit_group", sys_exit_group, Support::kFull},
    {247, "waitid", sys_waitid, Support::kFull},
    {322, "execveat", sys_execveat, Support::kFull},
    {434, "pidfd_open", sys_pidfd_open, Support::kFull},
    {435, "clone3", sys_clone3, Support::kPartial, "as clone; no CLONE_INTO_CGROUP"},
    {438, "pidfd_getfd", sys_pidfd_getfd, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> task_syscalls() { return kRows; }

}  // namespace casemate::sentry
