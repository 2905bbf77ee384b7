#include "sentry/kernel/quick_calls.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/parked_call.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_run.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {
namespace {

// More is worth a stop anyway, and longer than another application should look for its answer. Of a regular file it is
// more: who reads one in large pieces often does so in small ones, too, and would be left alone for refused calls.
constexpr uint64_t kMostBytes = 16 << 10;
constexpr uint64_t kMostOfFile = 128 << 10;
constexpr uint64_t kMostRoom = 64 << 10;
// A pipe takes as much whole or not at all.
constexpr uint64_t kMostWhole = 4096;

// The type of a descriptor's file: S_IFMT bits, 0 for what has no inode.
uint32_t type_of(Task& task, uint64_t fd) {
    auto file = task.files().get(static_cast<int>(fd));
    if (!file.ok()) return 0;
    Inode* inode = (*file)->inode();
    return inode != nullptr ? inode->mode() & S_IFMT : 0;
}

// Whether a descriptor is a socket that is never waited for: its calls end at once, however little they did.
bool never_waits(Task& task, uint64_t fd, uint64_t flags) {
    auto file = task.files().get(static_cast<int>(fd));
    return file.ok() && (*file)->as_socket() != nullptr && ((flags & MSG_DONTWAIT) != 0 || (*file)->nonblocking());
}

WakeBatch& batch_of_this_thread() {
    thread_local WakeBatch batch;
    return batch;
}

}  // namespace

bool is_quick(Task& task, const SyscallStop& call) {
    switch (call.nr) {
        // About the task itself.
        case SYS_getpid:
        case SYS_gettid:
        case SYS_getppid:
        case SYS_getpgrp:
        case SYS_getpgid:
        case SYS_getsid:
        case SYS_getuid:
        case SYS_geteuid:
        case SYS_getgid:
        case SYS_getegid:
        case SYS_getresuid:
        case SYS_getresgid:
        case SYS_getpriority:
        case SYS_getrlimit:
        case SYS_umask:
        case SYS_uname:
        case SYS_getcwd:
        case SYS_rt_sigprocmask:
        case SYS_rt_sigaction:
        case SYS_rt_sigpending:
        // The clocks.
        case SYS_clock_gettime:
        case SYS_clock_getres:
        case SYS_gettimeofday:
        case SYS_time:
        // Files, by what is known of them.
        case SYS_lseek:
        case SYS_fstat:
        case SYS_stat:
        case SYS_lstat:
        case SYS_newfstatat:
        case SYS_access:
        case SYS_faccessat:
        case SYS_open:
        case SYS_openat:
        case SYS_dup:
        case SYS_statx:
        case SYS_faccessat2:
        case SYS_readlink:
        case SYS_readlinkat:
        case SYS_getdents64:
        case SYS_getxattr:
        case SYS_lgetxattr:
        case SYS_fgetxattr:
        // Names and attributes: at most a question to the file server, as open has it.
        case SYS_mkdir:
        case SYS_mkdirat:
        case SYS_rmdir:
        case SYS_link:
        case SYS_linkat:
        case SYS_symlink:
        case SYS_symlinkat:
        case SYS_unlink:
        case SYS_unlinkat:
        case SYS_rename:
        case SYS_renameat:
        case SYS_renameat2:
        case SYS_chmod:
        case SYS_fchmod:
        case SYS_fchmodat:
        case SYS_chown:
        case SYS_fchown:
        case SYS_lchown:
        case SYS_fchownat:
        case SYS_utimensat:
        case SYS_fadvise64:
        // Asks the host process for something now and then only (mm/address_space_heap.cc).
        case SYS_brk:
        // What is not ready parks.
        case SYS_poll:
        case SYS_epoll_wait:
        case SYS_epoll_ctl:
        case SYS_futex:
            return true;
        case SYS_epoll_pwait:
            return call.args[4] == 0;  // no mask for the time of the call
        case SYS_ppoll:
            return call.args[3] == 0;
        case SYS_sendto:
            return call.args[2] <= kMostBytes && never_waits(task, call.args[0], call.args[3]);
        case SYS_sendmsg:
            return never_waits(task, call.args[0], call.args[2]);
        case SYS_writev:
            return never_waits(task, call.args[0], 0);
        case SYS_close: {
            const uint32_t type = type_of(task, call.args[0]);
            return type == S_IFREG || type == S_IFDIR;
        }
        case SYS_read:
        case SYS_pread64:
        case SYS_recvfrom:
            // Who reads from a stream gives room for much and gets what there is.
            return call.args[2] <= kMostBytes ||
                   call.args[2] <= (type_of(task, call.args[0]) == S_IFREG ? kMostOfFile : kMostRoom);
        case SYS_write:
        case SYS_pwrite64: {
            const uint32_t type = type_of(task, call.args[0]);
            if (type == S_IFREG) return call.args[2] <= kMostOfFile;
            if (call.args[2] <= kMostBytes && never_waits(task, call.args[0], 0)) return true;
            return (type == S_IFIFO || type == S_IFCHR) && call.args[2] <= kMostWhole;
        }
        case SYS_fsync:
        case SYS_fdatasync: {
            auto file = task.files().get(static_cast<int>(call.args[0]));
            return file.ok() && (*file)->syncs_at_once();
        }
        case SYS_fcntl:
            switch (static_cast<int>(call.args[1])) {
                case F_GETFD:
                case F_SETFD:
                case F_GETFL:
                case F_GETLK:
                case F_SETLK:
                case F_OFD_GETLK:
                case F_OFD_SETLK:
                case F_DUPFD:
                case F_DUPFD_CLOEXEC:
                    return true;
                default:
                    return false;
            }
        default:
            return false;
    }
}

