#include "sentry/vfs/file.h"

#include <sys/epoll.h>
#include <sys/inotify.h>

#include "base/checked.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/address_space.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/events.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/locks.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

constexpr int kCreationFlags = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC;
constexpr int kStatusFlags = O_APPEND | O_NONBLOCK | O_NOATIME | O_DIRECT | O_ASYNC;

}  // namespace

File::File(Path path, int flags) : path_(std::move(path)), flags_(flags & ~(kCreationFlags | O_CLOEXEC)) {}

File::~File() {
    Inode* i = inode();
    if (i == nullptr) return;
    if (InodeLocks* locks = i->locks(false)) locks->release_description(this);
    if (!(flags() & O_PATH)) notify_file(*this, writable() ? IN_CLOSE_WRITE : IN_CLOSE_NOWRITE);
}

Inode* File::inode() const { return path_.dentry ? path_.dentry->inode_or_null() : nullptr; }

void File::set_status_flags(int flags) {
    int old = flags_.load(std::memory_order_relaxed);
    while (!flags_.compare_exchange_weak(old, (old & ~kStatusFlags) | (flags & kStatusFlags))) {
    }
    if (WaitQueue* queue = waiters()) queue->notify(kDescriptorChanged, 0);
}

File::Owner File::owner() {
    std::lock_guard lock(owner_mutex_);
    return owner_;
}
void File::set_owner(const Owner& owner) {
    std::lock_guard lock(owner_mutex_);
    owner_ = owner;
}

SysResult<size_t> File::read(Task& task, IoBuffer& into) {
    if (!readable()) return Errno(EBADF);
    if (!seekable()) return read_at(task, into, -1);
    std::lock_guard lock(position_mutex_);
    size_t n = TRY(read_at(task, into, position_));
    position_ += static_cast<int64_t>(n);
    if (n != 0) notify_file(*this, IN_ACCESS);
    return n;
}

SysResult<size_t> File::write(Task& task, IoBuffer& from, bool append) {
    if (!writable()) return Errno(EBADF);
    int64_t none = -1;
    if (!seekable()) return write_at(task, from, none, false);
    std::lock_guard lock(position_mutex_);
    int64_t before = position_, offset = before;
    append = append || (flags() & O_APPEND);
    size_t n = TRY(write_at(task, from, offset, append));
    position_ = append ? offset : before + static_cast<int64_t>(n);
    if (n != 0) notify_file(*this, IN_MODIFY);
    return n;
}

SysResult<size_t> File::pread(Task& task, IoBuffer& into, int64_t offset) {
    if (!readable()) return Errno(EBADF);
    if (!seekable()) return Errno(ESPIPE);
    if (offset < 0) return Errno(EINVAL);
    size_t n = TRY(read_at(task, into, offset));
    if (n != 0) notify_file(*this, IN_ACCESS);
    return n;
}

SysResult<size_t> File::pwrite(Task& task, IoBuffer& from, int64_t offset, bool append) {
    if (!writable()) return Errno(EBADF);
    if (!seekable()) return Errno(ESPIPE);
    if (offset < 0) return Errno(EINVAL);
    // As on Linux, O_APPEND wins over the offset of pwrite.
    size_t n = TRY(write_at(task, from, offset, append || (flags() & O_APPEND)));
    if (n != 0) notify_file(*this, IN_MODIFY);
    return n;
}

SysResult<int64_t> File::seek_within(int64_t offset, int whence, int64_t size) {
    std::lock_guard lock(position_mutex_);
    std::optional<int64_t> target;
    switch (whence) {
        case SEEK_SET:
            target = offset;
            break;
        case SEEK_CUR:
            target = checked_add<int64_t>(position_, offset);
            break;
        case SEEK_END:
            target = checked_add<int64_t>(size, offset);
            break;
        case SEEK_DATA:
            if (offset < 0 || offset >= size) return Errno(ENXIO);
            target = offset;
            break;
        case SEEK_HOLE:
            if (offset < 0 || offset >= size) return Errno(ENXIO);
            target = size;
            break;
        default:
            return Errno(EINVAL);
    }
    if (!target) return Errno(EOVERFLOW);
    if (*target < 0) return Errno(EINVAL);
    position_ = *target;
    return *target;
}

SysResult<int64_t> File::seek(Task&, int64_t offset, int whence) {
    if (flags() & O_PATH) return Errno(EBADF);
    if (!seekable()) return Errno(ESPIPE);
    return seek_within(offset, whence, 0);
}

SysResult<void> File::read_directory(Task&, const EmitEntry&) { return Errno(ENOTDIR); }
SysResult<int64_t> File::ioctl(Task&, uint64_t, uint64_t) { return Errno(ENOTTY); }
SysResult<int64_t> File::control(Task&, int command, uint64_t) {
    return Errno(command == F_GETPIPE_SZ || command == F_SETPIPE_SZ ? EBADF : EINVAL);
}

SysResult<void> File::stat(Task&, struct stat& out) {
    Inode* i = inode();
    if (i == nullptr) return Errno(EBADF);
    return i->stat(out);
}

SysResult<void> File::truncate(Task&, int64_t) { return Errno(EINVAL); }
SysResult<void> File::allocate(Task&, int, int64_t, int64_t) { return Errno(seekable() ? ENODEV : ESPIPE); }
SysResult<void> File::sync(Task&, bool) { return Errno(EINVAL); }
SysResult<void> File::prepare_map(Task&, MapRequest&) { return Errno(ENODEV); }

void File::descriptor_closed(Task& task) {
    Inode* i = inode();
    if (i == nullptr || (flags() & O_PATH)) return;
    if (InodeLocks* locks = i->locks(false)) locks->release_owner(&task.files());
}

uint32_t File::poll_events(Task*) { return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM; }

std::string File::link_name(Task& task) {
    if (!path_.dentry) return "anon_inode:[unknown]";
    // Nameless files (pipes, sockets, eventfds) are shown by their kind; they were never in the tree.
    if (!path_.mount && !S_ISREG(path_.inode().mode())) return path_.dentry->name();
    return path_text(task, path_);
}
std::string File::fdinfo(Task&) { return {}; }

SysResult<size_t> File::read_at(Task&, IoBuffer&, int64_t) { return Errno(EINVAL); }
SysResult<size_t> File::write_at(Task&, IoBuffer&, int64_t&, bool) { return Errno(EINVAL); }

}  // namespace casemate::sentry
