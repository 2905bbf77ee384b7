// The syscall table is data: number, name, handler, how much of it there is and what is missing.
//
// `casemate syscalls` prints it and docs/syscalls.md is made from it. Every number that Linux x86-64 knows has a row
// (syscalls/table.cc, made of the families' lists); a number without a handler answers `missing_errno` and is logged
// once.
#pragma once

#include <cerrno>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace casemate::sentry {

class Task;

struct SyscallArgs {
    uint64_t nr = 0;
    uint64_t a[6] = {};

    int fd(int i) const { return static_cast<int>(a[i]); }
    int32_t i32(int i) const { return static_cast<int32_t>(a[i]); }
    uint32_t u32(int i) const { return static_cast<uint32_t>(a[i]); }
    int64_t i64(int i) const { return static_cast<int64_t>(a[i]); }
    uint64_t u64(int i) const { return a[i]; }
};

// Runs on the task's thread. The value or -errno goes to rax.
using SyscallHandler = SysResult<int64_t> (*)(Task& task, const SyscallArgs& args);

enum class Support : uint8_t { kFull, kPartial, kNone };

struct SyscallRow {
    uint16_t number = 0;
    const char* name = nullptr;
    SyscallHandler handler = nullptr;
    Support support = Support::kNone;
    const char* note = "";       // what is missing or why
    int missing_errno = ENOSYS;  // the answer without a handler: what a Linux without the feature would say
};

// The row of a number, or null for numbers that Linux does not know.
const SyscallRow* find_syscall(uint64_t number);
std::span<const SyscallRow> all_syscalls();  // by number

// What a row without a handler answers; logs it once.
SysResult<int64_t> answer_missing(Task& task, const SyscallRow& row);

// Each family (one or more files in syscalls/) publishes its rows through a function `std::span<const SyscallRow>
// xxx_syscalls()`, listed here; table.cc puts them together and fills the gaps with kNone rows.
std::span<const SyscallRow> file_syscalls();        // open, close, stat, directories, links, xattrs...
std::span<const SyscallRow> io_syscalls();          // read, write, seek, splice, sendfile...
std::span<const SyscallRow> descriptor_syscalls();  // dup, fcntl, locks, ioctl, close_range
std::span<const SyscallRow> mount_syscalls();       // mount, umount2, pivot_root, chroot, statfs, new mount API
std::span<const SyscallRow> event_syscalls();       // epoll, eventfd, signalfd, timerfd, inotify, pipe
std::span<const SyscallRow> poll_syscalls();        // poll, select and relatives
std::span<const SyscallRow> socket_syscalls();      // socket, bind, sendmsg...
std::span<const SyscallRow> memory_syscalls();      // mmap, brk, madvise, memfd, shm*...
std::span<const SyscallRow> task_syscalls();        // clone, exec, exit, wait, pidfd
std::span<const SyscallRow> scheduling_syscalls();  // sched_*, priorities, limits, times
std::span<const SyscallRow> signal_syscalls();      // kill, rt_sig*, sigaltstack, pidfd_send_signal
std::span<const SyscallRow> identity_syscalls();    // uids, gids, groups, capabilities, sessions
std::span<const SyscallRow> time_syscalls();        // clocks, timers, nanosleep, itimers, adjtimex
std::span<const SyscallRow> futex_syscalls();       // futex, robust lists, rseq, membarrier
std::span<const SyscallRow> ipc_syscalls();         // SysV semaphores and messages, POSIX message queues
std::span<const SyscallRow> system_syscalls();      // uname, sysinfo, getrandom, syslog, namespaces, the refused rest

}  // namespace casemate::sentry
