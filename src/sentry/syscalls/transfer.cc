// Moving bytes between two files: sendfile, splice, tee, vmsplice, copy_file_range.
//
// Data goes through a buffer of the sentry's, but for host file to host file, which the host copies by itself. A pipe
// is read by looking first and taking what the other side took, so nothing is lost.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "base/checked.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/io_tables.h"
#include "sentry/syscalls/user_iovec.h"
#include "sentry/vfs/splice.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

constexpr size_t kChunk = 64 * 1024;

// An offset argument: where it is in application memory, and its value; or the file's own position.
struct Offset {
    GuestAddr address = 0;
    std::optional<int64_t> value;
};

SysResult<Offset> read_offset(Task& task, GuestAddr address) {
    Offset offset;
    offset.address = address;
    if (address == 0) return offset;
    offset.value = TRY(task.read(UserPtr<int64_t>(address)));
    if (*offset.value < 0) return Errno(EINVAL);
    return offset;
}

SysResult<void> write_offset(Task& task, const Offset& offset) {
    if (offset.address == 0) return {};
    return task.write(UserPtr<int64_t>(offset.address), *offset.value);
}

SysResult<size_t> read_some(Task& task, File& file, Offset& offset, std::byte* into, size_t size) {
    IoBuffer buffer = IoBuffer::kernel(into, size);
    return offset.value ? file.pread(task, buffer, *offset.value) : file.read(task, buffer);
}

SysResult<size_t> write_some(Task& task, File& file, Offset& offset, const std::byte* from, size_t size) {
    IoBuffer buffer = IoBuffer::kernel(const_cast<std::byte*>(from), size);
    if (!offset.value) return file.write(task, buffer);
    size_t n = TRY(file.pwrite(task, buffer, *offset.value));
    *offset.value += static_cast<int64_t>(n);
    return n;
}

// From a file with a position (or at an offset) to any file.
SysResult<int64_t> copy_through(Task& task, File& in, Offset& from, File& out, Offset& to, size_t size) {
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(std::min(size, kChunk));
    size_t total = 0;
    std::optional<Errno> failed;
    while (total < size) {
        auto got = read_some(task, in, from, buffer.get(), std::min(kChunk, size - total));
        if (!got.ok()) {
            failed = got.error();
            break;
        }
        if (*got == 0) break;
        size_t written = 0;
        while (written < *got) {
            auto put = write_some(task, out, to, buffer.get() + written, *got - written);
            if (!put.ok()) {
                failed = put.error();
                break;
            }
            if (*put == 0) break;
            written += *put;
        }
        if (from.value)
            *from.value += static_cast<int64_t>(written);
        else if (written < *got)
            (void)in.seek(task, static_cast<int64_t>(written) - static_cast<int64_t>(*got), SEEK_CUR);
        total += written;
        if (written < *got || failed) break;
    }
    if (total == 0 && failed) return *failed;
    return static_cast<int64_t>(total);
}

SysResult<int64_t> sys_sendfile(Task& task, const SyscallArgs& args) {
    Ref<File> out = TRY(task.files().get(args.fd(0)));
    Ref<File> in = TRY(task.files().get(args.fd(1)));
    if (!in->readable() || !out->writable()) return Errno(EBADF);
    Offset from = TRY(read_offset(task, args.u64(2)));
    if (!in->seekable()) return Errno(from.value ? ESPIPE : EINVAL);
    Inode* inode = in->inode();
    if (inode != nullptr && S_ISDIR(inode->mode())) return Errno(EINVAL);
    if (out->flags() & O_APPEND) return Errno(EINVAL);
    size_t size = std::min<size_t>(args.u64(3), kMaxIoSize);
    Offset none;
    int64_t n = TRY(copy_through(task, *in, from, *out, none, size));
    TRY(write_offset(task, from));
    return n;
}

