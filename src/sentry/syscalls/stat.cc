// stat and its relatives, access, readlink.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

SysResult<int64_t> put_stat(Task& task, GuestAddr into, const struct stat& info) {
    // glibc's struct stat on x86-64 is the kernel's.
    TRY(task.memory().copy_out(into, &info, sizeof(info)));
    return int64_t{0};
}

SysResult<int64_t> stat_path(Task& task, int dirfd, std::string_view path, bool follow, bool empty_path,
                             GuestAddr into) {
    WalkOptions options;
    options.follow_last = follow;
    options.empty_path = empty_path;
    struct stat info {};
    if (empty_path && path.empty() && dirfd != AT_FDCWD) {
        Ref<File> file = TRY(task.files().get(dirfd, true));
        TRY(file->stat(task, info));
        return put_stat(task, into, info);
    }
    Path found = TRY(walk(task, dirfd, path, options));
    TRY(found.inode().stat(info));
    return put_stat(task, into, info);
}

SysResult<int64_t> sys_stat(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return stat_path(task, AT_FDCWD, path, true, false, args.u64(1));
}

SysResult<int64_t> sys_lstat(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return stat_path(task, AT_FDCWD, path, false, false, args.u64(1));
}

SysResult<int64_t> sys_fstat(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    struct stat info {};
    TRY(file->stat(task, info));
    return put_stat(task, args.u64(1), info);
}

SysResult<int64_t> sys_newfstatat(Task& task, const SyscallArgs& args) {
    int flags = args.i32(3);
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT)) return Errno(EINVAL);
    std::string path;
    // Since Linux 6.11 a null path is as good as an empty one.
    if (args.u64(1) != 0 || !(flags & AT_EMPTY_PATH)) path = TRY(task.read_path(args.u64(1)));
    return stat_path(task, args.fd(0), path, !(flags & AT_SYMLINK_NOFOLLOW), flags & AT_EMPTY_PATH, args.u64(2));
}

SysResult<int64_t> sys_statx(Task& task, const SyscallArgs& args) {
    int flags = args.i32(2);
    uint32_t mask = args.u32(3);
    if (mask & 0x80000000u) return Errno(EINVAL);
    constexpr int kSync = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
    if ((flags & kSync) == kSync) return Errno(EINVAL);
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | kSync)) return Errno(EINVAL);
    std::string path;
    if (args.u64(1) != 0 || !(flags & AT_EMPTY_PATH)) path = TRY(task.read_path(args.u64(1)));
    struct stat info {};
    Path place;
    if (path.empty() && (flags & AT_EMPTY_PATH) && args.fd(0) != AT_FDCWD) {
        Ref<File> file = TRY(task.files().get(args.fd(0), true));
        TRY(file->stat(task, info));
        place = file->path();
    } else {
        WalkOptions options;
        options.follow_last = !(flags & AT_SYMLINK_NOFOLLOW);
        options.empty_path = flags & AT_EMPTY_PATH;
        place = TRY(walk(task, args.fd(0), path, options));
        TRY(place.inode().stat(info));
    }
    struct statx out {};
    out.stx_mask = STATX_BASIC_STATS;
    out.stx_blksize = static_cast<uint32_t>(info.st_blksize);
    out.stx_nlink = static_cast<uint32_t>(info.st_nlink);
    out.stx_uid = info.st_uid;
    out.stx_gid = info.st_gid;
    out.stx_mode = static_cast<uint16_t>(info.st_mode);
    out.stx_ino = info.st_ino;
    out.stx_size = static_cast<uint64_t>(info.st_size);
    out.stx_blocks = static_cast<uint64_t>(info.st_blocks);
    auto time = [](const timespec& t) {
        statx_timestamp stamp{};
        stamp.tv_sec = t.tv_sec;
        stamp.tv_nsec = static_cast<uint32_t>(t.tv_nsec);
        return stamp;
    };
    out.stx_atime = time(info.st_atim);
    out.stx_mtime = time(info.st_mtim);
    out.stx_ctime = time(info.st_ctim);
    out.stx_rdev_major = major(info.st_rdev);
    out.stx_rdev_minor = minor(info.st_rdev);
    out.stx_dev_major = major(info.st_dev);
    out.stx_dev_minor = minor(info.st_dev);
    if (place) {
        if (auto birth = place.inode().birth_time()) {
            out.stx_btime = time(*birth);
            out.stx_mask |= STATX_BTIME;
        }
        if (place.mount) {
            out.stx_mnt_id = place.mount->id();
            out.stx_mask |= STATX_MNT_ID;
            constexpr uint64_t kMountRoot = 0x2000;  // STATX_ATTR_MOUNT_ROOT
            out.stx_attributes_mask |= kMountRoot;
            if (place.dentry == place.mount->root()) out.stx_attributes |= kMountRoot;
        }
    }
    TRY(task.memory().copy_out(args.u64(4), &out, sizeof(out)));
    return int64_t{0};
}

