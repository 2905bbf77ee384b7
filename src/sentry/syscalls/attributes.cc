// chmod, chown, utimensat and their relatives; truncate; umask.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <utime.h>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_size.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

// The place that a path syscall with AT_ flags names.
SysResult<Path> place_of(Task& task, int dirfd, GuestAddr path_address, int flags) {
    std::string path;
    if (path_address != 0 || !(flags & AT_EMPTY_PATH)) path = TRY(task.read_path(path_address));
    WalkOptions options;
    options.follow_last = !(flags & AT_SYMLINK_NOFOLLOW);
    options.empty_path = flags & AT_EMPTY_PATH;
    return walk(task, dirfd, path, options);
}

SysResult<Path> place_of_fd(Task& task, int fd) {
    Ref<File> file = TRY(task.files().get(fd));
    if (!file->path()) return Errno(EPERM);
    return file->path();
}

SysResult<int64_t> change(Task& task, const Path& place, const AttributeChange& wanted) {
    TRY(change_attributes(task, place, wanted));
    return int64_t{0};
}

SysResult<int64_t> do_chmod(Task& task, int dirfd, GuestAddr path, uint32_t mode, int flags) {
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return Errno(EINVAL);
    Path place = TRY(place_of(task, dirfd, path, flags));
    AttributeChange wanted;
    wanted.mode = mode & 07777;
    return change(task, place, wanted);
}
SysResult<int64_t> sys_chmod(Task& task, const SyscallArgs& args) {
    return do_chmod(task, AT_FDCWD, args.u64(0), args.u32(1), 0);
}
SysResult<int64_t> sys_fchmodat(Task& task, const SyscallArgs& args) {
    return do_chmod(task, args.fd(0), args.u64(1), args.u32(2), 0);
}
SysResult<int64_t> sys_fchmodat2(Task& task, const SyscallArgs& args) {
    return do_chmod(task, args.fd(0), args.u64(1), args.u32(2), args.i32(3));
}
SysResult<int64_t> sys_fchmod(Task& task, const SyscallArgs& args) {
    Path place = TRY(place_of_fd(task, args.fd(0)));
    AttributeChange wanted;
    wanted.mode = args.u32(1) & 07777;
    return change(task, place, wanted);
}

AttributeChange owner_change(uint32_t uid, uint32_t gid) {
    AttributeChange wanted;
    if (uid != ~0u) wanted.uid = uid;
    if (gid != ~0u) wanted.gid = gid;
    return wanted;
}
SysResult<int64_t> do_chown(Task& task, int dirfd, GuestAddr path, uint32_t uid, uint32_t gid, int flags) {
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return Errno(EINVAL);
    Path place = TRY(place_of(task, dirfd, path, flags));
    return change(task, place, owner_change(uid, gid));
}
SysResult<int64_t> sys_chown(Task& task, const SyscallArgs& args) {
    return do_chown(task, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2), 0);
}
SysResult<int64_t> sys_lchown(Task& task, const SyscallArgs& args) {
    return do_chown(task, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2), AT_SYMLINK_NOFOLLOW);
}
SysResult<int64_t> sys_fchown(Task& task, const SyscallArgs& args) {
    Path place = TRY(place_of_fd(task, args.fd(0)));
    return change(task, place, owner_change(args.u32(1), args.u32(2)));
}
SysResult<int64_t> sys_fchownat(Task& task, const SyscallArgs& args) {
    return do_chown(task, args.fd(0), args.u64(1), args.u32(2), args.u32(3), args.i32(4));
}

// `path` 0: the descriptor itself.
SysResult<int64_t> set_times(Task& task, int dirfd, GuestAddr path, int flags, const timespec& access,
                             const timespec& modification) {
    if (flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) return Errno(EINVAL);
    for (const timespec* t : {&access, &modification})
        if (t->tv_nsec != UTIME_NOW && t->tv_nsec != UTIME_OMIT && (t->tv_nsec < 0 || t->tv_nsec > 999'999'999))
            return Errno(EINVAL);
    if (access.tv_nsec == UTIME_OMIT && modification.tv_nsec == UTIME_OMIT) return int64_t{0};
    Path place;
    if (path == 0) {
        if (dirfd == AT_FDCWD) return Errno(EFAULT);
        if (flags != 0) return Errno(EINVAL);
        place = TRY(place_of_fd(task, dirfd));
    } else {
        place = TRY(place_of(task, dirfd, path, flags));
    }
    AttributeChange wanted;
    if (access.tv_nsec != UTIME_OMIT) wanted.access_time = access;
    if (modification.tv_nsec != UTIME_OMIT) wanted.modification_time = modification;
    return change(task, place, wanted);
}
constexpr timespec kNow{0, UTIME_NOW};

