// Descriptors: dup, fcntl, ioctl, flock.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "sentry/kernel/async_notice.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/locks.h"
#include "sentry/vfs/vfs.h"

#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027
#endif

namespace casemate::sentry {

namespace {

SysResult<int64_t> sys_dup(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    int fd = TRY(task.files().insert(std::move(file), false, task.limit(RLIMIT_NOFILE)));
    return static_cast<int64_t>(fd);
}

SysResult<int64_t> replace(Task& task, Ref<File> file, int target, bool close_on_exec) {
    Ref<File> old = TRY(task.files().replace(target, std::move(file), close_on_exec, task.limit(RLIMIT_NOFILE)));
    if (old) old->descriptor_closed(task);
    return static_cast<int64_t>(target);
}

SysResult<int64_t> sys_dup2(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    if (args.fd(0) == args.fd(1)) return static_cast<int64_t>(args.fd(1));
    return replace(task, std::move(file), args.fd(1), false);
}

SysResult<int64_t> sys_dup3(Task& task, const SyscallArgs& args) {
    if (args.i32(2) & ~O_CLOEXEC) return Errno(EINVAL);
    if (args.fd(0) == args.fd(1)) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0), true));
    return replace(task, std::move(file), args.fd(1), args.i32(2) & O_CLOEXEC);
}

// struct flock64 in bytes of the file: start and exclusive end.
SysResult<InodeLocks::Range> range_of(Task& task, File& file, const struct flock& lock) {
    int64_t base = 0;
    switch (lock.l_whence) {
        case SEEK_SET:
            break;
        case SEEK_CUR:
            base = TRY(file.seek(task, 0, SEEK_CUR));
            break;
        case SEEK_END: {
            struct stat info;
            TRY(file.stat(task, info));
            base = info.st_size;
            break;
        }
        default:
            return Errno(EINVAL);
    }
    auto start = checked_add<int64_t>(base, lock.l_start);
    if (!start) return Errno(EOVERFLOW);
    InodeLocks::Range range;
    range.start = *start;
    range.end = INT64_MAX;
    if (lock.l_len > 0) {
        auto end = checked_add<int64_t>(*start, lock.l_len);
        if (!end) return Errno(EOVERFLOW);
        range.end = *end;
    } else if (lock.l_len < 0) {
        range.end = *start;
        range.start = *start + lock.l_len;
    }
    if (range.start < 0) return Errno(EINVAL);
    range.exclusive = lock.l_type == F_WRLCK;
    return range;
}

SysResult<int64_t> do_lock(Task& task, int fd, File& file, int command, GuestAddr address) {
    auto lock = TRY(task.read(UserPtr<struct flock>(address)));
    Inode* inode = file.inode();
    if (inode == nullptr) return Errno(EINVAL);
    bool description = command == F_OFD_GETLK || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    if (description && lock.l_pid != 0) return Errno(EINVAL);
    if (lock.l_type != F_RDLCK && lock.l_type != F_WRLCK && lock.l_type != F_UNLCK) return Errno(EINVAL);
    InodeLocks::Range range = TRY(range_of(task, file, lock));
    range.kind = description ? InodeLocks::Kind::kDescription : InodeLocks::Kind::kPosix;
    range.owner = description ? static_cast<const void*>(&file) : &task.files();
    range.pid = description ? -1 : task.tgid();
    if (command == F_GETLK || command == F_OFD_GETLK) {
        if (lock.l_type == F_UNLCK) return Errno(EINVAL);
        InodeLocks* locks = inode->locks(false);
        auto held = locks != nullptr ? locks->conflict(range) : std::nullopt;
        if (!held) {
            lock.l_type = F_UNLCK;
        } else {
            lock.l_type = held->exclusive ? F_WRLCK : F_RDLCK;
            lock.l_whence = SEEK_SET;
            lock.l_start = held->start;
            lock.l_len = held->end == INT64_MAX ? 0 : held->end - held->start;
            lock.l_pid = held->pid;
        }
        TRY(task.write(UserPtr<struct flock>(address), lock));
        return int64_t{0};
    }
    if (lock.l_type == F_UNLCK) {
        if (InodeLocks* locks = inode->locks(false)) locks->clear_range(range);
        return int64_t{0};
    }
    if (lock.l_type == F_RDLCK ? !file.readable() : !file.writable()) return Errno(EBADF);
    bool wait = command == F_SETLKW || command == F_OFD_SETLKW;
    InodeLocks* locks = inode->locks(true);
    TRY(locks->set_range(task, range, wait));
    // A close by another thread meanwhile would have missed the lock.
    auto still = task.files().get(fd);
    if (!description && (!still.ok() || still->get() != &file)) {
        locks->clear_range(range);
        return Errno(EBADF);
    }
    return int64_t{0};
}

