// Processes by descriptor: clone3, pidfds, waiting, and what a process says about itself by prctl. Every descriptor
// that these return is close-on-exec.
#pragma once

#include <linux/sched.h>
#include <sched.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

// How a process ended.
struct ExitStatus {
    bool signaled = false;
    int value = 0;  // exit code, or the signal that killed it

    // As a shell (and the OCI runtimes) tell it: 128 + signal for a killed one.
    int shell_code() const { return signaled ? 128 + value : value; }
    friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

// clone3(2) without CLONE_VM: returns 0 in the child, which goes on on a copy of the caller's stack.
// SAFETY: unlike fork(3), no atfork handler runs. In a process with threads the child may do raw syscalls only, no
// allocation: another thread may have held malloc's lock.
SysResult<pid_t> clone3(struct clone_args& args);

SysResult<UniqueFd> pidfd_open(pid_t pid, unsigned flags = 0);
SysResult<void> pidfd_send_signal(int pidfd, int signo);
// A copy of another process's descriptor; needs ptrace rights over it.
SysResult<UniqueFd> pidfd_getfd(int pidfd, int target_fd);

// Reaps the child behind `pidfd`. Empty if it still runs and `block` is false.
SysResult<std::optional<ExitStatus>> wait_pidfd(int pidfd, bool block);
// SIGKILL and reap, whatever state it is in. For clean-up of children.
void kill_and_reap(int pidfd);
// Whether the process behind the pidfd has ended (child or not).
bool pidfd_exited(int pidfd);

SysResult<void> close_range(unsigned first, unsigned last, unsigned flags = 0);
SysResult<void> setns(int fd, int flags);
SysResult<void> unshare(int flags);

// What helpers call first: exec makes a process dumpable again, so its parent cannot do it for them. Not dumpable means
// no core, no ptrace and no /proc/pid access by others of the same uid.
SysResult<void> set_dumpable(bool dumpable);
SysResult<void> set_no_new_privs();
SysResult<void> set_death_signal(int signo);
void set_process_name(const char* name);  // 15 bytes are shown

// Start time in clock ticks since boot, from /proc/pid/stat: together with the pid it names a process for good.
SysResult<uint64_t> process_start_time(pid_t pid);

}  // namespace casemate::linux
