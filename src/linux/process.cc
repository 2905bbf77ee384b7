#include "linux/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#ifndef P_PIDFD
#define P_PIDFD static_cast<idtype_t>(3)
#endif

namespace casemate::linux {

SysResult<pid_t> clone3(struct clone_args& args) {
    long pid = ::syscall(SYS_clone3, &args, sizeof args);
    if (pid < 0) return last_errno();
    return static_cast<pid_t>(pid);
}

SysResult<UniqueFd> pidfd_open(pid_t pid, unsigned flags) {
    long fd = ::syscall(SYS_pidfd_open, pid, flags);
    if (fd < 0) return last_errno();
    return UniqueFd(static_cast<int>(fd));
}

SysResult<void> pidfd_send_signal(int pidfd, int signo) {
    if (::syscall(SYS_pidfd_send_signal, pidfd, signo, nullptr, 0) < 0) return last_errno();
    return {};
}

SysResult<UniqueFd> pidfd_getfd(int pidfd, int target_fd) {
    long fd = ::syscall(SYS_pidfd_getfd, pidfd, target_fd, 0);
    if (fd < 0) return last_errno();
    return UniqueFd(static_cast<int>(fd));
}

SysResult<std::optional<ExitStatus>> wait_pidfd(int pidfd, bool block) {
    siginfo_t info = {};
    while (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED | (block ? 0 : WNOHANG)) <
           0) {
        if (errno != EINTR) return last_errno();
    }
    std::optional<ExitStatus> status;
    if (info.si_pid != 0) status.emplace(ExitStatus{info.si_code != CLD_EXITED, info.si_status});
    return status;
}

void kill_and_reap(int pidfd) {
    (void)pidfd_send_signal(pidfd, SIGKILL);
    (void)wait_pidfd(pidfd, true);
}

bool pidfd_exited(int pidfd) {
    pollfd p = {pidfd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1 && (p.revents & (POLLIN | POLLHUP)) != 0;
}

SysResult<void> close_range(unsigned first, unsigned last, unsigned flags) {
    if (::syscall(SYS_close_range, first, last, flags) < 0) return last_errno();
    return {};
}

SysResult<void> setns(int fd, int flags) {
    if (::setns(fd, flags) < 0) return last_errno();
    return {};
}

SysResult<void> unshare(int flags) {
    if (::unshare(flags) < 0) return last_errno();
    return {};
}

SysResult<void> set_dumpable(bool dumpable) {
    if (::prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0) < 0) return last_errno();
    return {};
}

SysResult<void> set_no_new_privs() {
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return last_errno();
    return {};
}

SysResult<void> set_death_signal(int signo) {
    if (::prctl(PR_SET_PDEATHSIG, signo, 0, 0, 0) < 0) return last_errno();
    return {};
}

void set_process_name(const char* name) { ::prctl(PR_SET_NAME, name, 0, 0, 0); }

SysResult<uint64_t> process_start_time(pid_t pid) {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/%d/stat", pid);
    UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (!fd) return errno == ENOENT ? Errno(ESRCH) : last_errno();
    char text[1024];
    ssize_t size = ::read(fd.get(), text, sizeof text - 1);
    if (size < 0) return last_errno();
    text[size] = 0;
    // The command name may hold anything, blanks and parentheses too: count fields from its last ')'.
    const char* at = std::strrchr(text, ')');
    for (int field = 2; at != nullptr && field < 22; field++) at = std::strchr(at + 1, ' ');
    if (at == nullptr) return Errno(EINVAL);
    return static_cast<uint64_t>(std::strtoull(at + 1, nullptr, 10));
}

}  // namespace casemate::linux
