// read, write and their vector and positioned forms; lseek; sync; allocation; advice.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <vector>

#include "base/checked.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/file_size.h"
#include "sentry/syscalls/io_tables.h"
#include "sentry/syscalls/user_iovec.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

SysResult<int64_t> count(SysResult<size_t> moved) {
    if (!moved.ok()) return moved.error();
    return static_cast<int64_t>(*moved);
}

SysResult<int64_t> sys_read(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    IoBuffer buffer = TRY(user_buffer(task, args.u64(1), args.u64(2)));
    auto result = file->read(task, buffer);
    if (Socket* socket = file->as_socket())
        task.parts().standing_answers.after_read(task, args.nr, args.fd(0), *file, *socket, result);
    return count(std::move(result));
}

SysResult<int64_t> sys_write(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EBADF);
    IoBuffer buffer = TRY(user_buffer(task, args.u64(1), args.u64(2)));
    TRY(before_write(task, *file, buffer, std::nullopt));
    return count(file->write(task, buffer));
}

SysResult<int64_t> sys_pread64(Task& task, const SyscallArgs& args) {
    if (args.i64(3) < 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    IoBuffer buffer = TRY(user_buffer(task, args.u64(1), args.u64(2)));
    return count(file->pread(task, buffer, args.i64(3)));
}

SysResult<int64_t> sys_pwrite64(Task& task, const SyscallArgs& args) {
    if (args.i64(3) < 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EBADF);
    if (!file->seekable()) return Errno(ESPIPE);
    IoBuffer buffer = TRY(user_buffer(task, args.u64(1), args.u64(2)));
    TRY(before_write(task, *file, buffer, args.i64(3)));
    return count(file->pwrite(task, buffer, args.i64(3)));
}

SysResult<int64_t> sys_readv(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    UserIovec pieces = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    IoBuffer buffer = pieces.buffer(task);
    return count(file->read(task, buffer));
}

SysResult<int64_t> sys_writev(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EBADF);
    UserIovec pieces = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    IoBuffer buffer = pieces.buffer(task);
    TRY(before_write(task, *file, buffer, std::nullopt));
    return count(file->write(task, buffer));
}

constexpr int kKnownRwf = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

SysResult<int64_t> do_preadv(Task& task, const SyscallArgs& args, int flags) {
    if (flags & ~kKnownRwf) return Errno(EOPNOTSUPP);
    int64_t offset = args.i64(3);
    bool positioned = !(flags >= 0 && offset == -1 && args.nr == 327);
    if (positioned && offset < 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    // Only files that are always ready promise not to wait.
    if ((flags & RWF_NOWAIT) && file->waiters() != nullptr) return Errno(EOPNOTSUPP);
    if (flags & RWF_APPEND) return Errno(EOPNOTSUPP);
    UserIovec pieces = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    IoBuffer buffer = pieces.buffer(task);
    return count(positioned ? file->pread(task, buffer, offset) : file->read(task, buffer));
}

SysResult<int64_t> do_pwritev(Task& task, const SyscallArgs& args, int flags) {
    if (flags & ~kKnownRwf) return Errno(EOPNOTSUPP);
    int64_t offset = args.i64(3);
    bool positioned = !(offset == -1 && args.nr == 328);
    if (positioned && offset < 0) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EBADF);
    if (positioned && !file->seekable()) return Errno(ESPIPE);
    if ((flags & RWF_NOWAIT) && file->waiters() != nullptr) return Errno(EOPNOTSUPP);
    UserIovec pieces = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    IoBuffer buffer = pieces.buffer(task);
    TRY(before_write(task, *file, buffer, positioned ? std::optional(offset) : std::nullopt));
    bool append = flags & RWF_APPEND;
    size_t moved = TRY(positioned ? file->pwrite(task, buffer, offset, append) : file->write(task, buffer, append));
    if ((flags & (RWF_DSYNC | RWF_SYNC)) && moved != 0) TRY(file->sync(task, !(flags & RWF_SYNC)));
    return static_cast<int64_t>(moved);
}

SysResult<int64_t> sys_preadv(Task& task, const SyscallArgs& args) { return do_preadv(task, args, 0); }
SysResult<int64_t> sys_pwritev(Task& task, const SyscallArgs& args) { return do_pwritev(task, args, 0); }
SysResult<int64_t> sys_preadv2(Task& task, const SyscallArgs& args) { return do_preadv(task, args, args.i32(5)); }
SysResult<int64_t> sys_pwritev2(Task& task, const SyscallArgs& args) { return do_pwritev(task, args, args.i32(5)); }

SysResult<int64_t> sys_lseek(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (args.i32(2) != SEEK_END || args.i64(1) != 0) return file->seek(task, args.i64(1), args.i32(2));
    StandingAnswers& standing = task.parts().standing_answers;
    standing.begin_seek();
    const int64_t end = TRY(file->seek(task, 0, SEEK_END));
    standing.after_seek(task, args.fd(0), *file, end);
    return end;
}

SysResult<int64_t> do_sync_file(Task& task, int fd, bool data_only) {
    Ref<File> file = TRY(task.files().get(fd));
    TRY(file->sync(task, data_only));
    return int64_t{0};
}
SysResult<int64_t> sys_fsync(Task& task, const SyscallArgs& args) { return do_sync_file(task, args.fd(0), false); }
SysResult<int64_t> sys_fdatasync(Task& task, const SyscallArgs& args) { return do_sync_file(task, args.fd(0), true); }

SysResult<int64_t> sys_sync(Task& task, const SyscallArgs&) {
    Path root = task.fs().root();
    Ref<MountNamespace> mounts = root.mount->mount_namespace();
    if (!mounts) return int64_t{0};
    std::vector<FileSystem*> done;
    for (auto& entry : mounts->snapshot()) {
        FileSystem* file_system = &entry.mount->file_system();
        if (std::find(done.begin(), done.end(), file_system) != done.end()) continue;
        done.push_back(file_system);
        (void)file_system->sync();
    }
    return int64_t{0};
}