struct OwnerEx {  // struct f_owner_ex
    int32_t type;
    int32_t pid;
};

SysResult<int64_t> set_status(Task& task, File& file, int fd, int flags) {
    if ((flags & O_DIRECT) && !(file.flags() & O_DIRECT)) {
        Inode* inode = file.inode();
        if (inode != nullptr && S_ISREG(inode->mode()) && file.host_descriptor() < 0) return Errno(EINVAL);
    }
    bool changes = ((flags ^ file.flags()) & O_ASYNC) != 0;
    file.set_status_flags(flags);
    if (changes) update_async_notice(task, file, fd);
    return int64_t{0};
}

SysResult<int64_t> sys_fcntl(Task& task, const SyscallArgs& args) {
    int fd = args.fd(0), command = args.i32(1);
    uint64_t argument = args.u64(2);
    // Of O_PATH descriptors only these are asked.
    bool path_too = command == F_DUPFD || command == F_DUPFD_CLOEXEC || command == F_GETFD || command == F_SETFD ||
                    command == F_GETFL || command == F_DUPFD_QUERY;
    auto entry = TRY(task.files().get_entry(fd));
    File& file = *entry.file;
    if ((file.flags() & O_PATH) && !path_too) return Errno(EBADF);
    switch (command) {
        case F_DUPFD:
        case F_DUPFD_CLOEXEC: {
            int least = static_cast<int>(argument);
            if (least < 0 || static_cast<uint64_t>(least) >= task.limit(RLIMIT_NOFILE)) return Errno(EINVAL);
            int copy =
                TRY(task.files().insert(entry.file, command == F_DUPFD_CLOEXEC, task.limit(RLIMIT_NOFILE), least));
            return static_cast<int64_t>(copy);
        }
        case F_DUPFD_QUERY: {
            auto other = TRY(task.files().get(static_cast<int>(argument), true));
            return static_cast<int64_t>(other == entry.file);
        }
        case F_GETFD:
            return static_cast<int64_t>(entry.close_on_exec ? FD_CLOEXEC : 0);
        case F_SETFD:
            TRY(task.files().set_close_on_exec(fd, argument & FD_CLOEXEC));
            return int64_t{0};
        case F_GETFL: {
            // 64-bit programs see O_LARGEFILE on what open(2) made.
            int flags = file.flags();
            if (!(flags & O_PATH) && file.path().mount) flags |= 0100000;
            return static_cast<int64_t>(flags);
        }
        case F_SETFL:
            return set_status(task, file, fd, static_cast<int>(argument));
        case F_GETLK:
        case F_SETLK:
        case F_SETLKW:
        case F_OFD_GETLK:
        case F_OFD_SETLK:
        case F_OFD_SETLKW:
            return do_lock(task, fd, file, command, argument);
        case F_SETOWN: {
            int id = static_cast<int>(argument);
            if (id == INT32_MIN) return Errno(EINVAL);
            File::Owner owner = file.owner();
            owner.type = id < 0 ? F_OWNER_PGRP : F_OWNER_PID;
            owner.id = id < 0 ? -id : id;
            file.set_owner(owner);
            update_async_notice(task, file, fd);
            return int64_t{0};
        }
        case F_GETOWN: {
            File::Owner owner = file.owner();
            return static_cast<int64_t>(owner.type == F_OWNER_PGRP ? -owner.id : owner.id);
        }
        case F_SETOWN_EX: {
            auto given = TRY(task.read(UserPtr<OwnerEx>(argument)));
            if (given.type < F_OWNER_TID || given.type > F_OWNER_PGRP || given.pid < 0) return Errno(EINVAL);
            File::Owner owner = file.owner();
            owner.type = given.type;
            owner.id = given.pid;
            file.set_owner(owner);
            update_async_notice(task, file, fd);
            return int64_t{0};
        }
        case F_GETOWN_EX: {
            File::Owner owner = file.owner();
            TRY(task.write(UserPtr<OwnerEx>(argument), OwnerEx{owner.type, owner.id}));
            return int64_t{0};
        }
        case F_SETSIG: {
            if (argument > 64) return Errno(EINVAL);
            File::Owner owner = file.owner();
            owner.signal = static_cast<int>(argument);
            file.set_owner(owner);
            if ((file.flags() & O_ASYNC) != 0) update_async_notice(task, file, fd);
            return int64_t{0};
        }
        case F_GETSIG:
            return static_cast<int64_t>(file.owner().signal);
        case F_GETLEASE:
            return static_cast<int64_t>(F_UNLCK);
        case F_SETLEASE:
            // Nobody could be told of a lease break by the host: refused as by a file system without leases.
            return Errno(argument == F_UNLCK ? EAGAIN : EINVAL);
        case F_NOTIFY:
            return Errno(EINVAL);
        default:
            return file.control(task, command, argument);
    }
}