std::optional<QuickAnswer> TaskRunner::answer_now(Task& task, const SyscallStop& call) {
    Task::Parts& parts = task.parts();
    if (task.attention_.load(std::memory_order_seq_cst) != 0 || task.kernel().watched() || is_traced(task) ||
        parts.hold || !always_allowed(task, call.nr) || !is_quick(task, call))
        return std::nullopt;
    const SyscallRow* row = find_syscall(call.nr);
    if (row == nullptr || row->handler == nullptr) return std::nullopt;
    SyscallArgs args;
    args.nr = call.nr;
    for (size_t i = 0; i < 6; ++i) args.a[i] = call.args[i];
    parts.has_registers = false;
    parts.syscall_number = call.nr;
    parts.may_park = may_be_parked(call.nr);
    SysResult<int64_t> result = row->handler(task, args);
    if (parts.parked_call.armed() && !result.ok() && errno_of(result.error()) == kParked) {
        // The application waits for the answer where it is; the task's thread sees to time-outs and interruptions.
        parts.may_park = false;
        parts.quick_stop = Stop{};
        parts.quick_stop.reason = StopReason::kSyscall;
        parts.quick_stop.syscall = call;
        parts.parked_call.stop = &parts.quick_stop;
        show_call(task, call);
        batch_of_this_thread().run_works();
        return QuickAnswer{.parked = true, .deadline = parts.parked_call.deadline()};
    }
    if (parts.parked_call.armed()) {
        // It would block. Who woke it meanwhile may have given it its result.
        task.cancel_park();
        if (parts.futex_sleeper) task.kernel().futexes().leave_parked(task);
        parts.parked_call.set_state(ParkedCall::State::kNone);
        if (parts.parked_call.result) result = *std::exchange(parts.parked_call.result, std::nullopt);
    }
    parts.may_park = false;
    int64_t value;
    if (result.ok()) {
        value = *result;
    } else {
        const int code = errno_of(result.error());
        // To be made on its own thread: it would block, or there is no memory for it.
        if (code >= kRestartSys || code == kParked) return std::nullopt;
        if ((code == ENOMEM || code == EFAULT) && task.kernel().memory().used_up()) return std::nullopt;
        value = -code;
    }
    batch_of_this_thread().run_works();
    // A signal that the call itself sent or let through is delivered before the application goes on.
    return QuickAnswer{value, task.attention_.load(std::memory_order_seq_cst) != 0};
}

std::optional<QuickAnswer> TaskQuickCalls::answer_now(const SyscallStop& call) {
    batch_of_this_thread();
    return TaskRunner::answer_now(*task_, call);
}

void TaskQuickCalls::parked() { TaskRunner::park_quick_call(*task_); }

void TaskQuickCalls::answered() { batch_of_this_thread().run(WakeOn::kAnyCpu); }

}  // namespace casemate::sentry