SysResult<int64_t> sys_syncfs(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (Inode* inode = file->inode()) TRY(inode->file_system().sync());
    return int64_t{0};
}

SysResult<int64_t> sys_sync_file_range(Task& task, const SyscallArgs& args) {
    int64_t offset = args.i64(1), size = args.i64(2);
    uint32_t flags = args.u32(3);
    if (flags & ~7u) return Errno(EINVAL);
    if (offset < 0 || size < 0 || !checked_add(offset, size)) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->seekable()) return Errno(ESPIPE);
    // Writing out early is a hint; waiting for it is a promise that only a sync keeps.
    if (flags & (1 | 4)) TRY(file->sync(task, true));
    return int64_t{0};
}

SysResult<int64_t> sys_fallocate(Task& task, const SyscallArgs& args) {
    int mode = args.i32(1);
    int64_t offset = args.i64(2), size = args.i64(3);
    if (offset < 0 || size <= 0) return Errno(EINVAL);
    constexpr int kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE |
                           FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
    if (mode & ~kKnown) return Errno(EOPNOTSUPP);
    if ((mode & FALLOC_FL_PUNCH_HOLE) && !(mode & FALLOC_FL_KEEP_SIZE)) return Errno(EOPNOTSUPP);
    if ((mode & FALLOC_FL_PUNCH_HOLE) && (mode & FALLOC_FL_ZERO_RANGE)) return Errno(EOPNOTSUPP);
    auto end = checked_add(offset, size);
    if (!end) return Errno(EFBIG);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->writable()) return Errno(EBADF);
    if (!file->seekable()) return Errno(ESPIPE);
    if (Inode* inode = file->inode()) {
        if (S_ISDIR(inode->mode())) return Errno(EISDIR);
        if (!S_ISREG(inode->mode())) return Errno(ENODEV);
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE)) TRY(check_file_size(task, *end));
    TRY(file->allocate(task, mode, offset, size));
    if (Inode* inode = file->inode()) drop_privileged_bits(task, *inode);
    return int64_t{0};
}

// Hints about a page cache that is the host's: checked, then left to it.
SysResult<int64_t> sys_fadvise64(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->seekable()) return Errno(ESPIPE);
    if (args.i64(2) < 0 || args.i32(3) < POSIX_FADV_NORMAL || args.i32(3) > POSIX_FADV_NOREUSE) return Errno(EINVAL);
    return int64_t{0};
}
SysResult<int64_t> sys_readahead(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if (!file->readable()) return Errno(EBADF);
    Inode* inode = file->inode();
    if (inode == nullptr || !S_ISREG(inode->mode())) return Errno(EINVAL);
    return int64_t{0};
}

constexpr SyscallRow kRows[] = {
    {0, "read", sys_read, Support::kFull},
    {1, "write", sys_write, Support::kFull},
    {8, "lseek", sys_lseek, Support::kFull},
    {17, "pread64", sys_pread64, Support::kFull},
    {18, "pwrite64", sys_pwrite64, Support::kFull},
    {19, "readv", sys_readv, Support::kFull},
    {20, "writev", sys_writev, Support::kFull},
    {74, "fsync", sys_fsync, Support::kFull},
    {75, "fdatasync", sys_fdatasync, Support::kFull},
    {162, "sync", sys_sync, Support::kFull},
    {187, "readahead", sys_readahead, Support::kPartial, "checked; the host reads ahead as it likes"},
    {221, "fadvise64", sys_fadvise64, Support::kPartial, "checked; the host caches as it likes"},
    {277, "sync_file_range", sys_sync_file_range, Support::kPartial, "waits for all of the file's data"},
    {285, "fallocate", sys_fallocate, Support::kFull},
    {295, "preadv", sys_preadv, Support::kFull},
    {296, "pwritev", sys_pwritev, Support::kFull},
    {306, "syncfs", sys_syncfs, Support::kFull},
    {327, "preadv2", sys_preadv2, Support::kPartial, "RWF_NOWAIT on regular files only"},
    {328, "pwritev2", sys_pwritev2, Support::kPartial, "RWF_NOWAIT on regular files only"},
};

}  // namespace

SysResult<void> before_write(Task& task, File& file, IoBuffer& from, std::optional<int64_t> offset) {
    Inode* inode = file.inode();
    if (inode == nullptr) return {};
    uint32_t mode = inode->mode();
    if (!S_ISREG(mode)) return {};
    if (mode & (S_ISUID | S_ISGID)) drop_privileged_bits(task, *inode);
    uint64_t limit = task.limit(RLIMIT_FSIZE);
    if (limit == RLIM_INFINITY) [[likely]]
        return {};
    int64_t at = offset ? *offset : TRY(file.seek(task, 0, SEEK_CUR));
    if (file.flags() & O_APPEND) {
        struct stat info;
        TRY(file.stat(task, info));
        at = info.st_size;
    }
    if (from.remaining() == 0) return {};
    if (static_cast<uint64_t>(at) >= limit) return check_file_size(task, INT64_MAX);
    from.limit(limit - static_cast<uint64_t>(at));
    return {};
}

std::span<const SyscallRow> read_write_syscalls() { return kRows; }

std::span<const SyscallRow> io_syscalls() {
    static const std::vector<SyscallRow> rows = [] {
        std::vector<SyscallRow> all;
        for (auto part : {read_write_syscalls(), transfer_syscalls(), aio_syscalls()})
            all.insert(all.end(), part.begin(), part.end());
        return all;
    }();
    return rows;
}

}  // namespace casemate::sentry
