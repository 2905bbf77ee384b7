// SAFETY: runs in a child that was cloned from a process with threads: no allocation, no locks, no stdio. Only syscalls
// on what the plan holds; std::string and std::vector are read, never changed.
#include "host/jail_child.h"

#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace casemate::host {

const char* jail_step_name(JailStep step) {
    switch (step) {
        case JailStep::kMemoryControl:
            return "passing the memory file's control";
        case JailStep::kWaitForParent:
            return "waiting for the id maps";
        case JailStep::kSession:
            return "new session";
        case JailStep::kCgroup:
            return "entering the cgroup";
        case JailStep::kOomScore:
            return "setting oom_score_adj";
        case JailStep::kIds:
            return "changing uid and gid";
        case JailStep::kGroups:
            return "dropping supplementary groups";
        case JailStep::kHostname:
            return "setting the host name";
        case JailStep::kMemoryFile:
            return "making the memory file";
        case JailStep::kPrivateMounts:
            return "making mounts private";
        case JailStep::kMount:
            return "mounting";
        case JailStep::kMountPoint:
            return "making the mount point";
        case JailStep::kPivotRoot:
            return "pivot_root";
        case JailStep::kReadOnlyRoot:
            return "making the root read-only";
        case JailStep::kDescriptors:
            return "passing descriptors";
        case JailStep::kRlimit:
            return "setting resource limits";
        case JailStep::kCapabilities:
            return "dropping capabilities";
        case JailStep::kNoNewPrivs:
            return "setting no_new_privs";
        case JailStep::kDeathSignal:
            return "setting the death signal";
        case JailStep::kExec:
            return "executing the program";
    }
    return "unknown step";
}

namespace {

class Child {
  public:
    explicit Child(const JailPlan& plan) : plan_(plan), spec_(*plan.spec), report_(plan.report_fd) {}

    [[noreturn]] void run() {
        ::close(plan_.parent_fd);
        ::umask(022);
        reset_signals();
        bool may_keep_groups = wait_for_parent();
        if (::setsid() < 0) fail(JailStep::kSession);
        enter_cgroups();
        change_ids(may_keep_groups);
        if ((spec_.namespaces & CLONE_NEWUTS) != 0 && ::sethostname("jail", 4) < 0) fail(JailStep::kHostname);
        int memory_file = spec_.memory_file ? make_memory_file() : -1;
        if (!plan_.mounts.empty()) change_root();
        place_descriptors(memory_file);
        for (const JailRlimit& limit : spec_.rlimits) {
            rlimit value = {limit.soft, limit.hard};
            if (::setrlimit(static_cast<__rlimit_resource>(limit.resource), &value) < 0) fail(JailStep::kRlimit);
        }
        drop_capabilities();
        if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) fail(JailStep::kNoNewPrivs);
        watch_parent();
        ::syscall(SYS_execveat, program_, "", plan_.argv.data(), plan_.envp.data(), AT_EMPTY_PATH);
        fail(JailStep::kExec);
    }

  private:
    [[noreturn]] void fail(JailStep step, int index = -1) {
        JailFailure failure = {step, index, errno};
        (void)!::send(report_, &failure, sizeof failure, MSG_NOSIGNAL);
        ::_exit(127);
    }

    // Ignored signals and the mask outlive exec; handlers were cleared by clone.
    void reset_signals() {
        for (int signo = 1; signo < NSIG; signo++) {
            if (signo == SIGKILL || signo == SIGSTOP || signo == 32 || signo == 33) continue;
            struct sigaction action = {};
            action.sa_handler = SIG_DFL;
            ::sigaction(signo, &action, nullptr);
        }
        sigset_t none;
        ::sigemptyset(&none);
        ::sigprocmask(SIG_SETMASK, &none, nullptr);
    }

    bool wait_for_parent() {
        if (!plan_.wait_for_parent) return false;
        JailGo go;
        ssize_t size;
        do {
            size = ::recv(report_, &go, sizeof go, 0);
        } while (size < 0 && errno == EINTR);
        if (size == 0) ::_exit(127);  // the parent gave up or died
        if (size != sizeof go) fail(JailStep::kWaitForParent);
        return go.may_keep_groups;
    }

    void enter_cgroups() {
        for (const UniqueFd& procs : plan_.cgroup_procs)
            if (::write(procs.get(), "0", 1) != 1) fail(JailStep::kCgroup);
        if (plan_.oom_score_adj.empty()) return;
        int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        ssize_t size = static_cast<ssize_t>(plan_.oom_score_adj.size());
        if (fd < 0 || ::write(fd, plan_.oom_score_adj.data(), plan_.oom_score_adj.size()) != size)
            fail(JailStep::kOomScore);
        ::close(fd);
    }

