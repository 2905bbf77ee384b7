#include "fileserver/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "linux/mount_fd.h"
#include "linux/seccomp_fd.h"

namespace casemate::fileserver {

namespace {

// The folder /proc/self/fd alone, as a mount of its own that hangs nowhere. Of a whole procfs whoever takes this
// process over could make use: it is root's here, and has /proc/sys, which the host runs programs by, and
// /proc/self/exe.
Result<UniqueFd> make_proc_self_fd() {
    auto context = linux::fsopen("proc");
    if (!context.ok())
        return sys_error("file server: /proc/self/fd is not there and fsopen(proc) failed", context.error().value);
    (void)linux::fsconfig_string(context->get(), "subset", "pid");  // Linux 5.8
    if (auto made = linux::fsconfig_create(context->get()); !made.ok())
        return sys_error("file server: creating a private procfs", made.error().value);
    auto whole = linux::fsmount(context->get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (!whole.ok()) return sys_error("file server: mounting a private procfs", whole.error().value);
    // Only what is mounted somewhere can be copied: for a moment that is over the empty root.
    if (auto moved = linux::move_mount(whole->get(), AT_FDCWD, "/"); !moved.ok())
        return sys_error("file server: attaching a private procfs", moved.error().value);
    auto folder = linux::clone_mount(whole->get(), "self/fd", false);
    if (!folder.ok()) return sys_error("file server: copying self/fd of a private procfs", folder.error().value);
    if (::fchdir(whole->get()) != 0 || ::umount2(".", MNT_DETACH) != 0)
        return sys_error("file server: detaching a private procfs");
    return folder.take_value();
}

// The same of a procfs that the jail shows (rootless): of the rest nothing stays.
Result<UniqueFd> keep_proc_self_fd() {
    auto folder = linux::clone_mount(AT_FDCWD, "/proc/self/fd", false);
    if (!folder.ok()) return sys_error("file server: copying /proc/self/fd", folder.error().value);
    if (::umount2("/proc", MNT_DETACH) != 0) return sys_error("file server: detaching /proc");
    return folder.take_value();
}

}  // namespace

Result<UniqueFd> enter_proc_self_fd() {
    UniqueFd self(::open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!self) self = TRY(make_proc_self_fd());
    if (::fchdir(self.get()) != 0) return sys_error("file server: chdir to /proc/self/fd");
    return self;
}

Result<UniqueFd> enter_jail() {
    UniqueFd self = TRY(::access("/proc/self", F_OK) == 0 ? keep_proc_self_fd() : make_proc_self_fd());
    if (::fchdir(self.get()) != 0) return sys_error("file server: chdir to /proc/self/fd");
    return self;
}

Result<ShareJail> enter_share_jail() {
    ShareJail jail;
    jail.self = TRY(enter_jail());
    jail.directory.reset(::open(kSharePath, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!jail.directory) return sys_error("share: open the directory");
    raise_descriptor_limit();
    TRY(drop_capabilities());
    return jail;
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
