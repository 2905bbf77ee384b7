#include "fileserver/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "linux/seccomp_fd.h"

namespace casemate::fileserver {

Result<UniqueFd> enter_proc_self_fd() {
    int fd = ::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        // No /proc in this root: a detached one of our own, for this pid namespace.
        UniqueFd context(static_cast<int>(::syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC)));
        if (!context) return sys_error("file server: /proc/self/fd is not there and fsopen(proc) failed");
        if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
            return sys_error("file server: creating a private procfs");
        UniqueFd mount(static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
        if (!mount) return sys_error("file server: mounting a private procfs");
        fd = ::openat(mount.get(), "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) return sys_error("file server: open self/fd of a private procfs");
    }
    UniqueFd self(fd);
    if (::fchdir(self.get()) != 0) return sys_error("file server: chdir to /proc/self/fd");
    return self;
}

size_t raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur == RLIM_INFINITY ? 1 << 20 : static_cast<size_t>(limit.rlim_cur);
}

Result<void> drop_capabilities() {
    constexpr int kKept[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,
                             CAP_FSETID, CAP_MKNOD,        CAP_SETFCAP};
    uint64_t kept = 0;
    for (int capability : kKept) kept |= uint64_t{1} << capability;
    for (int capability = 0; capability < 64; ++capability)
        if (!(kept >> capability & 1))
            ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);  // EINVAL past the last, EPERM rootless
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    if (::syscall(SYS_capget, &header, data) != 0) return sys_error("file server: capget");
    for (int i = 0; i < 2; ++i) {
        uint32_t mask = static_cast<uint32_t>(kept >> (32 * i));
        data[i].effective = data[i].permitted & mask;
        data[i].permitted &= mask;
        data[i].inheritable = 0;
    }
    header = {_LINUX_CAPABILITY_VERSION_3, 0};
    if (::syscall(SYS_capset, &header, data) != 0) return sys_error("file server: capset");
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return sys_error("file server: no_new_privs");
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return sys_error("file server: not dumpable");
    return {};
}

Result<void> install_filter() {
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    if (filter == nullptr) return Error("file server: seccomp_init failed");
    struct Release {
        scmp_filter_ctx filter;
        ~Release() { seccomp_release(filter); }
    } release{filter};
    // Files: by descriptor or by a path under one. sendmsg and recvmsg serve the two sockets that were inherited.
    constexpr int kAllowed[] = {SCMP_SYS(openat),       SCMP_SYS(openat2),         SCMP_SYS(close),
                                SCMP_SYS(statx),        SCMP_SYS(fstat),           SCMP_SYS(newfstatat),
                                SCMP_SYS(fstatfs),      SCMP_SYS(getdents64),      SCMP_SYS(lseek),
                                SCMP_SYS(readlinkat),   SCMP_SYS(mkdirat),         SCMP_SYS(mknodat),
                                SCMP_SYS(symlinkat),    SCMP_SYS(linkat),          SCMP_SYS(unlinkat),
                                SCMP_SYS(renameat2),    SCMP_SYS(fchown),          SCMP_SYS(fchownat),
                                SCMP_SYS(fchmod),       SCMP_SYS(fchmodat),        SCMP_SYS(ftruncate),
                                SCMP_SYS(utimensat),    SCMP_SYS(getxattr),        SCMP_SYS(setxattr),
                                SCMP_SYS(removexattr),  SCMP_SYS(listxattr),       SCMP_SYS(syncfs),
                                SCMP_SYS(fsync),        SCMP_SYS(recvmsg),         SCMP_SYS(recvfrom),
                                SCMP_SYS(poll),         SCMP_SYS(sendmsg),         SCMP_SYS(sendto),
                                SCMP_SYS(write),        SCMP_SYS(writev),          SCMP_SYS(futex),
                                SCMP_SYS(munmap),       SCMP_SYS(mremap),          SCMP_SYS(brk),
                                SCMP_SYS(madvise),      SCMP_SYS(mprotect),        SCMP_SYS(exit),
                                SCMP_SYS(exit_group),   SCMP_SYS(rt_sigreturn),    SCMP_SYS(rt_sigprocmask),
                                SCMP_SYS(rt_sigaction), SCMP_SYS(getpid),          SCMP_SYS(gettid),
                                SCMP_SYS(tgkill),       SCMP_SYS(restart_syscall), SCMP_SYS(clock_gettime),
                                SCMP_SYS(getrandom),    SCMP_SYS(sched_yield),     SCMP_SYS(set_robust_list),
                                SCMP_SYS(rseq)};
    for (int number : kAllowed)
        if (seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0) != 0) return Error("file server: seccomp rule failed");
    int failed = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_DUPFD_CLOEXEC));
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_SETFL));
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GETFL));
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1, SCMP_A1(SCMP_CMP_EQ, F_GET_SEALS));
    // The guest kernel's rings.
    constexpr uint64_t kRings[] = {SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND, SECCOMP_IOCTL_NOTIF_SET_FLAGS};
    for (uint64_t command : kRings)
        failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, command));
    // Memory, never executable.
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, 4, 0));
    if (failed != 0) return Error("file server: seccomp rule failed");
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    int error = seccomp_load(filter);
    if (error != 0) return sys_error("file server: loading the seccomp filter", -error);
    return {};
}

}  // namespace casemate::fileserver