    // Raw syscalls: glibc's wrappers would try to tell threads that this process does not have.
    void change_ids(bool may_keep_groups) {
        if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) fail(JailStep::kIds);
        if (::getgroups(0, nullptr) > 0 && ::syscall(SYS_setgroups, 0, nullptr) < 0 &&
            !(may_keep_groups && errno == EPERM))
            fail(JailStep::kGroups);
        if (::syscall(SYS_setresgid, spec_.gid, spec_.gid, spec_.gid) < 0) fail(JailStep::kIds);
        if (::syscall(SYS_setresuid, spec_.uid, spec_.uid, spec_.uid) < 0) fail(JailStep::kIds);
        // Leaving uid 0 emptied the effective set; the mounts need it once more.
        __user_cap_data_struct data[2] = {};
        __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        if (::syscall(SYS_capget, &header, data) < 0) fail(JailStep::kIds);
        data[0].effective = data[0].permitted;
        data[1].effective = data[1].permitted;
        if (::syscall(SYS_capset, &header, data) < 0) fail(JailStep::kIds);
    }

    int make_memory_file() {
        int context = ::fsopen("tmpfs", FSOPEN_CLOEXEC);
        if (context >= 0 && ::fsconfig(context, FSCONFIG_SET_STRING, "huge", "always", 0) == 0 &&
            ::fsconfig(context, FSCONFIG_SET_STRING, "size", plan_.memory_size.c_str(), 0) == 0 &&
            ::fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0) {
            int mount = ::fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
            int file = mount < 0 ? -1 : ::openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
            if (mount >= 0) ::close(mount);
            if (file < 0) fail(JailStep::kMemoryFile);
            pass_memory_control(context);
            ::close(context);
            return file;
        }
        if (context >= 0) ::close(context);
        int file = ::memfd_create("memory", MFD_CLOEXEC);
        if (file < 0) fail(JailStep::kMemoryFile);
        return file;
    }

    // The context can change the file system's size later; only the parent keeps it.
    void pass_memory_control(int context) {
        JailFailure message = {JailStep::kMemoryControl, -1, 0};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        iovec piece = {&message, sizeof message};
        msghdr header = {};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(rights), &context, sizeof context);
        if (::sendmsg(report_, &header, MSG_NOSIGNAL) < 0) fail(JailStep::kMemoryControl);
    }

    int open_mount(const JailMount& mount, int index) {
        int fd = -1;
        switch (mount.kind) {
            case JailMount::Kind::kDetached:
                fd = mount.fd;
                break;
            case JailMount::Kind::kPath:
                fd = ::open_tree(AT_FDCWD, mount.source.c_str(),
                                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (mount.recursive ? AT_RECURSIVE : 0u));
                break;
            case JailMount::Kind::kTmpfs: {
                int context = ::fsopen("tmpfs", FSOPEN_CLOEXEC);
                if (context < 0) fail(JailStep::kMount, index);
                for (const auto& [key, value] : mount.options)
                    if (::fsconfig(context, FSCONFIG_SET_STRING, key.c_str(), value.c_str(), 0) < 0)
                        fail(JailStep::kMount, index);
                if (::fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) fail(JailStep::kMount, index);
                fd = ::fsmount(context, FSMOUNT_CLOEXEC, static_cast<unsigned>(mount.attributes));
                ::close(context);
                break;
            }
        }
        if (fd < 0) fail(JailStep::kMount, index);
        if (mount.kind != JailMount::Kind::kTmpfs && mount.attributes != 0) {
            mount_attr attributes = {};
            attributes.attr_set = mount.attributes;
            unsigned flags = AT_EMPTY_PATH | (mount.recursive ? AT_RECURSIVE : 0u);
            if (::mount_setattr(fd, "", flags, &attributes, sizeof attributes) < 0) fail(JailStep::kMount, index);
        }
        return fd;
    }

    // The mount point `target` under the root: made component by component if the root is our own empty one.
    int open_mount_point(int root, const JailMount& mount, int index) {
        const char* path = mount.target.c_str() + 1;
        char part[PATH_MAX];
        size_t length = mount.target.size() - 1;
        if (length >= sizeof part) errno = ENAMETOOLONG, fail(JailStep::kMountPoint, index);
        for (size_t i = 1; plan_.make_mount_points && i <= length; i++) {
            if (path[i] != '/' && path[i] != 0) continue;
            std::memcpy(part, path, i);
            part[i] = 0;
            bool last = i == length;
            if (last && !mount.directory) {
                int file = ::openat(root, part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0444);
                if (file < 0) fail(JailStep::kMountPoint, index);
                ::close(file);
            } else if (::mkdirat(root, part, 0755) < 0 && errno != EEXIST) {
                fail(JailStep::kMountPoint, index);
            }
        }
        open_how how = {};
        how.flags = O_PATH | O_CLOEXEC;
        how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
        long fd = ::syscall(SYS_openat2, root, path, &how, sizeof how);
        if (fd < 0) fail(JailStep::kMountPoint, index);
        return static_cast<int>(fd);
    }

    void change_root() {
        if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) fail(JailStep::kPrivateMounts);
        // The new root goes on top of the old one, whose descriptor of "/" still shows what is below: pivot_root then
        // exchanges them, and nothing of the host needs to exist as a mount point.
        int root = open_mount(plan_.mounts[0], 0);
        if (::move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0) fail(JailStep::kMount, 0);
        // Sources that are paths must be opened before the old root goes.
        for (size_t i = 1; i < plan_.mounts.size(); i++) {
            int index = static_cast<int>(i);
            int mount = open_mount(plan_.mounts[i], index);
            int point = open_mount_point(root, plan_.mounts[i], index);
            if (::move_mount(mount, "", point, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                fail(JailStep::kMount, index);
            ::close(point);
            ::close(mount);
        }
        if (::fchdir(root) < 0 || ::syscall(SYS_pivot_root, ".", ".") < 0 || ::umount2(".", MNT_DETACH) < 0 ||
            ::chdir("/") < 0)
            fail(JailStep::kPivotRoot);
        if (spec_.root_read_only) {
            mount_attr attributes = {};
            attributes.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
            if (::mount_setattr(root, "", AT_EMPTY_PATH, &attributes, sizeof attributes) < 0)
                fail(JailStep::kReadOnlyRoot);
        }
        ::close(root);
    }

    int raise(int fd, int least) {
        int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, least);
        if (copy < 0) fail(JailStep::kDescriptors);
        return copy;
    }

    // First everything goes above the numbers that are wanted, then down to them, then the rest is closed. On the
    // stack: at most kMost descriptors.
    void place_descriptors(int memory_file) {
        constexpr size_t kMost = 256;
        int raised[kMost];
        size_t count = 3 + spec_.fds.size() + (spec_.memory_file ? 1 : 0);
        if (count > kMost) errno = E2BIG, fail(JailStep::kDescriptors);
        int least = static_cast<int>(count) + 2;
        auto source = [&](size_t i) {
            if (i == 0) return spec_.stdin_fd >= 0 ? spec_.stdin_fd : plan_.null_fd.get();
            if (i == 1) return spec_.stdout_fd >= 0 ? spec_.stdout_fd : plan_.null_fd.get();
            if (i == 2) return spec_.stderr_fd >= 0 ? spec_.stderr_fd : plan_.null_fd.get();
            return i - 3 < spec_.fds.size() ? spec_.fds[i - 3] : memory_file;
        };
        report_ = raise(report_, least);
        program_ = raise(plan_.program_fd, least);
        for (size_t i = 0; i < count; i++) raised[i] = source(i) < 0 ? -1 : raise(source(i), least);
        for (size_t i = 0; i < count; i++) {
            int number = static_cast<int>(i);
            if (raised[i] < 0)
                ::close(number);
            else if (::dup2(raised[i], number) < 0)
                fail(JailStep::kDescriptors);
        }
        // The two that stay until exec go right behind, so that one close_range takes all others.
        int first_free = static_cast<int>(count);
        if (::dup3(report_, first_free, O_CLOEXEC) < 0 || ::dup3(program_, first_free + 1, O_CLOEXEC) < 0)
            fail(JailStep::kDescriptors);
        report_ = first_free;
        program_ = first_free + 1;
        if (::syscall(SYS_close_range, first_free + 2, ~0u, 0) < 0) fail(JailStep::kDescriptors);
    }

    void drop_capabilities() {
        uint64_t kept = spec_.capabilities.bits();
        for (int capability = 0; capability < 64; capability++) {
            if (spec_.capabilities.has(capability)) continue;
            if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
            if (errno == EINVAL) break;  // past the kernel's last one
            // Without CAP_SETPCAP: the bounding set stays, but no_new_privs and empty sets leave nothing to gain.
            if (errno != EPERM) fail(JailStep::kCapabilities);
            break;
        }
        ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct data[2] = {};
        for (int i = 0; i < 2; i++) {
            uint32_t bits = static_cast<uint32_t>(kept >> (32 * i));
            data[i] = {bits, bits, bits};
        }
        if (::syscall(SYS_capset, &header, data) < 0) fail(JailStep::kCapabilities);
        for (int capability = 0; capability < 64; capability++)
            if (spec_.capabilities.has(capability) &&
                ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0)
                fail(JailStep::kCapabilities);
    }

    // After the last change of credentials, which clears it. A parent that died before is seen by its closed socket.
    void watch_parent() {
        if (spec_.death_signal == 0) return;
        if (::prctl(PR_SET_PDEATHSIG, spec_.death_signal, 0, 0, 0) < 0) fail(JailStep::kDeathSignal);
        pollfd poll = {report_, 0, 0};
        if (::poll(&poll, 1, 0) > 0 && (poll.revents & POLLHUP) != 0) ::_exit(127);
    }

    const JailPlan& plan_;
    const JailSpec& spec_;
    int report_;
    int program_ = -1;
};

}  // namespace

void run_jail_child(const JailPlan& plan) { Child(plan).run(); }

}  // namespace casemate::host
