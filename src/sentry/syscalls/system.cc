// The machine as a whole: names, numbers, randomness, namespaces, and what is refused.
#include <linux/capability.h>
#include <linux/random.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "base/checked.h"
#include "sentry/fs/proc/namespace_files.h"
#include "sentry/kernel/host_memory.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/mm/io_buffer.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/prctl.h"
#include "sentry/syscalls/seccomp.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

SysResult<int64_t> sys_uname(Task& task, const SyscallArgs& args) {
    struct utsname out {};
    auto put = [](char(&field)[65], std::string_view text) { text.substr(0, 64).copy(field, 64); };
    UtsNamespace& uts = *task.namespaces().uts;
    put(out.sysname, "Linux");
    put(out.nodename, uts.host_name());
    put(out.release, task.kernel().options().release);
    put(out.version, task.kernel().options().version);
    put(out.machine, "x86_64");
    put(out.domainname, uts.domain_name());
    TRY(task.write(UserPtr<struct utsname>(args.u64(0)), out));
    return 0;
}

SysResult<std::string> read_name(Task& task, const SyscallArgs& args) {
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    if (args.i32(1) < 0 || args.i32(1) > 64) return Errno(EINVAL);
    std::string name(args.u32(1), '\0');
    TRY(task.memory().copy_in(args.u64(0), name.data(), name.size()));
    return std::string(name.c_str());
}

SysResult<int64_t> sys_sethostname(Task& task, const SyscallArgs& args) {
    task.namespaces().uts->set_host_name(TRY(read_name(task, args)));
    return 0;
}

SysResult<int64_t> sys_setdomainname(Task& task, const SyscallArgs& args) {
    task.namespaces().uts->set_domain_name(TRY(read_name(task, args)));
    return 0;
}

SysResult<int64_t> sys_sysinfo(Task& task, const SyscallArgs& args) {
    Kernel& kernel = task.kernel();
    struct sysinfo out {};
    out.uptime = (monotonic_now() - kernel.boot_time()) / kSecond;
    uint64_t total = kernel.memory().limit();
    uint64_t used = kernel.memory().bytes_used();
    if (total == 0) total = host_memory();
    out.totalram = total;
    out.freeram = total > used ? total - used : 0;
    out.procs = static_cast<unsigned short>(std::min<size_t>(kernel.tasks().task_count(), 65535));
    out.mem_unit = 1;
    TRY(task.write(UserPtr<struct sysinfo>(args.u64(0)), out));
    return 0;
}

SysResult<int64_t> sys_getrandom(Task& task, const SyscallArgs& args) {
    if ((args.u32(2) & ~(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE)) != 0 ||
        (args.u32(2) & (GRND_RANDOM | GRND_INSECURE)) == (GRND_RANDOM | GRND_INSECURE))
        return Errno(EINVAL);
    uint64_t wanted = std::min<uint64_t>(args.u64(1), INT32_MAX & ~(kPageSize - 1));
    IoBuffer buffer = IoBuffer::user(task.memory(), args.u64(0), wanted);
    while (buffer.remaining() != 0) {
        char bytes[4096];
        size_t step = std::min(buffer.remaining(), sizeof(bytes));
        ssize_t got = ::getrandom(bytes, step, 0);
        if (got < 0) return last_errno();
        auto copied = buffer.copy_to(bytes, static_cast<size_t>(got));
        if (!copied.ok()) {
            if (buffer.moved() != 0) break;
            return copied.take_error();
        }
        if (*copied < static_cast<size_t>(got)) break;
        if (buffer.remaining() != 0 && task.interrupted() && buffer.moved() >= 256) break;
    }
    return static_cast<int64_t>(buffer.moved());
}

SysResult<int64_t> sys_personality(Task& task, const SyscallArgs& args) {
    uint64_t old = task.parts().personality;
    uint32_t wanted = args.u32(0);
    if (wanted != 0xffffffff) {
        if ((wanted & 0xff) != 0 && (wanted & 0xff) != 8) return Errno(EINVAL);  // PER_LINUX, PER_LINUX32
        task.parts().personality = wanted;
    }
    return static_cast<int64_t>(old);
}