SysResult<int64_t> sys_copy_file_range(Task& task, const SyscallArgs& args) {
    if (args.u32(5) != 0) return Errno(EINVAL);
    Ref<File> in = TRY(task.files().get(args.fd(0)));
    Ref<File> out = TRY(task.files().get(args.fd(2)));
    Offset from = TRY(read_offset(task, args.u64(1)));
    Offset to = TRY(read_offset(task, args.u64(3)));
    Inode* source = in->inode();
    Inode* target = out->inode();
    if (source == nullptr || target == nullptr) return Errno(EINVAL);
    if (S_ISDIR(source->mode()) || S_ISDIR(target->mode())) return Errno(EISDIR);
    if (!S_ISREG(source->mode()) || !S_ISREG(target->mode())) return Errno(EINVAL);
    if (!in->readable() || !out->writable() || (out->flags() & O_APPEND)) return Errno(EBADF);
    size_t size = std::min<size_t>(args.u64(4), kMaxIoSize);
    int64_t start = from.value ? *from.value : TRY(in->seek(task, 0, SEEK_CUR));
    int64_t into = to.value ? *to.value : TRY(out->seek(task, 0, SEEK_CUR));
    if (!checked_add<int64_t>(start, static_cast<int64_t>(size)) ||
        !checked_add<int64_t>(into, static_cast<int64_t>(size)))
        return Errno(EOVERFLOW);
    if (source == target && start < into + static_cast<int64_t>(size) && into < start + static_cast<int64_t>(size))
        return Errno(EINVAL);
    if (size == 0) return int64_t{0};
    int host_in = in->host_descriptor(), host_out = out->host_descriptor();
    if (host_in >= 0 && host_out >= 0 && task.limit(RLIMIT_FSIZE) == RLIM_INFINITY) {
        loff_t host_from = start, host_to = into;
        ssize_t n = ::copy_file_range(host_in, &host_from, host_out, &host_to, size, 0);
        if (n >= 0) {
            if (from.value)
                *from.value += n;
            else
                (void)in->seek(task, n, SEEK_CUR);
            if (to.value)
                *to.value += n;
            else
                (void)out->seek(task, n, SEEK_CUR);
            TRY(write_offset(task, from));
            TRY(write_offset(task, to));
            return static_cast<int64_t>(n);
        }
        if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS) return last_errno();
    }
    int64_t n = TRY(copy_through(task, *in, from, *out, to, size));
    TRY(write_offset(task, from));
    TRY(write_offset(task, to));
    return n;
}

// From a pipe to any file: looks, writes, takes what was written.
SysResult<int64_t> drain_pipe(Task& task, PipeAccess& pipe, File& out, Offset& to, size_t size, bool nonblocking) {
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(std::min(size, kChunk));
    size_t total = 0;
    while (total < size) {
        auto got = pipe.peek(task, std::span(buffer.get(), std::min(kChunk, size - total)), nonblocking || total > 0);
        if (!got.ok()) {
            if (total > 0) break;
            return got.error();
        }
        if (*got == 0) break;
        auto put = write_some(task, out, to, buffer.get(), *got);
        if (!put.ok()) {
            if (total > 0) break;
            return put.error();
        }
        pipe.consume(*put);
        total += *put;
        if (*put < *got) break;
    }
    return static_cast<int64_t>(total);
}

SysResult<int64_t> fill_pipe(Task& task, File& in, Offset& from, PipeAccess& pipe, size_t size, bool nonblocking) {
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(std::min(size, kChunk));
    size_t total = 0;
    while (total < size) {
        if (total > 0 && in.waiters() != nullptr) break;  // only files that are always ready are read again
        size_t want = std::min(kChunk, size - total);
        auto got = read_some(task, in, from, buffer.get(), want);
        if (!got.ok()) {
            if (total > 0) break;
            return got.error();
        }
        if (*got == 0) break;
        auto put = pipe.push(task, std::span<const std::byte>(buffer.get(), *got), nonblocking || total > 0);
        size_t moved = put.ok() ? *put : 0;
        if (from.value)
            *from.value += static_cast<int64_t>(moved);
        else if (moved < *got && in.seekable())
            (void)in.seek(task, static_cast<int64_t>(moved) - static_cast<int64_t>(*got), SEEK_CUR);
        else if (moved < *got && in.waiters() != nullptr && moved > 0) {
            // The rest came from a stream and cannot go back: wait for room.
            while (moved < *got) {
                auto more = pipe.push(task, std::span<const std::byte>(buffer.get() + moved, *got - moved), false);
                if (!more.ok()) break;
                moved += *more;
            }
        }
        if (!put.ok()) {
            if (total > 0) break;
            return put.error();
        }
        total += moved;
        if (moved < *got) break;
    }
    return static_cast<int64_t>(total);
}

