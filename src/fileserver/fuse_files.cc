// FuseDirectory: open files and what is done to them.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

#include "fileserver/fuse_directory.h"
#include "fileserver/host_calls.h"

namespace casemate::fileserver {

namespace {

// Of the guest's flags those that mean something to the host's file.
constexpr int kOpenFlags = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC;
constexpr uint32_t kMaxTransfer = 1 << 20;
constexpr uint64_t kMaxCopy = 64 << 20;  // in one message: a guest must not keep us busy for long

bool changes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0; }

}  // namespace

SysResult<uint32_t> FuseDirectory::open(const fuse_in_header& header, Buffer& in, Buffer& out, bool directory) {
    auto arguments = TRY(take_arguments<fuse_open_in>(in));
    int fd = TRY(node_fd(header.nodeid));
    int flags = directory ? O_RDONLY | O_DIRECTORY : static_cast<int>(arguments.flags) & kOpenFlags;
    if (changes(flags)) TRY(check_writable());
    if (out.remaining() < sizeof(fuse_open_out)) return Errno(EIO);
    if (!directory && (arguments.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0) TRY(drop_set_ids(fd));
    UniqueFd opened = TRY(reopen(fd, flags));
    if (!directory) {
        Attributes attributes = TRY(read_attributes(opened.get()));
        if ((attributes.mode & S_IFMT) == S_IFDIR) return Errno(EISDIR);
    }
    fuse_open_out reply{};
    reply.fh = TRY(add_handle(std::move(opened), header.nodeid, flags & ~O_TRUNC, directory));
    return reply_with(out, reply);
}

SysResult<uint32_t> FuseDirectory::create_file(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_create_in>(in));
    std::vector<std::string> names = TRY(take_strings(in, 1));
    TRY(check_component(names[0]));
    TRY(check_writable());
    struct Body {
        fuse_entry_out entry;
        fuse_open_out open;
    } reply{};
    if (out.remaining() < sizeof(reply)) return Errno(EIO);
    if (handles_.size() >= options_.max_handles) return Errno(ENFILE);
    int parent = TRY(node_fd(header.nodeid));
    int flags = static_cast<int>(arguments.flags) & kOpenFlags;
    // Nobody else's before it has its owner.
    bool own = as_host_root_ && header.uid == 0 && header.gid == 0;
    int fd =
        ::openat(parent, names[0].c_str(), (flags & ~O_TRUNC) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                 own ? arguments.mode & 0777 : 0600);
    UniqueFd opened(fd);
    if (fd >= 0) {
        reply.entry = TRY(enter_new(header.nodeid, names[0], header, arguments.mode));
    } else if (errno == EEXIST && (arguments.flags & O_EXCL) == 0) {
        // Somebody was faster: then it is opened, after the look at what it is.
        reply.entry = TRY(enter(parent, names[0]));
        auto node = node_fd(reply.entry.nodeid);
        if (node.ok() && (arguments.open_flags & FUSE_OPEN_KILL_SUIDGID) != 0) (void)drop_set_ids(*node);
        auto again = node.ok() ? reopen(*node, flags) : SysResult<UniqueFd>(node.error());
        if (!again.ok()) {
            forget(reply.entry.nodeid, 1);
            return again.error();
        }
        opened = std::move(*again);
    } else {
        return last_errno();
    }
    auto number = add_handle(std::move(opened), reply.entry.nodeid, flags & ~O_TRUNC, false);
    if (!number.ok()) {
        forget(reply.entry.nodeid, 1);
        return number.error();
    }
    reply.open.fh = *number;
    return reply_with(out, reply);
}

SysResult<uint32_t> FuseDirectory::read(Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_read_in>(in));
    Handle* file = TRY(handle(arguments.fh, false));
    if (arguments.offset > INT64_MAX) return Errno(EINVAL);
    parts_.clear();
    out.take(std::min(arguments.size, kMaxTransfer), parts_);
    if (parts_.empty()) return 0;
    ssize_t got = ::preadv(file->fd.get(), parts_.data(), static_cast<int>(std::min<size_t>(parts_.size(), IOV_MAX)),
                           static_cast<off_t>(arguments.offset));
    if (got < 0) return last_errno();
    return static_cast<uint32_t>(got);
}