SysResult<int64_t> sys_ioctl(Task& task, const SyscallArgs& args) {
    int fd = args.fd(0);
    uint32_t command = args.u32(1);
    uint64_t argument = args.u64(2);
    Ref<File> file = TRY(task.files().get(fd));
    switch (command) {
        case FIOCLEX:
            TRY(task.files().set_close_on_exec(fd, true));
            return int64_t{0};
        case FIONCLEX:
            TRY(task.files().set_close_on_exec(fd, false));
            return int64_t{0};
        case FIONBIO: {
            int32_t on = TRY(task.read(UserPtr<int32_t>(argument)));
            int flags = file->flags();
            file->set_status_flags(on != 0 ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
            return int64_t{0};
        }
        case FIOASYNC: {
            int32_t on = TRY(task.read(UserPtr<int32_t>(argument)));
            int flags = file->flags();
            file->set_status_flags(on != 0 ? flags | O_ASYNC : flags & ~O_ASYNC);
            update_async_notice(task, *file, fd);
            return int64_t{0};
        }
        case FIOQSIZE: {
            struct stat info;
            TRY(file->stat(task, info));
            if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode) && !S_ISLNK(info.st_mode)) return Errno(ENOTTY);
            TRY(task.write(UserPtr<int64_t>(argument), static_cast<int64_t>(info.st_size)));
            return int64_t{0};
        }
        case FIGETBSZ: {
            struct stat info;
            TRY(file->stat(task, info));
            TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(info.st_blksize)));
            return int64_t{0};
        }
        case FICLONE:
        case FICLONERANGE:
        case FIDEDUPERANGE:
            return Errno(EOPNOTSUPP);
        default:
            return file->ioctl(task, command, argument);
    }
}

SysResult<int64_t> sys_flock(Task& task, const SyscallArgs& args) {
    int operation = args.i32(1);
    bool wait = !(operation & LOCK_NB);
    operation &= ~LOCK_NB;
    if (operation != LOCK_SH && operation != LOCK_EX && operation != LOCK_UN) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    Inode* inode = file->inode();
    if (inode == nullptr) return Errno(EBADF);
    if (operation == LOCK_UN) {
        if (InodeLocks* locks = inode->locks(false)) locks->unflock(file.get());
        return int64_t{0};
    }
    TRY(inode->locks(true)->flock(task, file.get(), operation == LOCK_EX, wait));
    return int64_t{0};
}

constexpr SyscallRow kRows[] = {
    {16, "ioctl", sys_ioctl, Support::kPartial, "what each kind of file knows"},
    {32, "dup", sys_dup, Support::kFull},
    {33, "dup2", sys_dup2, Support::kFull},
    {72, "fcntl", sys_fcntl, Support::kPartial, "no leases, no F_NOTIFY"},
    {73, "flock", sys_flock, Support::kFull},
    {292, "dup3", sys_dup3, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> descriptor_syscalls() { return kRows; }

}  // namespace casemate::sentry