SysResult<int64_t> sys_splice(Task& task, const SyscallArgs& args) {
    size_t size = std::min<size_t>(args.u64(4), kMaxIoSize);
    uint32_t flags = args.u32(5);
    if (flags & ~static_cast<uint32_t>(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT))
        return Errno(EINVAL);
    if (size == 0) return int64_t{0};
    Ref<File> in = TRY(task.files().get(args.fd(0)));
    Ref<File> out = TRY(task.files().get(args.fd(2)));
    if (!in->readable() || !out->writable()) return Errno(EBADF);
    PipeAccess* from_pipe = in->pipe_access();
    PipeAccess* to_pipe = out->pipe_access();
    if (from_pipe == nullptr && to_pipe == nullptr) return Errno(EINVAL);
    if (from_pipe != nullptr && args.u64(1) != 0) return Errno(ESPIPE);
    if (to_pipe != nullptr && args.u64(3) != 0) return Errno(ESPIPE);
    bool nonblocking = flags & SPLICE_F_NONBLOCK;
    if (from_pipe != nullptr) {
        if (to_pipe != nullptr && from_pipe->pipe() == to_pipe->pipe()) return Errno(EINVAL);
        if (to_pipe == nullptr && (out->flags() & O_APPEND)) return Errno(EINVAL);
        Offset to = TRY(read_offset(task, args.u64(3)));
        if (to.value && !out->seekable()) return Errno(ESPIPE);
        int64_t n = TRY(drain_pipe(task, *from_pipe, *out, to, size, nonblocking || in->nonblocking()));
        TRY(write_offset(task, to));
        return n;
    }
    Offset from = TRY(read_offset(task, args.u64(1)));
    if (from.value && !in->seekable()) return Errno(ESPIPE);
    int64_t n = TRY(fill_pipe(task, *in, from, *to_pipe, size, nonblocking || out->nonblocking()));
    TRY(write_offset(task, from));
    return n;
}

SysResult<int64_t> sys_tee(Task& task, const SyscallArgs& args) {
    size_t size = std::min<size_t>(args.u64(2), kChunk);
    uint32_t flags = args.u32(3);
    if (flags & ~static_cast<uint32_t>(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT))
        return Errno(EINVAL);
    if (size == 0) return int64_t{0};
    Ref<File> in = TRY(task.files().get(args.fd(0)));
    Ref<File> out = TRY(task.files().get(args.fd(1)));
    if (!in->readable() || !out->writable()) return Errno(EBADF);
    PipeAccess* from = in->pipe_access();
    PipeAccess* to = out->pipe_access();
    if (from == nullptr || to == nullptr || from->pipe() == to->pipe()) return Errno(EINVAL);
    bool nonblocking = flags & SPLICE_F_NONBLOCK;
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(size);
    size_t got = TRY(from->peek(task, std::span(buffer.get(), size), nonblocking || in->nonblocking()));
    if (got == 0) return int64_t{0};
    size_t put = TRY(to->push(task, std::span<const std::byte>(buffer.get(), got), nonblocking || out->nonblocking()));
    return static_cast<int64_t>(put);
}

SysResult<int64_t> sys_vmsplice(Task& task, const SyscallArgs& args) {
    uint32_t flags = args.u32(3);
    if (flags & ~static_cast<uint32_t>(SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT))
        return Errno(EINVAL);
    Ref<File> file = TRY(task.files().get(args.fd(0)));
    PipeAccess* pipe = file->pipe_access();
    if (pipe == nullptr) return Errno(EBADF);
    UserIovec pieces = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    IoBuffer buffer = pieces.buffer(task);
    if (buffer.remaining() == 0) return int64_t{0};
    if (!file->writable()) {
        size_t n = TRY(file->read(task, buffer));
        return static_cast<int64_t>(n);
    }
    bool nonblocking = (flags & SPLICE_F_NONBLOCK) || file->nonblocking();
    auto bytes = std::make_unique_for_overwrite<std::byte[]>(std::min(buffer.remaining(), kChunk));
    size_t total = 0;
    while (buffer.remaining() > 0) {
        auto got = buffer.copy_from(bytes.get(), std::min(buffer.remaining(), kChunk));
        if (!got.ok()) {
            if (total > 0) break;
            return got.error();
        }
        auto put = pipe->push(task, std::span<const std::byte>(bytes.get(), *got), nonblocking);
        if (!put.ok()) {
            if (total > 0) break;
            return put.error();
        }
        total += *put;
        if (*put < *got) break;
    }
    return static_cast<int64_t>(total);
}

constexpr SyscallRow kRows[] = {
    {40, "sendfile", sys_sendfile, Support::kFull},
    {275, "splice", sys_splice, Support::kPartial, "copies"},
    {276, "tee", sys_tee, Support::kPartial, "copies; at most 64 KiB at once"},
    {278, "vmsplice", sys_vmsplice, Support::kPartial, "copies"},
    {326, "copy_file_range", sys_copy_file_range, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> transfer_syscalls() { return kRows; }

}  // namespace casemate::sentry
