// mount, umount2, pivot_root, statfs, memfd_create; refusals of the new mount API.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/memfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/file_system_types.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

constexpr uint64_t kPropagation = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;
constexpr uint64_t kAccessTimes = MS_NOATIME | MS_NODIRATIME | MS_RELATIME;

SysResult<int64_t> zero(SysResult<void> result) {
    if (!result.ok()) return result.error();
    return int64_t{0};
}

// A string argument that may be null.
SysResult<std::string> optional_text(Task& task, GuestAddr address, size_t max) {
    if (address == 0) return std::string();
    return task.memory().copy_in_string(address, max);
}

// A place in the tree: what has no mount (a memfd by /proc/self/fd) is none.
SysResult<Path> walk_mounted(Task& task, std::string_view path, const WalkOptions& options = {}) {
    Path place = TRY(walk(task, AT_FDCWD, path, options));
    if (!place.mount) return Errno(EINVAL);
    return place;
}

SysResult<void> remount(Task& task, MountNamespace& mounts, const Path& place, uint64_t flags,
                        std::string_view options) {
    (void)task;
    if (place.dentry != place.mount->root()) return Errno(EINVAL);
    if (!(flags & MS_BIND)) TRY(place.mount->file_system().reconfigure(options));
    uint64_t wanted = flags & Mount::kFlags;
    // Access time rules stay unless new ones are given.
    if (!(flags & (kAccessTimes | MS_STRICTATIME))) wanted |= place.mount->flags() & kAccessTimes;
    return mounts.set_flags(place, wanted, Mount::kFlags & ~wanted, false);
}

SysResult<void> mount_new(Task& task, MountNamespace& mounts, const Path& place, const std::string& type,
                          const std::string& source, uint64_t flags, const std::string& options) {
    if (type.empty()) return Errno(EINVAL);
    const FileSystemType* known = find_file_system_type(type);
    if (known == nullptr) return Errno(ENODEV);
    Ref<FileSystem> file_system = TRY(known->make(task, source, options));
    uint64_t mount_flags = flags & Mount::kFlags;
    if (!(flags & (MS_NOATIME | MS_STRICTATIME))) mount_flags |= MS_RELATIME;
    Ref<Mount> mount =
        TRY(Mount::create(std::move(file_system), mount_flags, source.empty() ? "none" : source, options));
    return mounts.attach(std::move(mount), place);
}

SysResult<int64_t> sys_mount(Task& task, const SyscallArgs& args) {
    uint64_t flags = args.u64(3);
    if ((flags & MS_MGC_MSK) == MS_MGC_VAL) flags &= ~static_cast<uint64_t>(MS_MGC_MSK);
    std::string type = TRY(optional_text(task, args.u64(2), 256));
    std::string source = TRY(optional_text(task, args.u64(0), PATH_MAX));
    std::string options;
    constexpr uint64_t kNoOptions = MS_BIND | MS_MOVE | kPropagation;
    if (!(flags & kNoOptions)) options = TRY(optional_text(task, args.u64(4), 4096));
    std::string target = TRY(task.read_path(args.u64(1)));
    Path place = TRY(walk_mounted(task, target));
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    MountNamespace& mounts = *task.namespaces().mount;
    if (flags & MS_REMOUNT) return zero(remount(task, mounts, place, flags, options));
    if (flags & MS_BIND) {
        if (source.empty()) return Errno(EINVAL);
        Path from = TRY(walk_mounted(task, source));
        return zero(mounts.bind(from, place, flags & MS_REC));
    }
    if (uint64_t kind = flags & kPropagation) {
        if ((kind & (kind - 1)) != 0 || (flags & ~(kPropagation | MS_REC | MS_SILENT))) return Errno(EINVAL);
        return zero(mounts.set_propagation(place, kind, flags & MS_REC));
    }
    if (flags & MS_MOVE) {
        if (source.empty()) return Errno(EINVAL);
        Path from = TRY(walk_mounted(task, source));
        return zero(mounts.move(from, place));
    }
    return zero(mount_new(task, mounts, place, type, source, flags, options));
}

SysResult<int64_t> sys_umount2(Task& task, const SyscallArgs& args) {
    int flags = args.i32(1);
    if (flags & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW)) return Errno(EINVAL);
    std::string path = TRY(task.read_path(args.u64(0)));
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    WalkOptions options;
    options.follow_last = !(flags & UMOUNT_NOFOLLOW);
    Path place = TRY(walk_mounted(task, path, options));
    return zero(task.namespaces().mount->detach(place, flags));
}

