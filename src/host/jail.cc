#include "host/jail.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "host/id_map.h"
#include "host/jail_child.h"
#include "linux/event_fds.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "linux/process.h"
#include "linux/unix_socket.h"

namespace casemate::host {

const CapabilitySet kFileServerCapabilities = {CAP_DAC_OVERRIDE, CAP_CHOWN, CAP_FOWNER,
                                               CAP_FSETID,       CAP_MKNOD, CAP_SETFCAP};

namespace {

// Copies of mounts are made here if the caller may; a caller without CAP_SYS_ADMIN leaves that to the child, which has
// it in its own user namespace but no longer the caller's right to walk to the path.
Result<JailMount> prepare_bind(const JailBind& bind) {
    JailMount mount;
    mount.target = bind.target;
    mount.attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (bind.read_only ? MOUNT_ATTR_RDONLY : 0);
    mount.recursive = bind.recursive;
    int fd = bind.mount_fd;
    if (fd < 0) {
        auto copy = linux::clone_mount(AT_FDCWD, bind.source, bind.recursive);
        if (copy.ok()) {
            mount.owned = copy.take_value();
            fd = mount.owned.get();
        } else if (copy.error().value != EPERM) {
            return sys_error("bind mount of " + bind.source + " into a jail", copy.error().value);
        }
    }
    struct stat st;
    if ((fd >= 0 ? ::fstat(fd, &st) : ::stat(bind.source.c_str(), &st)) < 0)
        return sys_error("bind mount of " + bind.source + " into a jail");
    mount.directory = S_ISDIR(st.st_mode);
    mount.kind = fd >= 0 ? JailMount::Kind::kDetached : JailMount::Kind::kPath;
    mount.fd = fd;
    mount.source = bind.source;
    return mount;
}

Result<JailPlan> prepare(const JailSpec& spec) {
    JailPlan plan;
    plan.spec = &spec;
    for (const std::string& arg : spec.args) plan.argv.push_back(const_cast<char*>(arg.c_str()));
    if (plan.argv.empty()) return Error("a jailed program needs at least one argument (its name)", EINVAL);
    plan.argv.push_back(nullptr);
    for (const std::string& entry : spec.environment) plan.envp.push_back(const_cast<char*>(entry.c_str()));
    plan.envp.push_back(nullptr);

    plan.program_fd = spec.program_fd;
    if (plan.program_fd < 0) {
        auto opened = linux::open(spec.program, O_RDONLY);
        if (!opened.ok()) return sys_error("open " + spec.program, opened.error().value);
        plan.owned_program = opened.take_value();
        plan.program_fd = plan.owned_program.get();
    }
    auto null = linux::open("/dev/null", O_RDWR);
    if (!null.ok()) return sys_error("open /dev/null", null.error().value);
    plan.null_fd = null.take_value();

    for (const std::string& path : spec.cgroup_procs_files) {
        auto opened = linux::open(path, O_WRONLY);
        if (!opened.ok()) return sys_error("open " + path, opened.error().value);
        plan.cgroup_procs.push_back(opened.take_value());
    }
    plan.memory_size = std::to_string(spec.memory_limit);
    if (spec.oom_score_adj) plan.oom_score_adj = std::to_string(*spec.oom_score_adj);

    bool new_root = (spec.namespaces & CLONE_NEWNS) != 0;
    if (!new_root && (!spec.root.empty() || !spec.tmpfs.empty() || !spec.binds.empty()))
        return Error("a jail with mounts of its own needs a mount namespace of its own", EINVAL);
    plan.make_mount_points = spec.root.empty();
    if (new_root && !spec.root.empty()) {
        JailBind bind;
        bind.source = spec.root;
        bind.target = "/";
        bind.read_only = false;  // after the mounts in it
        plan.mounts.push_back(TRY(prepare_bind(bind)));
    } else if (new_root) {
        JailMount root;
        root.kind = JailMount::Kind::kTmpfs;
        root.target = "/";
        root.options = {{"size", "1m"}, {"mode", "755"}};
        plan.mounts.push_back(std::move(root));
    }
    for (const JailTmpfs& tmpfs : spec.tmpfs) {
        JailMount mount;
        mount.kind = JailMount::Kind::kTmpfs;
        mount.target = tmpfs.target;
        mount.attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        char mode[8];
        std::snprintf(mode, sizeof mode, "%o", tmpfs.mode & 07777);
        mount.options = {{"size", std::to_string(tmpfs.size)}, {"mode", mode}};
        if (tmpfs.huge) mount.options.emplace_back("huge", "always");
        plan.mounts.push_back(std::move(mount));
    }
    for (const JailBind& bind : spec.binds) plan.mounts.push_back(TRY(prepare_bind(bind)));
    for (const JailMount& mount : plan.mounts)
        if (mount.target.empty() || mount.target[0] != '/')
            return Error("mount point in a jail must be an absolute path: \"" + mount.target + "\"", EINVAL);
    return plan;
}

// Writes the id maps of a child that was just cloned. Which ids stand outside: the same ones where our own namespace
// has them and we may, otherwise our own.
Result<void> map_ids(const JailSpec& spec, pid_t pid, bool* may_keep_groups) {
    auto outside = [](const char* map, uint32_t wanted, uint32_t own) {
        return own == 0 && is_id_mapped(map, wanted) ? wanted : own;
    };
    IdMaps maps;
    maps.uids = {{spec.uid, outside("/proc/self/uid_map", spec.uid, ::geteuid()), 1}};
    maps.gids = {{spec.gid, outside("/proc/self/gid_map", spec.gid, ::getegid()), 1}};
    *may_keep_groups = ::geteuid() != 0 || maps.gids[0].outside != spec.gid;
    return write_id_maps(pid, maps);
}

}  // namespace

Result<JailStart> begin_jailed(const JailSpec& spec) {
    JailPlan plan = TRY(prepare(spec));
    auto pair = linux::create_socket_pair(SOCK_SEQPACKET);
    if (!pair.ok()) return sys_error("socketpair", pair.error().value);
    plan.report_fd = pair->second.get();
    plan.parent_fd = pair->first.get();
    plan.wait_for_parent = (spec.namespaces & CLONE_NEWUSER) != 0;

    int pidfd = -1;
    struct clone_args args = {};
    args.flags = spec.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
    args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
    args.exit_signal = SIGCHLD;
    if (spec.cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = static_cast<uint64_t>(spec.cgroup_fd);
    }
    auto pid = linux::clone3(args);
    if (!pid.ok()) {
        return sys_error(
            (spec.namespaces & CLONE_NEWUSER) != 0 && (pid.error().value == EPERM || pid.error().value == ENOSPC)
                ? "clone of a jail in a new user namespace (are user namespaces enabled?)"
                : "clone of a jail",
            pid.error().value);
    }
    if (*pid == 0) run_jail_child(plan);

    JailStart start;
    start.process_.pid = *pid;
    start.process_.pidfd.reset(pidfd);
    start.report_ = std::move(pair->first);
    start.program_ = spec.program.empty() ? spec.args[0] : spec.program;
    for (const JailMount& mount : plan.mounts)
        start.mount_names_.push_back(mount.source.empty() ? mount.target : mount.source + " at " + mount.target);
    if (plan.wait_for_parent) {
        JailGo go;
        bool may_keep_groups = false;
        TRY(map_ids(spec, *pid, &may_keep_groups));
        go.may_keep_groups = may_keep_groups;
        // A failure here means that the child is gone: finish() says why.
        (void)::send(start.report_.get(), &go, sizeof go, MSG_NOSIGNAL);
    }
    return start;
}

Result<JailedProcess> JailStart::finish() {
    JailFailure failure = {};
    ssize_t size;
    while (true) {
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
        iovec piece = {&failure, sizeof failure};
        msghdr header = {};
        header.msg_iov = &piece;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        size = ::recvmsg(report_.get(), &header, MSG_CMSG_CLOEXEC);
        if (size < 0 && errno == EINTR) continue;
        if (size != sizeof failure || failure.step != JailStep::kMemoryControl) break;
        const cmsghdr* rights = CMSG_FIRSTHDR(&header);
        if (rights == nullptr || rights->cmsg_type != SCM_RIGHTS || rights->cmsg_len != CMSG_LEN(sizeof(int))) break;
        int fd;
        std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
        process_.memory_control.reset(fd);
    }
    // The socket closed by exec without a word: the program runs. Closed by death it looks the same, and the caller
    // sees that by the pidfd as for any early end of the program.
    if (size == 0 || (size < 0 && errno == ECONNRESET)) {
        report_.reset();
        return std::move(process_);
    }
    std::string what = "jail of " + program_ + ": " + jail_step_name(failure.step);
    if (failure.index >= 0 && static_cast<size_t>(failure.index) < mount_names_.size())
        what += " (" + mount_names_[static_cast<size_t>(failure.index)] + ")";
    return sys_error(what, size == sizeof failure ? failure.code : EIO);
}

Result<void> set_memory_limit(const UniqueFd& memory_control, uint64_t bytes) {
    if (!memory_control) return Error("the memory of this pod is a memfd, whose limit cannot change", ENOTSUP);
    std::string size = std::to_string(bytes);
    if (::fsconfig(memory_control.get(), FSCONFIG_SET_STRING, "size", size.c_str(), 0) < 0 ||
        ::fsconfig(memory_control.get(), FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) < 0)
        return sys_error("change the limit of the pod's memory to " + size);
    return {};
}

JailStart::~JailStart() {
    if (process_.pidfd) linux::kill_and_reap(process_.pidfd.get());
}

Result<JailedProcess> spawn_jailed(const JailSpec& spec) {
    JailStart start = TRY(begin_jailed(spec));
    return start.finish();
}

}  // namespace casemate::host
