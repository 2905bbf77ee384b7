// inotify_*: arguments to InotifyFile. fanotify is not there: it would show one container's files to another.
#include <fcntl.h>
#include <sys/resource.h>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/fs/event/inotify.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/event.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

static_assert(IN_CLOEXEC == O_CLOEXEC && IN_NONBLOCK == O_NONBLOCK);

constexpr uint32_t kKnownBits = IN_ALL_EVENTS | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED | IN_ONLYDIR | IN_DONT_FOLLOW |
                                IN_EXCL_UNLINK | IN_MASK_ADD | IN_MASK_CREATE | IN_ISDIR | IN_ONESHOT;

SysResult<int64_t> do_init(Task& task, int flags) {
    if (flags & ~(IN_CLOEXEC | IN_NONBLOCK)) return Errno(EINVAL);
    Path place = anonymous_place(task.kernel(), task.credentials(), 0600, "anon_inode:inotify");
    Ref<File> file = TRY(InotifyFile::create(std::move(place), O_RDONLY | (flags & O_NONBLOCK)));
    return TRY(task.files().insert(std::move(file), flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
}
SysResult<int64_t> sys_inotify_init(Task& task, const SyscallArgs&) { return do_init(task, 0); }
SysResult<int64_t> sys_inotify_init1(Task& task, const SyscallArgs& args) { return do_init(task, args.i32(0)); }

SysResult<int64_t> sys_inotify_add_watch(Task& task, const SyscallArgs& args) {
    uint32_t mask = args.u32(2);
    if ((mask & ~kKnownBits) || !(mask & kKnownBits)) return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    if ((mask & IN_MASK_ADD) && (mask & IN_MASK_CREATE)) return Errno(EINVAL);
    InotifyFile* inotify = file->as_inotify();
    if (inotify == nullptr) return Errno(EINVAL);
    std::string text = TRY(task.read_path(args.u64(1)));
    WalkOptions options;
    options.follow_last = !(mask & IN_DONT_FOLLOW);
    options.directory = mask & IN_ONLYDIR;
    Path path = TRY(walk(task, AT_FDCWD, text, options));
    TRY(check_permission(task, path.inode(), kMayRead));
    return TRY(inotify->add_watch(path.inode(), mask));
}

SysResult<int64_t> sys_inotify_rm_watch(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    InotifyFile* inotify = file->as_inotify();
    if (inotify == nullptr) return Errno(EINVAL);
    TRY(inotify->remove_watch(args.i32(1)));
    return 0;
}

constexpr SyscallRow kRows[] = {
    {253, "inotify_init", sys_inotify_init, Support::kFull},
    {254, "inotify_add_watch", sys_inotify_add_watch, Support::kFull},
    {255, "inotify_rm_watch", sys_inotify_rm_watch, Support::kFull},
    {294, "inotify_init1", sys_inotify_init1, Support::kFull},
    {300, "fanotify_init", nullptr, Support::kNone, "fanotify sees more than its own container", ENOSYS},
    {301, "fanotify_mark", nullptr, Support::kNone, "fanotify sees more than its own container", ENOSYS},
};

}  // namespace

std::span<const SyscallRow> inotify_syscalls() { return kRows; }

}  // namespace casemate::sentry
