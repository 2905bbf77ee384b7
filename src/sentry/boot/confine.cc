#include "sentry/boot/confine.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "fileserver/shared_area.h"
#include "linux/seccomp_fd.h"
#include "sentry/net/host/host_options.h"

namespace casemate::sentry {

using host::ArgCheck;

namespace {

// On sockets that casemate-sockets made; what they may lead to, their network namespace says.
void allow_host_sockets(host::SeccompFilter& filter) {
    filter.allow({SYS_connect, SYS_bind, SYS_listen, SYS_getsockname, SYS_getpeername});
    filter.allow_if(SYS_accept4, {ArgCheck::equal32(3, SOCK_NONBLOCK | SOCK_CLOEXEC)});
    filter.allow_if(SYS_ioctl, {ArgCheck::equal32(1, SIOCATMARK)});
    for (const HostOption& one : host_options()) {
        auto level = ArgCheck::equal32(1, static_cast<uint32_t>(one.level));
        auto name = ArgCheck::equal32(2, static_cast<uint32_t>(one.name));
        if (one.settable) filter.allow_if(SYS_setsockopt, {level, name});
        if (one.readable) filter.allow_if(SYS_getsockopt, {level, name});
    }
}

}  // namespace

host::SeccompFilter sentry_filter(bool host_network) {
    host::SeccompFilter filter;
    // Descriptors that were passed in: content, attributes, readiness.
    filter.allow({SYS_read,       SYS_write,     SYS_pread64,   SYS_pwrite64,        SYS_preadv2,
                  SYS_pwritev2,   SYS_lseek,     SYS_close,     SYS_fstat,           SYS_ftruncate,
                  SYS_fallocate,  SYS_fsync,     SYS_fdatasync, SYS_copy_file_range, SYS_poll,
                  SYS_epoll_wait, SYS_epoll_ctl, SYS_shutdown,  SYS_recvmsg,         SYS_recvmmsg});
    // Not to anywhere but where the descriptor leads.
    filter.allow_if(SYS_sendmsg, {ArgCheck::no_bits(2, MSG_FASTOPEN)});
    filter.allow_if(SYS_newfstatat, {ArgCheck::masked(3, AT_EMPTY_PATH, AT_EMPTY_PATH)});
    filter.allow_if(SYS_fcntl, {ArgCheck::equal32(1, F_GETFL)});
    filter.allow_if(SYS_fcntl, {ArgCheck::equal32(1, F_SETFL)});
    filter.allow_if(SYS_fcntl, {ArgCheck::equal32(1, F_GETFD)});
    filter.allow_if(SYS_eventfd2, {ArgCheck::equal32(0, 0)});
    constexpr uint64_t kCommands[] = {FIONREAD,
                                      SIOCOUTQ,
                                      TIOCGWINSZ,
                                      TCGETS,
                                      SECCOMP_IOCTL_NOTIF_RECV,
                                      SECCOMP_IOCTL_NOTIF_SEND,
                                      SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                                      SECCOMP_IOCTL_NOTIF_ID_VALID};
    for (uint64_t command : kCommands)
        filter.allow_if(SYS_ioctl, {ArgCheck::equal32(1, static_cast<uint32_t>(command))});
    // Memory: never executable.
    filter.allow_if(SYS_mmap, {ArgCheck::no_bits(2, PROT_EXEC)});
    filter.allow_if(SYS_mprotect, {ArgCheck::no_bits(2, PROT_EXEC)});
    filter.allow({SYS_munmap, SYS_madvise, SYS_brk, SYS_mremap, SYS_mincore});
    filter.allow({SYS_process_vm_readv, SYS_process_vm_writev});
    // Threads of its own: clone with exactly the flags that pthread_create uses; clone3 answers ENOSYS so that glibc
    // takes clone, whose flags a filter can see.
    constexpr uint64_t kThreadFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                                      CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    filter.allow_if(SYS_clone, {ArgCheck::equal(0, kThreadFlags)});
    filter.add_rule(SYS_clone3, {}, SECCOMP_RET_ERRNO | ENOSYS);
    filter.allow({SYS_exit, SYS_exit_group, SYS_set_robust_list, SYS_rseq, SYS_sched_yield, SYS_futex, SYS_gettid,
                  SYS_getpid, SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_rt_sigreturn, SYS_sched_getaffinity,
                  SYS_sched_setaffinity});
    filter.allow_if(SYS_prctl, {ArgCheck::equal32(0, PR_SET_NAME)});
    // Its stubs.
    filter.allow({SYS_pidfd_open, SYS_pidfd_getfd, SYS_waitid});
    filter.allow_if(SYS_pidfd_send_signal, {ArgCheck::equal32(1, SIGKILL)});
    filter.allow_if(SYS_kill, {ArgCheck::equal32(1, SIGKILL)});
    filter.allow_if(SYS_tgkill, {ArgCheck::equal32(2, SIGURG)});
    filter.allow_if(SYS_tgkill, {ArgCheck::equal32(2, SIGABRT)});
    // Time and chance.
    filter.allow({SYS_clock_gettime, SYS_clock_nanosleep, SYS_getrandom, SYS_restart_syscall, SYS_clock_adjtime});
    // The C library asks for files now and then (how many CPUs there are); it copes with there being none.
    filter.add_rule(SYS_openat, {}, SECCOMP_RET_ERRNO | ENOENT);
    // The file server's bell: never carried out.
    filter.add_rule(fileserver::kRingCall, {}, SECCOMP_RET_USER_NOTIF);
    if (host_network) allow_host_sockets(filter);
    return filter;
}

Result<UniqueFd> confine(bool host_network) {
    auto program = TRY(sentry_filter(host_network).build());
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return sys_error("prctl PR_SET_NO_NEW_PRIVS");
    // Once the server has a ring, no signal takes it back: it is answered soon.
    constexpr unsigned kListening =
        SECCOMP_FILTER_FLAG_TSYNC_ESRCH | SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    auto installed = linux::install_seccomp_filter(program, SECCOMP_FILTER_FLAG_TSYNC | kListening);
    if (!installed.ok() && installed.error() == Errno(EBUSY))
        installed = linux::install_seccomp_filter(program, SECCOMP_FILTER_FLAG_TSYNC);
    if (!installed.ok()) return sys_error("install the sentry's seccomp filter", installed.error().value);
    return installed.take_value();
}

}  // namespace casemate::sentry
