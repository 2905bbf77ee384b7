// Extended attributes. Which namespaces exist is the file system's say; who may use them is decided here (xattr(7)).
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/limits.h>
#include <linux/xattr.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

SysResult<std::string> read_name(Task& task, GuestAddr address) {
    auto name = task.memory().copy_in_string(address, XATTR_NAME_MAX + 1);
    if (!name.ok()) return Errno(name.error() == Errno(ENAMETOOLONG) ? ERANGE : name.error().value);
    if (name->empty()) return Errno(ERANGE);
    return name;
}

SysResult<void> check_access(Task& task, const Path& place, std::string_view name, bool write) {
    Inode& inode = place.inode();
    if (write) TRY(check_writable_mount(place));
    if (name.starts_with("security.") || name.starts_with("system.")) {
        if (write && name == "security.capability" && !task.has_capability(CAP_SETFCAP)) return Errno(EPERM);
        if (write && name.starts_with("security.") && name != "security.capability" &&
            !task.has_capability(CAP_SYS_ADMIN))
            return Errno(EPERM);
        return {};
    }
    if (name.starts_with("trusted.")) {
        if (!task.has_capability(CAP_SYS_ADMIN)) return Errno(write ? EPERM : ENODATA);
        return {};
    }
    if (!name.starts_with("user.")) return Errno(EOPNOTSUPP);
    uint32_t type = inode.type();
    if (type != S_IFREG && type != S_IFDIR) return Errno(write ? EPERM : ENODATA);
    if (write && type == S_IFDIR && (inode.mode() & S_ISVTX) && !owner_or_capable(task, inode)) return Errno(EPERM);
    return check_permission(task, inode, write ? kMayWrite : kMayRead);
}

SysResult<Path> place_of(Task& task, GuestAddr path, bool follow) {
    std::string text = TRY(task.read_path(path));
    WalkOptions options;
    options.follow_last = follow;
    return walk(task, AT_FDCWD, text, options);
}
SysResult<Path> place_of_fd(Task& task, int fd) {
    Ref<File> file = TRY(task.files().get(fd));
    if (!file->path()) return Errno(EOPNOTSUPP);
    return file->path();
}

SysResult<int64_t> do_set(Task& task, SysResult<Path> found, const SyscallArgs& args) {
    int flags = args.i32(4);
    if (flags & ~(XATTR_CREATE | XATTR_REPLACE)) return Errno(EINVAL);
    std::string name = TRY(read_name(task, args.u64(1)));
    uint64_t size = args.u64(3);
    if (size > XATTR_SIZE_MAX) return Errno(E2BIG);
    std::string value(size, '\0');
    if (size != 0) TRY(task.memory().copy_in(args.u64(2), value.data(), size));
    Path place = TRY(std::move(found));
    TRY(check_access(task, place, name, true));
    TRY(place.inode().set_xattr(name, value, flags));
    notify_dentry(*place.dentry, IN_ATTRIB);
    return int64_t{0};
}
SysResult<int64_t> do_get(Task& task, SysResult<Path> found, const SyscallArgs& args) {
    Path place = TRY(std::move(found));
    std::string name = TRY(read_name(task, args.u64(1)));
    TRY(check_access(task, place, name, false));
    std::string value = TRY(place.inode().get_xattr(name));
    uint64_t room = args.u64(3);
    if (room == 0) return static_cast<int64_t>(value.size());
    if (value.size() > room) return Errno(ERANGE);
    TRY(task.memory().copy_out(args.u64(2), value.data(), value.size()));
    return static_cast<int64_t>(value.size());
}
SysResult<int64_t> do_list(Task& task, SysResult<Path> found, const SyscallArgs& args) {
    Path place = TRY(std::move(found));
    auto names = TRY(place.inode().list_xattrs());
    std::string list;
    for (const std::string& name : names) {
        if (name.starts_with("trusted.") && !task.has_capability(CAP_SYS_ADMIN)) continue;
        list += name;
        list += '\0';
    }
    uint64_t room = args.u64(2);
    if (room == 0) return static_cast<int64_t>(list.size());
    if (list.size() > room) return Errno(ERANGE);
    TRY(task.memory().copy_out(args.u64(1), list.data(), list.size()));
    return static_cast<int64_t>(list.size());
}
SysResult<int64_t> do_remove(Task& task, SysResult<Path> found, const SyscallArgs& args) {
    Path place = TRY(std::move(found));
    std::string name = TRY(read_name(task, args.u64(1)));
    TRY(check_access(task, place, name, true));
    TRY(place.inode().remove_xattr(name));
    notify_dentry(*place.dentry, IN_ATTRIB);
    return int64_t{0};
}

using Action = SysResult<int64_t> (*)(Task&, SysResult<Path>, const SyscallArgs&);
template <Action action>
SysResult<int64_t> by_path(Task& task, const SyscallArgs& args) {
    return action(task, place_of(task, args.u64(0), true), args);
}
template <Action action>
SysResult<int64_t> by_link(Task& task, const SyscallArgs& args) {
    return action(task, place_of(task, args.u64(0), false), args);
}
template <Action action>
SysResult<int64_t> by_fd(Task& task, const SyscallArgs& args) {
    return action(task, place_of_fd(task, args.fd(0)), args);
}

constexpr const char* kNote = "user.* and security.capability; no ACLs";
constexpr SyscallRow kRows[] = {
    {188, "setxattr", by_path<do_set>, Support::kPartial, kNote},
    {189, "lsetxattr", by_link<do_set>, Support::kPartial, kNote},
    {190, "fsetxattr", by_fd<do_set>, Support::kPartial, kNote},
    {191, "getxattr", by_path<do_get>, Support::kPartial, kNote},
    {192, "lgetxattr", by_link<do_get>, Support::kPartial, kNote},
    {193, "fgetxattr", by_fd<do_get>, Support::kPartial, kNote},
    {194, "listxattr", by_path<do_list>, Support::kPartial, kNote},
    {195, "llistxattr", by_link<do_list>, Support::kPartial, kNote},
    {196, "flistxattr", by_fd<do_list>, Support::kPartial, kNote},
    {197, "removexattr", by_path<do_remove>, Support::kPartial, kNote},
    {198, "lremovexattr", by_link<do_remove>, Support::kPartial, kNote},
    {199, "fremovexattr", by_fd<do_remove>, Support::kPartial, kNote},
};

}  // namespace

std::span<const SyscallRow> xattr_syscalls() { return kRows; }

}  // namespace casemate::sentry