SysResult<int64_t> sys_utimensat(Task& task, const SyscallArgs& args) {
    timespec times[2] = {kNow, kNow};
    if (args.u64(2) != 0) TRY(task.memory().copy_in(args.u64(2), times, sizeof(times)));
    return set_times(task, args.fd(0), args.u64(1), args.i32(3), times[0], times[1]);
}
SysResult<int64_t> micro_times(Task& task, int dirfd, GuestAddr path, GuestAddr address) {
    timespec times[2] = {kNow, kNow};
    if (address != 0) {
        timeval given[2];
        TRY(task.memory().copy_in(address, given, sizeof(given)));
        for (int i = 0; i < 2; ++i) {
            if (given[i].tv_usec < 0 || given[i].tv_usec >= 1'000'000) return Errno(EINVAL);
            times[i] = {given[i].tv_sec, given[i].tv_usec * 1000};
        }
    }
    return set_times(task, dirfd, path, 0, times[0], times[1]);
}
SysResult<int64_t> sys_futimesat(Task& task, const SyscallArgs& args) {
    return micro_times(task, args.fd(0), args.u64(1), args.u64(2));
}
SysResult<int64_t> sys_utimes(Task& task, const SyscallArgs& args) {
    if (args.u64(0) == 0) return Errno(EFAULT);
    return micro_times(task, AT_FDCWD, args.u64(0), args.u64(1));
}
SysResult<int64_t> sys_utime(Task& task, const SyscallArgs& args) {
    if (args.u64(0) == 0) return Errno(EFAULT);
    timespec times[2] = {kNow, kNow};
    if (args.u64(1) != 0) {
        auto given = TRY(task.read(UserPtr<utimbuf>(args.u64(1))));
        times[0] = {given.actime, 0};
        times[1] = {given.modtime, 0};
    }
    return set_times(task, AT_FDCWD, args.u64(0), 0, times[0], times[1]);
}

SysResult<int64_t> sys_truncate(Task& task, const SyscallArgs& args) {
    int64_t size = args.i64(1);
    if (size < 0) return Errno(EINVAL);
    Path place = TRY(place_of(task, AT_FDCWD, args.u64(0), 0));
    TRY(check_file_size(task, size));
    TRY(truncate_path(task, place, size));
    return int64_t{0};
}

SysResult<int64_t> sys_ftruncate(Task& task, const SyscallArgs& args) {
    int64_t size = args.i64(1);
    if (size < 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EINVAL);
    TRY(check_file_size(task, size));
    TRY(file->truncate(task, size));
    if (Inode* inode = file->inode()) drop_privileged_bits(task, *inode);
    return int64_t{0};
}

SysResult<int64_t> sys_umask(Task& task, const SyscallArgs& args) {
    return static_cast<int64_t>(task.fs().set_umask(args.u32(0)));
}

constexpr SyscallRow kRows[] = {
    {76, "truncate", sys_truncate, Support::kFull},    {77, "ftruncate", sys_ftruncate, Support::kFull},
    {90, "chmod", sys_chmod, Support::kFull},          {91, "fchmod", sys_fchmod, Support::kFull},
    {92, "chown", sys_chown, Support::kFull},          {93, "fchown", sys_fchown, Support::kFull},
    {94, "lchown", sys_lchown, Support::kFull},        {95, "umask", sys_umask, Support::kFull},
    {132, "utime", sys_utime, Support::kFull},         {235, "utimes", sys_utimes, Support::kFull},
    {260, "fchownat", sys_fchownat, Support::kFull},   {261, "futimesat", sys_futimesat, Support::kFull},
    {268, "fchmodat", sys_fchmodat, Support::kFull},   {280, "utimensat", sys_utimensat, Support::kFull},
    {452, "fchmodat2", sys_fchmodat2, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> attribute_syscalls() { return kRows; }

}  // namespace casemate::sentry
