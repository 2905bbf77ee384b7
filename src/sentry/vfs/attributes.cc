// chmod, chown, utimensat, truncate: who may change what (Linux's setattr_prepare).
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/inotify.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

SysResult<void> change_attributes(Task& task, const Path& path, const AttributeChange& wanted) {
    Inode& inode = path.inode();
    const Credentials& credentials = task.credentials();
    AttributeChange change = wanted;
    TRY(check_writable_mount(path));
    uint32_t mode = inode.mode();
    if (change.mode) {
        if (S_ISLNK(mode)) return Errno(EOPNOTSUPP);
        if (!owner_or_capable(task, inode)) return Errno(EPERM);
        uint32_t gid = change.gid ? *change.gid : inode.gid();
        if (!credentials.in_group(gid) && !credentials.has(CAP_FSETID)) *change.mode &= ~static_cast<uint32_t>(S_ISGID);
        *change.mode &= 07777;
    }
    if (change.uid || change.gid) {
        bool owner = credentials.fsuid == inode.uid();
        if (change.uid && !(owner && *change.uid == inode.uid()) && !credentials.has(CAP_CHOWN)) return Errno(EPERM);
        if (change.gid && !(owner && (credentials.in_group(*change.gid) || *change.gid == inode.gid())) &&
            !credentials.has(CAP_CHOWN))
            return Errno(EPERM);
        if (!S_ISDIR(mode) && !change.mode) {
            uint32_t gone = mode & S_ISUID;
            if ((mode & S_ISGID) && (mode & S_IXGRP)) gone |= S_ISGID;
            if (gone != 0) change.mode = mode & 07777 & ~gone;
        }
    }
    if (change.access_time || change.modification_time) {
        auto now = [](const std::optional<timespec>& t) { return t && t->tv_nsec == UTIME_NOW; };
        if (now(change.access_time) && now(change.modification_time)) {
            if (!owner_or_capable(task, inode)) TRY(check_permission(task, inode, kMayWrite));
        } else if (!owner_or_capable(task, inode)) {
            return Errno(EPERM);
        }
    }
    TRY(inode.change(change));
    notify_dentry(*path.dentry, change.size ? IN_MODIFY : IN_ATTRIB);
    return {};
}

SysResult<void> truncate_path(Task& task, const Path& path, int64_t size) {
    if (size < 0) return Errno(EINVAL);
    Inode& inode = path.inode();
    if (S_ISDIR(inode.mode())) return Errno(EISDIR);
    if (!S_ISREG(inode.mode())) return Errno(EINVAL);
    TRY(check_writable_mount(path));
    TRY(check_permission(task, inode, kMayWrite));
    WriteHold hold = WriteHold::to_write(inode);
    if (!hold) return Errno(ETXTBSY);
    drop_privileged_bits(task, inode);
    AttributeChange change;
    change.size = size;
    TRY(inode.change(change));
    notify_dentry(*path.dentry, IN_MODIFY);
    return {};
}

}  // namespace casemate::sentry
