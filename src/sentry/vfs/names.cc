// mkdir, mknod, symlink, link, unlink, rmdir: changes of one directory.
#include "sentry/vfs/names.h"

#include <linux/capability.h>
#include <linux/limits.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/new_name.h"

namespace casemate::sentry {

SysResult<void> may_create(Task& task, const Path& parent) {
    if (parent.dentry->unlinked()) return Errno(ENOENT);
    TRY(check_writable_mount(parent));
    return check_permission(task, parent.inode(), kMayWrite | kMayExec);
}

Ref<Dentry> unseen_name(Task& task, const Path& parent, std::string_view name) {
    if (!parent.inode().finds_out_itself() || !may_create(task, parent).ok()) return nullptr;
    return parent.dentry->unseen_child_locked(name);
}

NewInode new_inode(Task& task, Inode& directory, uint32_t mode) {
    const Credentials& credentials = task.credentials();
    NewInode properties;
    mode &= ~(task.fs().umask() & 0777);
    properties.uid = credentials.fsuid;
    properties.gid = credentials.fsgid;
    if (directory.mode() & S_ISGID) {
        properties.gid = directory.gid();
        if (S_ISDIR(mode))
            mode |= S_ISGID;
        else if ((mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && !credentials.in_group(properties.gid) &&
                 !credentials.has(CAP_FSETID))
            mode &= ~static_cast<uint32_t>(S_ISGID);
    }
    properties.mode = mode;
    return properties;
}

SysResult<void> may_delete(Task& task, const Path& parent, Inode& victim) {
    TRY(check_writable_mount(parent));
    Inode& directory = parent.inode();
    TRY(check_permission(task, directory, kMayWrite | kMayExec));
    if (!(directory.mode() & S_ISVTX)) return {};
    const Credentials& credentials = task.credentials();
    if (credentials.fsuid == victim.uid() || credentials.fsuid == directory.uid() || credentials.has(CAP_FOWNER))
        return {};
    return Errno(EPERM);
}

namespace {

// Makes `path` by `properties`; `make` fills them from the parent directory.
SysResult<void> make_name(Task& task, int dirfd, std::string_view path, uint32_t mode, uint64_t device,
                          std::string_view link_target) {
    ParentWalk walked = TRY(walk_parent(task, dirfd, path));
    if (walked.last != ParentWalk::Last::kName) return Errno(EEXIST);
    Path& parent = walked.parent;
    Inode& directory = parent.inode();
    std::unique_lock lock(parent.dentry->directory_mutex());
    Ref<Dentry> child;
    if (!walked.trailing_slash || S_ISDIR(mode)) child = unseen_name(task, parent, walked.name);
    if (!child) {
        child = TRY(parent.dentry->child_locked(walked.name));
        if (!child->negative()) return Errno(EEXIST);
        if (walked.trailing_slash && !S_ISDIR(mode)) return Errno(ENOENT);
        TRY(may_create(task, parent));
    }
    NewInode properties = new_inode(task, directory, mode);
    if (S_ISLNK(mode)) properties.mode = mode;
    properties.device = device;
    properties.link_target = link_target;
    auto fresh = directory.create(walked.name, properties);
    if (!fresh.ok()) {
        if (directory.finds_out_itself()) child->forget();
        return fresh.error();
    }
    child->set_inode_locked(fresh.take_value());
    lock.unlock();
    notify_name(directory, walked.name, S_ISDIR(mode) ? IN_CREATE | IN_ISDIR : IN_CREATE);
    return {};
}

}  // namespace

SysResult<void> make_node(Task& task, int dirfd, std::string_view path, uint32_t mode, uint64_t device) {
    switch (mode & S_IFMT) {
        case 0:
            mode |= S_IFREG;
            break;
        case S_IFREG:
        case S_IFIFO:
        case S_IFSOCK:
            break;
        case S_IFCHR:
            // 0:0 is overlayfs's whiteout and harmless.
            if (device != 0 && !task.has_capability(CAP_MKNOD)) return Errno(EPERM);
            break;
        case S_IFBLK:
            if (!task.has_capability(CAP_MKNOD)) return Errno(EPERM);
            break;
        case S_IFDIR:
            return Errno(EPERM);
        default:
            return Errno(EINVAL);
    }
    return make_name(task, dirfd, path, mode & (S_IFMT | 07777), S_ISCHR(mode) || S_ISBLK(mode) ? device : 0, {});
}

SysResult<void> make_directory(Task& task, int dirfd, std::string_view path, uint32_t mode) {
    return make_name(task, dirfd, path, S_IFDIR | (mode & 01777), 0, {});
}

SysResult<void> make_symlink(Task& task, std::string_view target, int dirfd, std::string_view path) {
    if (target.empty()) return Errno(ENOENT);
    if (target.size() >= PATH_MAX) return Errno(ENAMETOOLONG);
    return make_name(task, dirfd, path, S_IFLNK | 0777, 0, target);
}

namespace {

// fs.protected_hardlinks: a link to another's file only where reading and writing it is allowed anyway.
bool may_link_to(Task& task, Inode& inode) {
    if (owner_or_capable(task, inode)) return true;
    uint32_t mode = inode.mode();
    if (!S_ISREG(mode) || (mode & S_ISUID) || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) return false;
    return check_permission(task, inode, kMayRead | kMayWrite).ok();
}

}  // namespace

SysResult<void> make_link(Task& task, int old_dirfd, std::string_view old_path, int new_dirfd,
                          std::string_view new_path, int at_flags) {
    if (at_flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) return Errno(EINVAL);
    WalkOptions options;
    options.follow_last = at_flags & AT_SYMLINK_FOLLOW;
    options.empty_path = at_flags & AT_EMPTY_PATH;
    if (old_path.empty() && options.empty_path && !task.has_capability(CAP_DAC_READ_SEARCH)) return Errno(ENOENT);
    Path source = TRY(walk(task, old_dirfd, old_path, options));
    ParentWalk walked = TRY(walk_parent(task, new_dirfd, new_path));
    if (walked.last != ParentWalk::Last::kName) return Errno(EEXIST);
    Path& parent = walked.parent;
    std::unique_lock lock(parent.dentry->directory_mutex());
    Ref<Dentry> child = TRY(parent.dentry->child_locked(walked.name));
    if (!child->negative()) return Errno(EEXIST);
    if (walked.trailing_slash) return Errno(ENOENT);
    if (source.mount != parent.mount) return Errno(EXDEV);
    Inode& inode = source.inode();
    TRY(may_create(task, parent));
    if (!may_link_to(task, inode)) return Errno(EPERM);
    if (S_ISDIR(inode.mode())) return Errno(EPERM);
    Inode& directory = parent.inode();
    TRY(directory.link(walked.name, inode));
    child->set_inode_locked(Ref<Inode>(&inode));
    lock.unlock();
    notify_dentry(*source.dentry, IN_ATTRIB);
    notify_name(directory, walked.name, IN_CREATE);
    return {};
}

SysResult<void> remove(Task& task, int dirfd, std::string_view path, bool remove_directory) {
    ParentWalk walked = TRY(walk_parent(task, dirfd, path));
    if (walked.last != ParentWalk::Last::kName) {
        if (!remove_directory) return Errno(EISDIR);
        switch (walked.last) {
            case ParentWalk::Last::kDot:
                return Errno(EINVAL);
            case ParentWalk::Last::kDotDot:
                return Errno(ENOTEMPTY);
            default:
                return Errno(EBUSY);
        }
    }
    Path& parent = walked.parent;
    Inode& directory = parent.inode();
    Ref<Dentry> child;  // outlives the lock: the last reference to a big file is dropped outside of it
    std::unique_lock lock(parent.dentry->directory_mutex());
    // Whose it is matters in sticky directories only.
    const bool finds_out = !remove_directory && directory.finds_out_itself() && !(directory.mode() & S_ISVTX);
    if (finds_out) child = parent.dentry->cached_child(walked.name);
    if (!child || child->negative() || S_ISDIR(child->inode_or_null()->mode()))
        child = TRY(parent.dentry->child_locked(walked.name));
    if (child->negative()) return Errno(ENOENT);
    Ref<Inode> inode = child->inode();
    bool is_directory = S_ISDIR(inode->mode());
    if (walked.trailing_slash && !is_directory) return Errno(ENOTDIR);
    TRY(may_delete(task, parent, *inode));
    if (remove_directory && !is_directory) return Errno(ENOTDIR);
    if (!remove_directory && is_directory) return Errno(EISDIR);
    if (child->mounts_here.load(std::memory_order_acquire) != 0) return Errno(EBUSY);
    if (remove_directory) {
        std::lock_guard inner(child->directory_mutex());
        TRY(directory.remove_directory(walked.name, *inode));
        child->unlinked_locked();
    } else {
        auto unlinked = directory.unlink(walked.name, *inode);
        if (!unlinked.ok()) {
            if (finds_out) child->forget();
            return unlinked;
        }
        child->unlinked_locked();
    }
    lock.unlock();
    uint32_t kind = is_directory ? IN_ISDIR : 0;
    notify_name(directory, walked.name, IN_DELETE | kind);
    if (inode->watches() != nullptr) {
        struct stat info;
        if (!inode->stat(info).ok() || info.st_nlink == 0 || is_directory)
            notify_inode(*inode, IN_DELETE_SELF);
        else
            notify_inode(*inode, IN_ATTRIB);
    }
    return {};
}

}  // namespace casemate::sentry
