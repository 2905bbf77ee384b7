// Who may do what: mode bits, groups and the file capabilities, as Linux's generic_permission() decides.
#include <linux/capability.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

SysResult<void> check_permission(const Credentials& credentials, Inode& inode, int mask) {
    uint32_t mode = inode.mode();
    bool directory = S_ISDIR(mode);
    // The walk's question, nearly always.
    if (mask == kMayExec && directory && (mode & 0111) == 0111) return {};
    uint32_t bits = mode;
    if (credentials.fsuid == inode.uid())
        bits = mode >> 6;
    else if (((mode >> 3 ^ mode) & 7 & mask) != 0 && credentials.in_group(inode.gid()))
        bits = mode >> 3;
    if ((static_cast<int>(bits & 7) & mask) == mask) return {};
    if (directory) {
        if (credentials.has(CAP_DAC_OVERRIDE)) return {};
        if (!(mask & kMayWrite) && credentials.has(CAP_DAC_READ_SEARCH)) return {};
        return Errno(EACCES);
    }
    if (mask == kMayRead && credentials.has(CAP_DAC_READ_SEARCH)) return {};
    if ((!(mask & kMayExec) || (mode & 0111)) && credentials.has(CAP_DAC_OVERRIDE)) return {};
    return Errno(EACCES);
}

SysResult<void> check_permission(Task& task, Inode& inode, int mask) {
    return check_permission(task.credentials(), inode, mask);
}

SysResult<void> check_writable_mount(const Path& path) {
    if (path.mount && path.mount->read_only()) return Errno(EROFS);
    return {};
}

bool owner_or_capable(Task& task, Inode& inode) {
    const Credentials& credentials = task.credentials();
    return credentials.fsuid == inode.uid() || credentials.has(CAP_FOWNER);
}

void drop_privileged_bits(Task& task, Inode& inode) {
    uint32_t mode = inode.mode();
    if (!(mode & (S_ISUID | S_ISGID)) || !S_ISREG(mode)) [[likely]]
        return;
    uint32_t gone = mode & S_ISUID;
    if ((mode & S_ISGID) && (mode & S_IXGRP)) gone |= S_ISGID;
    if (gone == 0 || task.has_capability(CAP_FSETID)) return;
    AttributeChange change;
    change.mode = mode & 07777 & ~gone;
    (void)inode.change(change);
}

}  // namespace casemate::sentry