SysResult<uint32_t> FuseDirectory::write(Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_write_in>(in));
    TRY(check_writable());
    Handle* file = TRY(handle(arguments.fh, false));
    if (arguments.size != in.remaining() || arguments.size > kMaxTransfer || arguments.offset > INT64_MAX)
        return Errno(EINVAL);
    if (out.remaining() < sizeof(fuse_write_out)) return Errno(EIO);
    if ((arguments.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0) TRY(drop_set_ids(file->fd.get()));
    parts_.clear();
    in.take(arguments.size, parts_);
    ssize_t put = 0;
    if (!parts_.empty())
        put = ::pwritev(file->fd.get(), parts_.data(), static_cast<int>(std::min<size_t>(parts_.size(), IOV_MAX)),
                        static_cast<off_t>(arguments.offset));
    if (put < 0) return last_errno();
    fuse_write_out reply{};
    reply.size = static_cast<uint32_t>(put);
    return reply_with(out, reply);
}

SysResult<uint32_t> FuseDirectory::release(Buffer& in, bool directory) {
    auto arguments = TRY(take_arguments<fuse_release_in>(in));
    auto found = handles_.find(arguments.fh);
    if (found == handles_.end() || found->second.directory != directory) return Errno(EBADF);
    handles_.erase(found);
    return 0;
}

SysResult<uint32_t> FuseDirectory::sync(Buffer& in, bool directory) {
    auto arguments = TRY(take_arguments<fuse_fsync_in>(in));
    Handle* file = TRY(handle(arguments.fh, directory));
    bool data_only = (arguments.fsync_flags & FUSE_FSYNC_FDATASYNC) != 0;
    if ((data_only ? ::fdatasync(file->fd.get()) : ::fsync(file->fd.get())) != 0) return last_errno();
    return 0;
}

SysResult<uint32_t> FuseDirectory::seek(Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_lseek_in>(in));
    Handle* file = TRY(handle(arguments.fh, false));
    if (arguments.whence > SEEK_HOLE || arguments.offset > INT64_MAX) return Errno(EINVAL);
    off_t at = ::lseek(file->fd.get(), static_cast<off_t>(arguments.offset), static_cast<int>(arguments.whence));
    if (at < 0) return last_errno();
    fuse_lseek_out reply{};
    reply.offset = static_cast<uint64_t>(at);
    return reply_with(out, reply);
}

SysResult<uint32_t> FuseDirectory::allocate(Buffer& in) {
    auto arguments = TRY(take_arguments<fuse_fallocate_in>(in));
    TRY(check_writable());
    Handle* file = TRY(handle(arguments.fh, false));
    constexpr uint32_t kModes = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    if ((arguments.mode & ~kModes) != 0) return Errno(EOPNOTSUPP);
    if (::fallocate(file->fd.get(), static_cast<int>(arguments.mode), static_cast<off_t>(arguments.offset),
                    static_cast<off_t>(arguments.length)) != 0)
        return last_errno();
    return 0;
}

SysResult<uint32_t> FuseDirectory::copy_range(Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_copy_file_range_in>(in));
    TRY(check_writable());
    Handle* from = TRY(handle(arguments.fh_in, false));
    Handle* to = TRY(handle(arguments.fh_out, false));
    off_t from_at = static_cast<off_t>(arguments.off_in), to_at = static_cast<off_t>(arguments.off_out);
    if (arguments.flags != 0 || from_at < 0 || to_at < 0) return Errno(EINVAL);
    if (out.remaining() < sizeof(fuse_write_out)) return Errno(EIO);
    ssize_t copied = ::copy_file_range(from->fd.get(), &from_at, to->fd.get(), &to_at,
                                       static_cast<size_t>(std::min(arguments.len, kMaxCopy)), 0);
    if (copied < 0) return last_errno();
    fuse_write_out reply{};
    reply.size = static_cast<uint32_t>(copied);
    return reply_with(out, reply);
}

}  // namespace casemate::fileserver
