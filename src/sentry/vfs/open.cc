// open(2) and its relatives: what the flags ask for, checked in Linux's order.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/inotify.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/new_name.h"
#include "sentry/vfs/special_files.h"
#include "sentry/vfs/walker.h"

namespace casemate::sentry {

namespace {

int access_mask(int flags) {
    switch (flags & O_ACCMODE) {
        case O_RDONLY:
            return kMayRead | (flags & O_TRUNC ? kMayWrite : 0);
        case O_WRONLY:
            return kMayWrite;
        default:
            return kMayRead | kMayWrite;
    }
}

// FIFOs and regular files of others in directories where anybody may write (fs.protected_regular, protected_fifos):
// O_CREAT must not open what somebody else laid there.
bool laid_by_a_stranger(Task& task, Inode& inode, Inode& directory) {
    uint32_t mode = inode.mode();
    if (!S_ISREG(mode) && !S_ISFIFO(mode)) return false;
    if (!(directory.mode() & S_ISVTX) || !(directory.mode() & S_IWOTH)) return false;
    return inode.uid() != task.credentials().fsuid && inode.uid() != directory.uid();
}

SysResult<Ref<File>> open_checked(Task& task, const Path& path, int flags, bool created) {
    Inode& inode = path.inode();
    uint32_t type = inode.type();
    if (flags & O_PATH) {
        if ((flags & O_DIRECTORY) && !S_ISDIR(type)) return Errno(ENOTDIR);
        return Ref<File>(make_ref<PathFile>(path, flags));
    }
    int mask = access_mask(flags);
    switch (type) {
        case S_IFLNK:
            return Errno(ELOOP);
        case S_IFDIR:
            if ((mask & kMayWrite) || (flags & O_CREAT)) return Errno(EISDIR);
            break;
        case S_IFBLK:
        case S_IFCHR:
            if (path.mount && (path.mount->flags() & MS_NODEV)) return Errno(EACCES);
            break;
        default:
            break;
    }
    if ((flags & O_DIRECTORY) && !S_ISDIR(type)) return Errno(ENOTDIR);
    if ((mask & kMayWrite) && (S_ISREG(type) || S_ISDIR(type)) && !created) TRY(check_writable_mount(path));
    if (!created) TRY(check_permission(task, inode, mask));
    if ((flags & O_NOATIME) && !owner_or_capable(task, inode)) return Errno(EPERM);

    WriteHold hold;
    if ((mask & kMayWrite) && S_ISREG(type)) {
        hold = WriteHold::to_write(inode);
        if (!hold) return Errno(ETXTBSY);
    }
    Ref<File> file;
    switch (type) {
        case S_IFSOCK:
        case S_IFBLK:
            return Errno(ENXIO);
        case S_IFCHR: {
            struct stat info;
            TRY(inode.stat(info));
            file = TRY(open_character_device(task, path, flags, info.st_rdev));
            break;
        }
        case S_IFIFO:
            file = TRY(open_fifo(task, path, flags));
            break;
        default:
            if ((flags & O_TRUNC) && !created && S_ISREG(type)) {
                AttributeChange change;
                change.size = 0;
                TRY(inode.change(change));
                drop_privileged_bits(task, inode);
                notify_dentry(*path.dentry, IN_MODIFY);
            }
            file = TRY(inode.open(task, path, flags));
            if (file->writable()) file->set_write_hold(std::move(hold));
    }
    notify_file(*file, IN_OPEN);
    return file;
}

SysResult<Ref<File>> open_unnamed(Task& task, const Path& directory, int flags, uint32_t mode) {
    Inode& inode = directory.inode();
    if (!S_ISDIR(inode.mode())) return Errno(ENOTDIR);
    if ((flags & O_ACCMODE) == O_RDONLY) return Errno(EINVAL);
    TRY(check_writable_mount(directory));
    TRY(check_permission(task, inode, kMayWrite | kMayExec));
    NewInode properties = new_inode(task, inode, S_IFREG | (mode & 07777));
    Ref<Inode> fresh = TRY(inode.create_unnamed(properties));
    struct stat info;
    TRY(fresh->stat(info));
    Ref<Dentry> dentry = Dentry::create_disconnected(fresh, "/#" + std::to_string(info.st_ino));
    Path path(directory.mount, dentry);
    Ref<File> file = TRY(fresh->open(task, path, flags & ~(O_TMPFILE | O_CREAT | O_TRUNC)));
    file->set_write_hold(WriteHold::to_write(*fresh));
    return file;
}

// Makes the file without looking for it first. Null: it is there already, or not to be made, and to be looked up.
SysResult<Ref<File>> create_unseen(Task& task, const Path& parent, std::string_view name, int flags, uint32_t mode) {
    std::unique_lock lock(parent.dentry->directory_mutex());
    Ref<Dentry> child = unseen_name(task, parent, name);
    if (!child) return Ref<File>();
    Inode& directory = parent.inode();
    auto fresh = directory.create(name, new_inode(task, directory, S_IFREG | (mode & 07777)));
    if (!fresh.ok()) {
        child->forget();
        if (fresh.error() == Errno(EEXIST) && (flags & O_EXCL)) return Errno(EEXIST);
        return Ref<File>();
    }
    child->set_inode_locked(fresh.take_value());
    lock.unlock();
    notify_name(directory, name, IN_CREATE);
    return open_checked(task, Path(parent.mount, child), flags & ~O_CREAT, true);
}

SysResult<Ref<File>> open_or_create(Task& task, int dirfd, std::string_view text, int flags, uint32_t mode,
                                    const WalkOptions& options) {
    Walker walker(task, options);
    TRY(walker.start(dirfd, text));
    while (true) {
        TRY(walker.to_last());
        if (walker.last() != ParentWalk::Last::kName) {
            if (walker.jumped()) return open_checked(task, walker.at(), flags & ~O_CREAT, false);
            if (flags & O_EXCL) return Errno(EEXIST);
            return Errno(EISDIR);
        }
        Path& parent = walker.at();
        if (walker.trailing_slash()) return Errno(EISDIR);
        Inode& directory = parent.inode();
        if (directory.finds_out_itself()) {
            auto made = create_unseen(task, parent, walker.name(), flags, mode);
            if (!made.ok()) return made.error();
            if (*made) return made.take_value();
        }
        directory.prefetch(walker.name(), true);
        Ref<Dentry> child = TRY(parent.dentry->child(walker.name()));
        if (child->negative()) {
            std::unique_lock lock(parent.dentry->directory_mutex());
            child = TRY(parent.dentry->child_locked(walker.name()));
            if (child->negative()) {
                TRY(may_create(task, parent));
                NewInode properties = new_inode(task, directory, S_IFREG | (mode & 07777));
                auto fresh = directory.create(walker.name(), properties);
                if (!fresh.ok()) {
                    if (fresh.error() == Errno(EEXIST) && directory.file_system().names_can_change() &&
                        !(flags & O_EXCL)) {
                        child->forget();
                        continue;
                    }
                    return fresh.error();
                }
                child->set_inode_locked(fresh.take_value());
                lock.unlock();
                notify_name(directory, walker.name(), IN_CREATE);
                return open_checked(task, Path(parent.mount, child), flags & ~O_CREAT, true);
            }
        }
        if (flags & O_EXCL) return Errno(EEXIST);
        Path found = TRY(walker.enter(std::move(child)));
        Inode* inode = found.dentry->inode_or_null();
        if (inode == nullptr) return Errno(ENOENT);
        if (S_ISLNK(inode->mode())) {
            if (flags & O_NOFOLLOW) return Errno(ELOOP);
            TRY(walker.follow(found));
            continue;
        }
        if (laid_by_a_stranger(task, *inode, directory)) return Errno(EACCES);
        return open_checked(task, found, flags, false);
    }
}

}  // namespace

SysResult<Ref<File>> open_path(Task& task, const Path& path, int flags) {
    return open_checked(task, path, flags & ~O_CREAT, false);
}

SysResult<Ref<File>> open(Task& task, int dirfd, std::string_view path, int flags, uint32_t mode, uint64_t resolve) {
    if (flags & O_PATH) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    WalkOptions options;
    options.resolve = resolve;
    options.will_open = true;
    if ((flags & O_TMPFILE) == O_TMPFILE) {
        options.directory = true;
        Path directory = TRY(walk(task, dirfd, path, options));
        return open_unnamed(task, directory, flags, mode);
    }
    if ((flags & O_CREAT) && (flags & O_DIRECTORY)) return Errno(EINVAL);
    if (flags & O_CREAT) return open_or_create(task, dirfd, path, flags, mode, options);
    options.follow_last = !(flags & O_NOFOLLOW);
    Path found = TRY(walk(task, dirfd, path, options));
    return open_checked(task, found, flags, false);
}

SysResult<Ref<File>> open_executable(Task& task, int dirfd, std::string_view path, int at_flags) {
    WalkOptions options;
    options.follow_last = !(at_flags & AT_SYMLINK_NOFOLLOW);
    options.empty_path = at_flags & AT_EMPTY_PATH;
    options.will_open = true;
    Path found = TRY(walk(task, dirfd, path, options));
    Inode& inode = found.inode();
    if (S_ISLNK(inode.mode())) return Errno(ELOOP);
    if (!S_ISREG(inode.mode())) return Errno(EACCES);
    if (found.mount && (found.mount->flags() & MS_NOEXEC)) return Errno(EACCES);  // a memfd has no mount
    TRY(check_permission(task, inode, kMayExec));
    WriteHold hold = WriteHold::to_execute(inode);
    if (!hold) return Errno(ETXTBSY);
    // The kernel reads it, whatever the caller may.
    Ref<File> file = TRY(inode.open(task, found, O_RDONLY));
    file->set_write_hold(std::move(hold));
    return file;
}

}  // namespace casemate::sentry
