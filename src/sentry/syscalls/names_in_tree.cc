// Making, linking, renaming and removing names.
#include <fcntl.h>
#include <sys/stat.h>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

SysResult<int64_t> zero(SysResult<void> result) {
    if (!result.ok()) return result.error();
    return int64_t{0};
}

// mknod's device argument is the kernel's 32-bit form, which for what programs use is makedev's value.
SysResult<int64_t> do_mknod(Task& task, int dirfd, GuestAddr path, uint32_t mode, uint32_t device) {
    std::string text = TRY(task.read_path(path));
    uint64_t major = (device >> 8) & 0xfff, minor = (device & 0xff) | ((device >> 12) & 0xfff00);
    uint64_t number = (minor & 0xff) | major << 8 | (minor & ~uint64_t{0xff}) << 12;
    return zero(make_node(task, dirfd, text, mode, number));
}

SysResult<int64_t> sys_mknod(Task& task, const SyscallArgs& args) {
    return do_mknod(task, AT_FDCWD, args.u64(0), args.u32(1), args.u32(2));
}
SysResult<int64_t> sys_mknodat(Task& task, const SyscallArgs& args) {
    return do_mknod(task, args.fd(0), args.u64(1), args.u32(2), args.u32(3));
}

SysResult<int64_t> sys_mkdir(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return zero(make_directory(task, AT_FDCWD, path, args.u32(1)));
}
SysResult<int64_t> sys_mkdirat(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(1)));
    return zero(make_directory(task, args.fd(0), path, args.u32(2)));
}

SysResult<int64_t> sys_rmdir(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return zero(remove(task, AT_FDCWD, path, true));
}
SysResult<int64_t> sys_unlink(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return zero(remove(task, AT_FDCWD, path, false));
}
SysResult<int64_t> sys_unlinkat(Task& task, const SyscallArgs& args) {
    int flags = args.i32(2);
    if (flags & ~AT_REMOVEDIR) return Errno(EINVAL);
    std::string path = TRY(task.read_path(args.u64(1)));
    return zero(remove(task, args.fd(0), path, flags & AT_REMOVEDIR));
}

SysResult<int64_t> do_symlink(Task& task, GuestAddr target, int dirfd, GuestAddr path) {
    std::string text = TRY(task.read_path(target));
    std::string at = TRY(task.read_path(path));
    return zero(make_symlink(task, text, dirfd, at));
}
SysResult<int64_t> sys_symlink(Task& task, const SyscallArgs& args) {
    return do_symlink(task, args.u64(0), AT_FDCWD, args.u64(1));
}
SysResult<int64_t> sys_symlinkat(Task& task, const SyscallArgs& args) {
    return do_symlink(task, args.u64(0), args.fd(1), args.u64(2));
}

SysResult<int64_t> do_link(Task& task, int old_dirfd, GuestAddr old_path, int new_dirfd, GuestAddr new_path,
                           int flags) {
    std::string from = TRY(task.read_path(old_path));
    std::string to = TRY(task.read_path(new_path));
    return zero(make_link(task, old_dirfd, from, new_dirfd, to, flags));
}
SysResult<int64_t> sys_link(Task& task, const SyscallArgs& args) {
    return do_link(task, AT_FDCWD, args.u64(0), AT_FDCWD, args.u64(1), 0);
}
SysResult<int64_t> sys_linkat(Task& task, const SyscallArgs& args) {
    return do_link(task, args.fd(0), args.u64(1), args.fd(2), args.u64(3), args.i32(4));
}

SysResult<int64_t> do_rename(Task& task, int old_dirfd, GuestAddr old_path, int new_dirfd, GuestAddr new_path,
                             uint32_t flags) {
    std::string from = TRY(task.read_path(old_path));
    std::string to = TRY(task.read_path(new_path));
    return zero(rename(task, old_dirfd, from, new_dirfd, to, flags));
}
SysResult<int64_t> sys_rename(Task& task, const SyscallArgs& args) {
    return do_rename(task, AT_FDCWD, args.u64(0), AT_FDCWD, args.u64(1), 0);
}
SysResult<int64_t> sys_renameat(Task& task, const SyscallArgs& args) {
    return do_rename(task, args.fd(0), args.u64(1), args.fd(2), args.u64(3), 0);
}
SysResult<int64_t> sys_renameat2(Task& task, const SyscallArgs& args) {
    return do_rename(task, args.fd(0), args.u64(1), args.fd(2), args.u64(3), args.u32(4));
}

constexpr SyscallRow kRows[] = {
    {82, "rename", sys_rename, Support::kFull},
    {83, "mkdir", sys_mkdir, Support::kFull},
    {84, "rmdir", sys_rmdir, Support::kFull},
    {86, "link", sys_link, Support::kFull},
    {87, "unlink", sys_unlink, Support::kFull},
    {88, "symlink", sys_symlink, Support::kFull},
    {133, "mknod", sys_mknod, Support::kFull},
    {258, "mkdirat", sys_mkdirat, Support::kFull},
    {259, "mknodat", sys_mknodat, Support::kFull},
    {263, "unlinkat", sys_unlinkat, Support::kFull},
    {264, "renameat", sys_renameat, Support::kFull},
    {265, "linkat", sys_linkat, Support::kFull},
    {266, "symlinkat", sys_symlinkat, Support::kFull},
    {316, "renameat2", sys_renameat2, Support::kPartial, "no RENAME_WHITEOUT"},
};

}  // namespace

std::span<const SyscallRow> name_syscalls() { return kRows; }

}  // namespace casemate::sentry