SysResult<int64_t> sys_pivot_root(Task& task, const SyscallArgs& args) {
    std::string fresh = TRY(task.read_path(args.u64(0)));
    std::string old = TRY(task.read_path(args.u64(1)));
    if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(EPERM);
    Path new_root = TRY(walk_mounted(task, fresh));
    Path put_old = TRY(walk_mounted(task, old));
    return zero(task.namespaces().mount->pivot_root(task, new_root, put_old));
}

SysResult<int64_t> put_statfs(Task& task, const Path& place, Inode& inode, GuestAddr into) {
    struct statfs info {};
    TRY(inode.file_system().statfs(info));
    if (place.mount) {
        uint64_t flags = place.mount->flags();
        constexpr long kValid = 0x20;
        long shown = kValid | static_cast<long>(flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC));
        if (flags & MS_NOATIME) shown |= 1024;
        if (flags & MS_NODIRATIME) shown |= 2048;
        if (flags & MS_RELATIME) shown |= 4096;
        info.f_flags = shown;
    }
    uint64_t device = inode.file_system().device();
    info.f_fsid.__val[0] = static_cast<int>(device);
    info.f_fsid.__val[1] = static_cast<int>(device >> 32);
    TRY(task.memory().copy_out(into, &info, sizeof(info)));
    return int64_t{0};
}

SysResult<int64_t> sys_statfs(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    Path place = TRY(walk(task, AT_FDCWD, path));
    return put_statfs(task, place, place.inode(), args.u64(1));
}

SysResult<int64_t> sys_fstatfs(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    Inode* inode = file->inode();
    if (inode == nullptr) return Errno(ENOSYS);
    return put_statfs(task, file->path(), *inode, args.u64(1));
}

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#define MFD_EXEC 16U
#endif

SysResult<int64_t> sys_memfd_create(Task& task, const SyscallArgs& args) {
    uint32_t flags = args.u32(1);
    // Huge pages are the memory file's own business.
    constexpr uint32_t kHugeSize = 0x3fu << 26;
    uint32_t known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC;
    if (flags & MFD_HUGETLB) known |= kHugeSize;
    if (flags & ~known) return Errno(EINVAL);
    if ((flags & MFD_EXEC) && (flags & MFD_NOEXEC_SEAL)) return Errno(EINVAL);
    auto name = task.memory().copy_in_string(args.u64(0), 250);
    if (!name.ok()) return Errno(name.error() == Errno(ENAMETOOLONG) ? EINVAL : name.error().value);
    bool sealing = flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    Ref<File> file = TRY(create_memfd(task, *name, sealing, !(flags & MFD_NOEXEC_SEAL)));
    int fd = TRY(task.files().insert(std::move(file), flags & MFD_CLOEXEC, task.limit(RLIMIT_NOFILE)));
    return static_cast<int64_t>(fd);
}

constexpr const char* kOldApi = "mount(2) does all of it";
constexpr SyscallRow kRows[] = {
    {137, "statfs", sys_statfs, Support::kFull},
    {138, "fstatfs", sys_fstatfs, Support::kFull},
    {155, "pivot_root", sys_pivot_root, Support::kFull},
    {165, "mount", sys_mount, Support::kPartial, "tmpfs, proc, devpts, overlay and what the pod was given"},
    {166, "umount2", sys_umount2, Support::kPartial, "no MNT_EXPIRE"},
    {319, "memfd_create", sys_memfd_create, Support::kFull},
    {428, "open_tree", nullptr, Support::kNone, kOldApi, ENOSYS},
    {429, "move_mount", nullptr, Support::kNone, kOldApi, ENOSYS},
    {430, "fsopen", nullptr, Support::kNone, kOldApi, ENOSYS},
    {431, "fsconfig", nullptr, Support::kNone, kOldApi, ENOSYS},
    {432, "fsmount", nullptr, Support::kNone, kOldApi, ENOSYS},
    {433, "fspick", nullptr, Support::kNone, kOldApi, ENOSYS},
    {442, "mount_setattr", nullptr, Support::kNone, kOldApi, ENOSYS},
    {457, "statmount", nullptr, Support::kNone, "/proc/self/mountinfo tells", ENOSYS},
    {458, "listmount", nullptr, Support::kNone, "/proc/self/mountinfo tells", ENOSYS},
};

}  // namespace

std::span<const SyscallRow> mount_syscalls() { return kRows; }

}  // namespace casemate::sentry
