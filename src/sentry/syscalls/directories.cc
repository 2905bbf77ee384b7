// Reading directories, and where a task stands: getdents, chdir, getcwd, chroot.
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/limits.h>

#include <cstring>
#include <memory>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

constexpr size_t kMaxListing = 256 * 1024;  // bytes handed out by one call

// Packs entries as the kernel's struct linux_dirent64, or linux_dirent (type in the last byte).
template <bool k64>
SysResult<int64_t> do_getdents(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    size_t room = std::min<size_t>(args.u32(2), kMaxListing);
    auto buffer = std::make_unique_for_overwrite<char[]>(room);
    size_t used = 0;
    bool full = false;
    constexpr size_t kHead = k64 ? 19 : 18;
    auto listed = file->read_directory(task, [&](const DirectoryEntry& entry) {
        size_t size = (kHead + entry.name.size() + (k64 ? 1 : 2) + 7) & ~size_t{7};
        if (size > room - used) {
            full = true;
            return false;
        }
        char* at = buffer.get() + used;
        std::memset(at, 0, size);
        uint64_t inode = entry.inode;
        int64_t cookie = entry.cookie;
        auto record = static_cast<uint16_t>(size);
        std::memcpy(at, &inode, 8);
        std::memcpy(at + 8, &cookie, 8);
        std::memcpy(at + 16, &record, 2);
        if (k64) at[18] = static_cast<char>(entry.type);
        std::memcpy(at + kHead, entry.name.data(), entry.name.size());
        if (!k64) at[size - 1] = static_cast<char>(entry.type);
        used += size;
        return true;
    });
    if (!listed.ok() && used == 0) return listed.error();
    if (used == 0 && full) return Errno(EINVAL);
    TRY(task.memory().copy_out(args.u64(1), buffer.get(), used));
    return static_cast<int64_t>(used);
}

SysResult<int64_t> stand_on(Task& task, Path place) {
    if (!S_ISDIR(place.inode().mode())) return Errno(ENOTDIR);
    TRY(check_permission(task, place.inode(), kMayExec));
    task.fs().set_working_directory(std::move(place));
    return int64_t{0};
}

SysResult<int64_t> sys_chdir(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    return stand_on(task, TRY(walk(task, AT_FDCWD, path)));
}

SysResult<int64_t> sys_fchdir(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    if (!file->path()) return Errno(ENOTDIR);
    return stand_on(task, file->path());
}

SysResult<int64_t> sys_chroot(Task& task, const SyscallArgs& args) {
    std::string path = TRY(task.read_path(args.u64(0)));
    Path place = TRY(walk(task, AT_FDCWD, path));
    if (!S_ISDIR(place.inode().mode())) return Errno(ENOTDIR);
    TRY(check_permission(task, place.inode(), kMayExec));
    if (!task.has_capability(CAP_SYS_CHROOT)) return Errno(EPERM);
    task.fs().set_root(std::move(place));
    return int64_t{0};
}

SysResult<int64_t> sys_getcwd(Task& task, const SyscallArgs& args) {
    Path place = task.fs().working_directory();
    if (place.dentry->unlinked() && !place.dentry->is_root()) return Errno(ENOENT);
    std::string text = path_text(task, place);
    if (text.size() + 1 > PATH_MAX) return Errno(ENAMETOOLONG);
    if (text.size() + 1 > args.u64(1)) return Errno(ERANGE);
    TRY(task.memory().copy_out(args.u64(0), text.c_str(), text.size() + 1));
    return static_cast<int64_t>(text.size() + 1);
}

constexpr SyscallRow kRows[] = {
    {78, "getdents", do_getdents<false>, Support::kFull},
    {79, "getcwd", sys_getcwd, Support::kFull},
    {80, "chdir", sys_chdir, Support::kFull},
    {81, "fchdir", sys_fchdir, Support::kFull},
    {161, "chroot", sys_chroot, Support::kFull},
    {217, "getdents64", do_getdents<true>, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> directory_syscalls() { return kRows; }

}  // namespace casemate::sentry
