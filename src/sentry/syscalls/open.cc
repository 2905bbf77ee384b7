// open, openat, openat2, creat, close, close_range, name_to_handle_at's refusal.
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/openat2.h>
#include <sys/resource.h>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/file_tables.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

constexpr int kKnownFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC |
                            O_DSYNC | O_ASYNC | O_DIRECT | 0100000 /* O_LARGEFILE */ | O_DIRECTORY | O_NOFOLLOW |
                            O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;

SysResult<int64_t> do_open(Task& task, int dirfd, GuestAddr path, int flags, uint32_t mode, uint64_t resolve = 0) {
    std::string text = TRY(task.read_path(path));
    Ref<File> file = TRY(open(task, dirfd, text, flags, mode, resolve));
    int fd = TRY(task.files().insert(std::move(file), flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
    return static_cast<int64_t>(fd);
}

// open and openat ignore what they do not know and modes of files that they do not create.
SysResult<int64_t> sys_open(Task& task, const SyscallArgs& args) {
    return do_open(task, AT_FDCWD, args.u64(0), args.i32(1) & kKnownFlags, args.u32(2) & 07777);
}

SysResult<int64_t> sys_openat(Task& task, const SyscallArgs& args) {
    return do_open(task, args.fd(0), args.u64(1), args.i32(2) & kKnownFlags, args.u32(3) & 07777);
}

SysResult<int64_t> sys_creat(Task& task, const SyscallArgs& args) {
    return do_open(task, AT_FDCWD, args.u64(0), O_CREAT | O_WRONLY | O_TRUNC, args.u32(1) & 07777);
}

SysResult<int64_t> sys_openat2(Task& task, const SyscallArgs& args) {
    struct open_how how {};
    uint64_t size = args.u64(3);
    if (size < sizeof(how)) return Errno(EINVAL);
    if (size > 4096) return Errno(E2BIG);
    TRY(task.memory().copy_in(args.u64(2), &how, sizeof(how)));
    if (size > sizeof(how)) {
        // A newer and longer struct is fine as long as what we do not know is zero.
        std::string rest(size - sizeof(how), '\0');
        TRY(task.memory().copy_in(args.u64(2) + sizeof(how), rest.data(), rest.size()));
        if (rest.find_first_not_of('\0') != std::string::npos) return Errno(E2BIG);
    }
    if (how.flags & ~static_cast<uint64_t>(static_cast<uint32_t>(kKnownFlags))) return Errno(EINVAL);
    constexpr uint64_t kResolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH |
                                  RESOLVE_IN_ROOT | RESOLVE_CACHED;
    if (how.resolve & ~kResolve) return Errno(EINVAL);
    if ((how.resolve & RESOLVE_BENEATH) && (how.resolve & RESOLVE_IN_ROOT)) return Errno(EINVAL);
    int flags = static_cast<int>(how.flags);
    bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
    if (creates ? (how.mode & ~uint64_t{07777}) != 0 : how.mode != 0) return Errno(EINVAL);
    if ((flags & O_PATH) && (flags & ~(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC))) return Errno(EINVAL);
    // Only asks for an answer without waiting; a caller takes EAGAIN as "try without".
    if (how.resolve & RESOLVE_CACHED) return Errno(EAGAIN);
    return do_open(task, args.fd(0), args.u64(1), flags, static_cast<uint32_t>(how.mode), how.resolve);
}

SysResult<int64_t> sys_close(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().remove(args.fd(0)));
    file->descriptor_closed(task);
    return int64_t{0};
}

SysResult<int64_t> sys_close_range(Task& task, const SyscallArgs& args) {
    uint32_t first = args.u32(0), last = args.u32(1), flags = args.u32(2);
    if (first > last || (flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC))) return Errno(EINVAL);
    if ((flags & CLOSE_RANGE_UNSHARE) && task.files().ref_count() > 1) task.set_files(task.files().clone());
    if (flags & CLOSE_RANGE_CLOEXEC) {
        task.files().mark_close_on_exec(first, last);
        return int64_t{0};
    }
    for (Ref<File>& file : task.files().remove_range(first, last)) file->descriptor_closed(task);
    return int64_t{0};
}

constexpr SyscallRow kRows[] = {
    {2, "open", sys_open, Support::kFull},
    {3, "close", sys_close, Support::kFull},
    {85, "creat", sys_creat, Support::kFull},
    {257, "openat", sys_openat, Support::kFull},
    {303, "name_to_handle_at", nullptr, Support::kNone, "file handles would outlive the sandbox's rules", EOPNOTSUPP},
    {304, "open_by_handle_at", nullptr, Support::kNone, "file handles would outlive the sandbox's rules", EPERM},
    {436, "close_range", sys_close_range, Support::kFull},
    {437, "openat2", sys_openat2, Support::kPartial, "RESOLVE_CACHED always answers EAGAIN"},
};

}  // namespace

std::span<const SyscallRow> open_syscalls() { return kRows; }

// One list of all parts, made at the first call.
std::span<const SyscallRow> file_syscalls() {
    static const std::vector<SyscallRow> rows = [] {
        std::vector<SyscallRow> all;
        for (auto part : {open_syscalls(), stat_syscalls(), name_syscalls(), attribute_syscalls(), xattr_syscalls(),
                          directory_syscalls()})
            all.insert(all.end(), part.begin(), part.end());
        return all;
    }();
    return rows;
}

}  // namespace casemate::sentry
