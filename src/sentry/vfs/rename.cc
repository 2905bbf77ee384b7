// renameat2(2).
//
// Lock order: the file system's rename mutex (two directories only), then the directory nearer to the root when one is
// above the other, else by address.
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/inotify.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/names.h"
#include "sentry/vfs/new_name.h"

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4
#endif

namespace casemate::sentry {

namespace {

class DirectoryPairLock {
  public:
    DirectoryPairLock(FileSystem& file_system, Dentry& a, Dentry& b) {
        if (&a == &b) {
            first_ = std::unique_lock(a.directory_mutex());
            return;
        }
        rename_ = std::unique_lock(file_system.rename_mutex());
        bool a_first = b.is_descendant_of(a) || (!a.is_descendant_of(b) && &a < &b);
        first_ = std::unique_lock((a_first ? a : b).directory_mutex());
        second_ = std::unique_lock((a_first ? b : a).directory_mutex());
    }

  private:
    std::unique_lock<std::mutex> rename_;
    std::unique_lock<SmallMutex> first_, second_;
};

SysResult<void> rename_between(Task& task, const ParentWalk& from, const ParentWalk& to, uint32_t flags) {
    Path old_parent = from.parent, new_parent = to.parent;
    bool exchange = flags & RENAME_EXCHANGE;
    Ref<Dentry> source, target;  // outlive the locks
    Ref<Inode> source_inode, target_inode;
    Inode& old_directory = old_parent.inode();
    Inode& new_directory = new_parent.inode();
    {
        DirectoryPairLock lock(old_directory.file_system(), *old_parent.dentry, *new_parent.dentry);
        source = TRY(old_parent.dentry->child_locked(from.name));
        if (source->negative()) return Errno(ENOENT);
        target = TRY(new_parent.dentry->child_locked(to.name));
        source_inode = source->inode();
        target_inode = target->inode();
        if (target_inode && (flags & RENAME_NOREPLACE)) return Errno(EEXIST);
        if (!target_inode && exchange) return Errno(ENOENT);
        bool source_is_directory = S_ISDIR(source_inode->mode());
        bool target_is_directory = target_inode && S_ISDIR(target_inode->mode());
        if (!source_is_directory) {
            if (from.trailing_slash) return Errno(ENOTDIR);
            if (!exchange && to.trailing_slash) return Errno(ENOTDIR);
        }
        if (exchange && to.trailing_slash && !target_is_directory) return Errno(ENOTDIR);
        if (new_parent.dentry->is_descendant_of(*source)) return Errno(EINVAL);
        if (target_inode && old_parent.dentry->is_descendant_of(*target)) return Errno(exchange ? EINVAL : ENOTEMPTY);
        if (source_inode == target_inode) return {};

        TRY(may_delete(task, old_parent, *source_inode));
        if (target_inode) {
            TRY(may_delete(task, new_parent, *target_inode));
            if (!exchange) {
                if (source_is_directory && !target_is_directory) return Errno(ENOTDIR);
                if (!source_is_directory && target_is_directory) return Errno(EISDIR);
            }
        } else {
            TRY(may_create(task, new_parent));
        }
        if (old_parent.dentry != new_parent.dentry) {
            // ".." of the directory changes: that is a write to it.
            if (source_is_directory) TRY(check_permission(task, *source_inode, kMayWrite));
            if (exchange && target_is_directory) TRY(check_permission(task, *target_inode, kMayWrite));
        }
        if (source->mounts_here.load(std::memory_order_acquire) != 0 ||
            target->mounts_here.load(std::memory_order_acquire) != 0)
            return Errno(EBUSY);
        TRY(old_directory.rename(from.name, *source_inode, new_directory, to.name, target_inode.get(), flags));
        if (exchange) {
            source->exchanged_locked(*target);
        } else {
            if (target_inode) target->unlinked_locked();
            source->renamed_locked(new_parent.dentry, to.name);
        }
    }
    uint32_t cookie = next_move_cookie();
    auto kind = [](Inode& inode) -> uint32_t { return S_ISDIR(inode.mode()) ? IN_ISDIR : 0; };
    notify_name(old_directory, from.name, IN_MOVED_FROM | kind(*source_inode), cookie);
    notify_name(new_directory, to.name, IN_MOVED_TO | kind(*source_inode), cookie);
    notify_inode(*source_inode, IN_MOVE_SELF);
    if (exchange) {
        cookie = next_move_cookie();
        notify_name(new_directory, to.name, IN_MOVED_FROM | kind(*target_inode), cookie);
        notify_name(old_directory, from.name, IN_MOVED_TO | kind(*target_inode), cookie);
    } else if (target_inode) {
        notify_inode(*target_inode, IN_DELETE_SELF);
    }
    return {};
}

}  // namespace

SysResult<void> rename(Task& task, int old_dirfd, std::string_view old_path, int new_dirfd, std::string_view new_path,
                       uint32_t flags) {
    if (flags & ~static_cast<uint32_t>(RENAME_NOREPLACE | RENAME_EXCHANGE)) return Errno(EINVAL);
    if ((flags & RENAME_NOREPLACE) && (flags & RENAME_EXCHANGE)) return Errno(EINVAL);
    ParentWalk from = TRY(walk_parent(task, old_dirfd, old_path));
    ParentWalk to = TRY(walk_parent(task, new_dirfd, new_path));
    if (from.parent.mount != to.parent.mount) return Errno(EXDEV);
    if (from.last != ParentWalk::Last::kName) return Errno(EBUSY);
    if (to.last != ParentWalk::Last::kName) return Errno(flags & RENAME_NOREPLACE ? EEXIST : EBUSY);
    TRY(check_writable_mount(from.parent));
    return rename_between(task, from, to, flags);
}

}  // namespace casemate::sentry