// -------------------------------------------------------------------------------------------------- namespaces

SysResult<int64_t> sys_unshare(Task& task, const SyscallArgs& args) {
    constexpr uint64_t kNamespaces =
        CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWCGROUP;
    constexpr uint64_t kOthers = CLONE_FS | CLONE_FILES | CLONE_SYSVSEM | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
    uint64_t flags = args.u64(0);
    if ((flags & ~(kNamespaces | kOthers)) != 0) return Errno(EINVAL);
    if ((flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM)) != 0) {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (task.process().threads.size() > 1) return Errno(EINVAL);
    }
    Ref<FsContext> fs(&task.fs());
    if ((flags & (CLONE_FS | CLONE_NEWNS)) != 0) fs = task.fs().clone();
    Ref<Namespaces> namespaces;
    if ((flags & kNamespaces) != 0) namespaces = TRY(new_namespaces(task, *fs, flags & kNamespaces));
    if ((flags & CLONE_FILES) != 0) task.set_files(task.files().clone());
    if (fs.get() != &task.fs()) task.set_fs(std::move(fs));
    if (namespaces) task.set_namespaces(std::move(namespaces));
    return 0;
}

// Into one namespace that a file of /proc/PID/ns is, or into those of a process that a pidfd names.
SysResult<int64_t> sys_setns(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    uint64_t flags = args.u32(1);
    constexpr uint64_t kKnown =
        CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP;
    Ref<Namespaces> theirs;
    Ref<PidNamespace> space;
    if (const HeldNamespace* held = held_namespace(*file)) {
        if (flags != 0 && flags != held->kind) return Errno(EINVAL);
        flags = held->kind;
        // The user namespace is everybody's own already; clocks have no offsets to change to.
        if ((flags & ~kKnown) != 0) return Errno(EINVAL);
        theirs = held->set;
        space = held->pid;
    } else {
        Ref<Pid> pid = TRY(pid_of(*file).ok() ? pid_of(*file) : SysResult<Ref<Pid>>(Errno(EINVAL)));
        if (flags == 0 || (flags & ~kKnown) != 0) return Errno(EINVAL);
        Ref<Task> target;
        {
            std::lock_guard lock(task.kernel().tasks().mutex);
            target = Ref<Task>(pid->task);
        }
        if (target) {
            theirs = target->namespaces_of();
            space = Ref<PidNamespace>(&target->pid_namespace());
        }
        if (!theirs) return Errno(ESRCH);
    }
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    Ref<Namespaces> next = task.namespaces().clone();
    if ((flags & CLONE_NEWUTS) != 0) next->uts = theirs->uts;
    if ((flags & CLONE_NEWIPC) != 0) next->ipc = theirs->ipc;
    if ((flags & CLONE_NEWNET) != 0) next->network = theirs->network;
    if ((flags & CLONE_NEWCGROUP) != 0) next->cgroup = theirs->cgroup;
    if ((flags & CLONE_NEWPID) != 0) {
        bool below = false;
        for (PidNamespace* at = space.get(); at != nullptr; at = at->parent.get())
            below = below || at == &task.pid_namespace();
        if (!below) return Errno(EINVAL);
        next->pid_for_children = std::move(space);
    }
    if ((flags & CLONE_NEWNS) != 0) {
        if (!task.has_capability(CAP_SYS_CHROOT)) return Errno(EPERM);
        next->mount = theirs->mount;
        Ref<FsContext> fs = task.fs().clone();
        fs->set_root(next->mount->root());
        fs->set_working_directory(next->mount->root());
        task.set_fs(std::move(fs));
    }
    task.set_namespaces(std::move(next));
    return 0;
}

