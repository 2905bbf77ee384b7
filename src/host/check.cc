#include "host/check.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>

#include "host/cgroup_mounts.h"
#include "host/probe_child.h"
#include "host/systemd_scope.h"
#include "linux/file.h"
#include "linux/mount_fd.h"

namespace casemate::host {

namespace {

HostCheck make(const char* name, const char* title) {
    HostCheck check;
    check.name = name;
    check.title = title;
    return check;
}

// The user namespace probe's child: 0, or the errno of what failed.
int try_user_namespace() { return ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 ? 0 : errno; }

int try_huge_tmpfs() {
    if (::geteuid() != 0) {
        uid_t uid = ::geteuid();
        gid_t gid = ::getegid();
        if (int failure = try_user_namespace(); failure != 0) return failure;
        (void)linux::write_existing("/proc/self/uid_map", fmt::format("{} {} 1", uid, uid));
        (void)linux::write_existing("/proc/self/setgroups", "deny");
        (void)linux::write_existing("/proc/self/gid_map", fmt::format("{} {} 1", gid, gid));
    }
    auto file = linux::create_huge_tmpfile();
    if (!file.ok()) return file.error().value;
    struct stat st;
    if (::ftruncate(file->get(), 2 << 20) < 0 || ::pwrite(file->get(), "x", 1, 0) != 1 || ::fstat(file->get(), &st) < 0)
        return errno;
    // One byte brought 2 MiB, or the option was accepted without effect.
    return st.st_blocks * 512 >= 2 << 20 ? 0 : ENODATA;
}

}  // namespace

HostCheck check_kernel() {
    HostCheck check = make("kernel", "Linux kernel");
    utsname name;
    int major = 0, minor = 0;
    if (::uname(&name) < 0 || std::sscanf(name.release, "%d.%d", &major, &minor) != 2) {
        check.found = "unknown version";
        check.remedy = "use Linux 6.6 or later";
        return check;
    }
    check.found = fmt::format("{} {}", name.release, name.machine);
    int version = major * 1000 + minor;
    check.status = version >= 6006 ? CheckStatus::kOk : version >= 5019 ? CheckStatus::kWarning : CheckStatus::kMissing;
    if (version < 5019)
        check.remedy =
            "use Linux 5.19 or later, for seccomp notifications that survive signals; 6.6 or later for speed";
    else if (version < 6006)
        check.remedy = "Linux 6.6 or later is faster: seccomp notifications with synchronous wake-up";
    return check;
}

HostCheck check_user_namespaces() {
    HostCheck check = make("user_namespaces", "user namespaces");
    auto result = run_probe<int>(2000, try_user_namespace);
    int code = result.ok() ? *result : result.error().value;
    if (code == 0) {
        check.status = CheckStatus::kOk;
        check.found = "work";
        return check;
    }
    check.found = sys_error("unshare", code).message();
    check.remedy = code == ENOSPC
                       ? "raise the sysctl user.max_user_namespaces"
                       : "allow them: sysctls kernel.unprivileged_userns_clone=1 and "
                         "kernel.apparmor_restrict_unprivileged_userns=0 where the kernel has them; helpers are "
                         "jailed by them";
    return check;
}

HostCheck check_cgroups() {
    HostCheck check = make("cgroups", "cgroups");
    auto mounts = CgroupMounts::discover();
    if (!mounts.ok()) {
        check.found = mounts.error().message();
        check.remedy = "mount cgroup2 at /sys/fs/cgroup";
        return check;
    }
    std::string controllers = mounts->controller_names();
    check.found = fmt::format("{}, controllers {}{}",
                              mounts->unified()                ? "v2"
                              : mounts->v2.mount_point.empty() ? "v1"
                                                               : "v1 with an empty v2 (hybrid)",
                              controllers, systemd_is_running() ? ", systemd" : ", no systemd");
    check.status = CheckStatus::kOk;
    for (const char* needed : {"cpu", "memory", "pids"}) {
        bool there = mounts->unified() ? controllers.find(needed) != std::string::npos : mounts->v1.contains(needed);
        if (there) continue;
        check.status = CheckStatus::kWarning;
        check.remedy = fmt::format(
            "enable the controller {} (kernel command line or cgroup.subtree_control): limits that "
            "need it are refused",
            needed);
    }
    return check;
}

HostCheck check_fsgsbase() {
    HostCheck check = make("fsgsbase", "FSGSBASE instructions");
    bool there = (::getauxval(AT_HWCAP2) & 2) != 0;
    check.status = there ? CheckStatus::kOk : CheckStatus::kWarning;
    check.found = there ? "usable in user mode" : "not usable in user mode";
    if (!there)
        check.remedy = "use a processor with FSGSBASE and a kernel without nofsgsbase: thread switches need a syscall";
    return check;
}

HostCheck check_huge_tmpfs() {
    HostCheck check = make("huge_tmpfs", "tmpfs with huge pages");
    auto result = run_probe<int>(2000, try_huge_tmpfs);
    int code = result.ok() ? *result : result.error().value;
    check.status = code == 0 ? CheckStatus::kOk : CheckStatus::kWarning;
    if (code == 0) {
        check.found = "works";
        return check;
    }
    check.found =
        code == ENODATA ? "accepted, but a touch brings a small page" : sys_error("huge=always", code).message();
    check.remedy =
        code == ENODATA
            ? "leave free memory for huge pages, and do not set transparent_hugepage/shmem_enabled to deny"
            : "use a kernel with CONFIG_TRANSPARENT_HUGEPAGE: first touches of guest memory cost 15 times as much";
    return check;
}

std::vector<HostCheck> check_host() {
    return {check_kernel(),        describe(probe_user_notification()),
            describe(probe_kvm()), check_user_namespaces(),
            check_cgroups(),       check_fsgsbase(),
            check_huge_tmpfs()};
}

}  // namespace casemate::host
