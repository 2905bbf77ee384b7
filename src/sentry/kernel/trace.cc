#include "sentry/kernel/trace.h"

#include <string.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "sentry/kernel/errno.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

// Which argument of a call is a path or a string: bit n = argument n.
unsigned path_arguments(uint64_t number) {
    switch (number) {
        case SYS_open:
        case SYS_stat:
        case SYS_lstat:
        case SYS_access:
        case SYS_execve:
        case SYS_chdir:
        case SYS_mkdir:
        case SYS_rmdir:
        case SYS_creat:
        case SYS_unlink:
        case SYS_readlink:
        case SYS_chmod:
        case SYS_chown:
        case SYS_truncate:
        case SYS_statfs:
        case SYS_chroot:
        case SYS_umount2:
            return 1;
        case SYS_openat:
        case SYS_newfstatat:
        case SYS_statx:
        case SYS_faccessat:
        case SYS_faccessat2:
        case SYS_readlinkat:
        case SYS_unlinkat:
        case SYS_mkdirat:
        case SYS_fchmodat:
        case SYS_fchownat:
        case SYS_execveat:
        case SYS_mknodat:
        case SYS_utimensat:
        case SYS_openat2:
            return 2;
        case SYS_rename:
        case SYS_link:
        case SYS_symlink:
        case SYS_mount:
            return 3;
        case SYS_renameat:
        case SYS_renameat2:
        case SYS_linkat:
            return 2 | 8;
        case SYS_symlinkat:
            return 1 | 4;
        default:
            return 0;
    }
}

std::string arguments_text(Task& task, const SyscallArgs& args) {
    unsigned paths = path_arguments(args.nr);
    std::string text;
    for (unsigned i = 0; i < 6; ++i) {
        if (i > 0) text += ", ";
        if ((paths >> i & 1) != 0) {
            auto path = task.memory().copy_in_string(args.a[i], 256);
            text += path.ok() ? '"' + *path + '"' : fmt::format("{:#x}", args.a[i]);
        } else {
            text += fmt::format("{:#x}", args.a[i]);
        }
    }
    return text;
}

}  // namespace

void trace_enter(Task& task, const SyscallRow& row, const SyscallArgs& args) {
    log::write_line(log::Level::kInfo,
                    fmt::format("[{}] {}({}) ...", task.tid(), row.name, arguments_text(task, args)));
}

void trace_leave(Task& task, const SyscallRow& row, const SyscallArgs&, int64_t result) {
    if (result >= 0 || result < -4095)
        log::write_line(log::Level::kInfo, fmt::format("[{}] {} = {:#x}", task.tid(), row.name, result));
    else if (result <= -kRestartSys)
        log::write_line(log::Level::kInfo, fmt::format("[{}] {} = ? (interrupted, {})", task.tid(), row.name, -result));
    else
        log::write_line(log::Level::kInfo, fmt::format("[{}] {} = -{} ({})", task.tid(), row.name,
                                                       strerrorname_np(static_cast<int>(-result)), -result));
}

void trace_signal(Task& task, const siginfo_t& info) {
    log::write_line(log::Level::kInfo,
                    fmt::format("[{}] --- signal {} code {} address {:#x} ip {:#x} ---", task.tid(), info.si_signo,
                                info.si_code, reinterpret_cast<uint64_t>(info.si_addr),
                                task.has_registers() ? task.registers().ip : 0));
}

}  // namespace casemate::sentry