// access(2) asks for the real ids: what would be if the set-user-id program acted for its caller.
SysResult<int64_t> do_access(Task& task, int dirfd, GuestAddr path_address, int mode, int flags) {
    if (mode & ~(kMayRead | kMayWrite | kMayExec)) return Errno(EINVAL);
    if (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return Errno(EINVAL);
    std::string path = TRY(task.read_path(path_address));
    WalkOptions options;
    options.follow_last = !(flags & AT_SYMLINK_NOFOLLOW);
    options.empty_path = flags & AT_EMPTY_PATH;
    const Credentials& own = task.credentials();
    bool effective = (flags & AT_EACCESS) || (own.uid == own.fsuid && own.gid == own.fsgid &&
                                              (own.uid == 0 ? own.effective == own.permitted : own.effective == 0));
    Ref<Credentials> saved(const_cast<Credentials*>(&own));
    Ref<Credentials> real;
    if (!effective) {
        real = own.clone();
        real->fsuid = own.uid;
        real->fsgid = own.gid;
        if (!(own.secure_bits & SECBIT_NO_SETUID_FIXUP)) real->effective = own.uid == 0 ? own.permitted : 0;
        task.set_credentials(real);
    }
    auto result = [&]() -> SysResult<int64_t> {
        Path found = TRY(walk(task, dirfd, path, options));
        Inode& inode = found.inode();
        if ((mode & kMayExec) && S_ISREG(inode.mode()) && found.mount && (found.mount->flags() & MS_NOEXEC))
            return Errno(EACCES);
        TRY(check_permission(task, inode, mode));
        uint32_t type = inode.type();
        if ((mode & kMayWrite) && (type == S_IFREG || type == S_IFDIR || type == S_IFLNK))
            TRY(check_writable_mount(found));
        return int64_t{0};
    }();
    if (!effective) task.set_credentials(saved);
    return result;
}

SysResult<int64_t> sys_access(Task& task, const SyscallArgs& args) {
    return do_access(task, AT_FDCWD, args.u64(0), args.i32(1), 0);
}

SysResult<int64_t> sys_faccessat(Task& task, const SyscallArgs& args) {
    return do_access(task, args.fd(0), args.u64(1), args.i32(2), 0);
}

SysResult<int64_t> sys_faccessat2(Task& task, const SyscallArgs& args) {
    return do_access(task, args.fd(0), args.u64(1), args.i32(2), args.i32(3));
}

SysResult<int64_t> do_readlink(Task& task, int dirfd, GuestAddr path_address, GuestAddr into, int32_t size) {
    if (size <= 0) return Errno(EINVAL);
    std::string path = TRY(task.read_path(path_address));
    WalkOptions options;
    options.follow_last = false;
    options.empty_path = true;
    if (path.empty() && dirfd == AT_FDCWD) return Errno(ENOENT);
    Path found = TRY(walk(task, dirfd, path, options));
    Inode& inode = found.inode();
    if (!S_ISLNK(inode.mode())) return Errno(path.empty() ? ENOENT : EINVAL);
    std::string text;
    if (auto target = TRY(inode.magic_link(task)); target && *target) {
        auto shown = inode.read_link(task);
        text = shown.ok() ? shown.take_value() : path_text(task, *target);
    } else {
        text = TRY(inode.read_link(task));
    }
    size_t n = std::min(text.size(), static_cast<size_t>(size));
    TRY(task.memory().copy_out(into, text.data(), n));
    return static_cast<int64_t>(n);
}

SysResult<int64_t> sys_readlink(Task& task, const SyscallArgs& args) {
    return do_readlink(task, AT_FDCWD, args.u64(0), args.u64(1), args.i32(2));
}

SysResult<int64_t> sys_readlinkat(Task& task, const SyscallArgs& args) {
    return do_readlink(task, args.fd(0), args.u64(1), args.u64(2), args.i32(3));
}

constexpr SyscallRow kRows[] = {
    {4, "stat", sys_stat, Support::kFull},
    {5, "fstat", sys_fstat, Support::kFull},
    {6, "lstat", sys_lstat, Support::kFull},
    {21, "access", sys_access, Support::kFull},
    {89, "readlink", sys_readlink, Support::kFull},
    {262, "newfstatat", sys_newfstatat, Support::kFull},
    {267, "readlinkat", sys_readlinkat, Support::kFull},
    {269, "faccessat", sys_faccessat, Support::kFull},
    {332, "statx", sys_statx, Support::kFull},
    {439, "faccessat2", sys_faccessat2, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> stat_syscalls() { return kRows; }

}  // namespace casemate::sentry