SysResult<int64_t> refused_by_capability(Task& task, int capability) {
    return Errno(task.has_capability(capability) ? ENOSYS : EPERM);
}
SysResult<int64_t> sys_reboot(Task&, const SyscallArgs&) { return Errno(EPERM); }
SysResult<int64_t> sys_swap(Task&, const SyscallArgs&) { return Errno(EPERM); }
SysResult<int64_t> sys_module(Task& task, const SyscallArgs&) { return refused_by_capability(task, CAP_SYS_MODULE); }
SysResult<int64_t> sys_acct(Task& task, const SyscallArgs&) { return refused_by_capability(task, CAP_SYS_PACCT); }
SysResult<int64_t> sys_vhangup(Task& task, const SyscallArgs&) {
    return refused_by_capability(task, CAP_SYS_TTY_CONFIG);
}
// The kernel's log is not the application's: as with kernel.dmesg_restrict.
SysResult<int64_t> sys_syslog(Task& task, const SyscallArgs& args) {
    if (args.i32(0) < 0 || args.i32(0) > 10) return Errno(EINVAL);
    if (!task.has_capability(CAP_SYSLOG) && !task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    KernelLog& log = task.kernel().log();
    switch (args.i32(0)) {
        case 3:    // SYSLOG_ACTION_READ_ALL
        case 4: {  // READ_CLEAR
            if (args.u64(1) == 0 || args.i32(2) < 0) return Errno(EINVAL);
            std::string text = log.text(args.u32(2));
            TRY(task.memory().copy_out(args.u64(1), text.data(), text.size()));
            if (args.i32(0) == 4) log.clear();
            return static_cast<int64_t>(text.size());
        }
        case 5:  // CLEAR
            log.clear();
            return 0;
        case 9:  // SIZE_UNREAD
            return static_cast<int64_t>(log.size());
        case 10:  // SIZE_BUFFER
            return int64_t{KernelLog::kSize};
        default:
            return 0;  // nothing is ever unread, no console
    }
}

SysResult<int64_t> sys_iopl(Task&, const SyscallArgs&) { return Errno(EPERM); }

constexpr SyscallRow kRows[] = {
    {63, "uname", sys_uname, Support::kFull},
    {99, "sysinfo", sys_sysinfo, Support::kPartial, "no load averages, no swap"},
    {103, "syslog", sys_syslog, Support::kPartial, "the guest kernel's own lines; reading does not wait"},
    {134, "uselib", nullptr, Support::kNone, "as a kernel without CONFIG_USELIB"},
    {135, "personality", sys_personality, Support::kPartial, "ADDR_NO_RANDOMIZE; the others are kept and told"},
    {136, "ustat", nullptr, Support::kNone, "removed from use"},
    {139, "sysfs", nullptr, Support::kNone, "as a kernel without CONFIG_SYSFS_SYSCALL"},
    {153, "vhangup", sys_vhangup, Support::kNone, "refused"},
    {154, "modify_ldt", nullptr, Support::kNone, "as a kernel without CONFIG_MODIFY_LDT_SYSCALL"},
    {156, "_sysctl", nullptr, Support::kNone, "removed from Linux 5.5"},
    {157, "prctl", sys_prctl, Support::kPartial, "no core scheduling, no names of anonymous memory"},
    {163, "acct", sys_acct, Support::kNone, "as a kernel without CONFIG_BSD_PROCESS_ACCT"},
    {167, "swapon", sys_swap, Support::kNone, "memory is the host's", EPERM},
    {168, "swapoff", sys_swap, Support::kNone, "memory is the host's", EPERM},
    {169, "reboot", sys_reboot, Support::kNone, "the pod's life is the host's business", EPERM},
    {170, "sethostname", sys_sethostname, Support::kFull},
    {171, "setdomainname", sys_setdomainname, Support::kFull},
    {172, "iopl", sys_iopl, Support::kNone, "no ports", EPERM},
    {173, "ioperm", sys_iopl, Support::kNone, "no ports", EPERM},
    {174, "create_module", nullptr, Support::kNone, "removed from Linux 2.6"},
    {175, "init_module", sys_module, Support::kNone, "no modules"},
    {176, "delete_module", sys_module, Support::kNone, "no modules"},
    {177, "get_kernel_syms", nullptr, Support::kNone, "removed from Linux 2.6"},
    {178, "query_module", nullptr, Support::kNone, "removed from Linux 2.6"},
    {179, "quotactl", nullptr, Support::kNone, "as a kernel without CONFIG_QUOTACTL"},
    {180, "nfsservctl", nullptr, Support::kNone, "removed from Linux 3.1"},
    {181, "getpmsg", nullptr, Support::kNone, "never implemented by Linux"},
    {182, "putpmsg", nullptr, Support::kNone, "never implemented by Linux"},
    {183, "afs_syscall", nullptr, Support::kNone, "never implemented by Linux"},
    {184, "tuxcall", nullptr, Support::kNone, "never implemented by Linux"},
    {185, "security", nullptr, Support::kNone, "never implemented by Linux"},
    {205, "set_thread_area", nullptr, Support::kNone, "32-bit only"},
    {211, "get_thread_area", nullptr, Support::kNone, "32-bit only"},
    {212, "lookup_dcookie", nullptr, Support::kNone, "removed from Linux 6.7"},
    {214, "epoll_ctl_old", nullptr, Support::kNone, "never implemented by Linux"},
    {215, "epoll_wait_old", nullptr, Support::kNone, "never implemented by Linux"},
    {236, "vserver", nullptr, Support::kNone, "never implemented by Linux"},
    {246, "kexec_load", sys_reboot, Support::kNone, "the pod's life is the host's business", EPERM},
    {248, "add_key", nullptr, Support::kNone, "as a kernel without CONFIG_KEYS"},
    {249, "request_key", nullptr, Support::kNone, "as a kernel without CONFIG_KEYS"},
    {250, "keyctl", nullptr, Support::kNone, "as a kernel without CONFIG_KEYS"},
    {272, "unshare", sys_unshare, Support::kPartial, "no user namespaces"},
    {298, "perf_event_open", nullptr, Support::kNone, "as a kernel without CONFIG_PERF_EVENTS"},
    {308, "setns", sys_setns, Support::kPartial, "no user or time namespaces"},
    {312, "kcmp", nullptr, Support::kNone, "as a kernel without CONFIG_KCMP"},
    {313, "finit_module", sys_module, Support::kNone, "no modules"},
    {317, "seccomp", sys_seccomp, Support::kFull},
    {318, "getrandom", sys_getrandom, Support::kFull},
    {320, "kexec_file_load", sys_reboot, Support::kNone, "the pod's life is the host's business", EPERM},
    {321, "bpf", nullptr, Support::kNone, "as a kernel without CONFIG_BPF_SYSCALL"},
    {335, "uretprobe", nullptr, Support::kNone, "the host kernel answers it itself, with SIGILL"},
    {336, "uprobe", nullptr, Support::kNone, "the host kernel answers it itself, with ENXIO"},
    {425, "io_uring_setup", nullptr, Support::kNone, "as a kernel without CONFIG_IO_URING"},
    {426, "io_uring_enter", nullptr, Support::kNone, "as a kernel without CONFIG_IO_URING"},
    {427, "io_uring_register", nullptr, Support::kNone, "as a kernel without CONFIG_IO_URING"},
    {443, "quotactl_fd", nullptr, Support::kNone, "as a kernel without CONFIG_QUOTACTL"},
    {444, "landlock_create_ruleset", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY_LANDLOCK"},
    {445, "landlock_add_rule", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY_LANDLOCK"},
    {446, "landlock_restrict_self", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY_LANDLOCK"},
    {459, "lsm_get_self_attr", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY"},
    {460, "lsm_set_self_attr", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY"},
    {461, "lsm_list_modules", nullptr, Support::kNone, "as a kernel without CONFIG_SECURITY"},
};

}  // namespace

std::span<const SyscallRow> system_syscalls() { return kRows; }

}  // namespace casemate::sentry
