// The ends of a pipe as open files, and FIFOs: pipes that hang on an inode.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/special_files.h"

namespace casemate::sentry {

PipeFile::PipeFile(Path path, int flags, Ref<Pipe> pipe) : File(std::move(path), flags), pipe_(std::move(pipe)) {
    pipe_->open_end(readable(), writable());
}

PipeFile::~PipeFile() { pipe_->close_end(readable(), writable()); }

SysResult<size_t> PipeFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() == 0) return size_t{0};
    return task.wait_or_park(pipe_, pipe_->waiters, EPOLLIN | EPOLLHUP, std::nullopt,
                             [&]() -> std::optional<SysResult<size_t>> {
                                 auto outcome = pipe_->read(into);
                                 if (outcome.error != 0) return SysResult<size_t>(Errno(outcome.error));
                                 if (outcome.hung_up) return SysResult<size_t>(size_t{0});
                                 if (!outcome.would_block) return SysResult<size_t>(outcome.bytes);
                                 if (nonblocking()) return SysResult<size_t>(Errno(EAGAIN));
                                 return std::nullopt;
                             });
}

SysResult<size_t> PipeFile::write_all(Task& task, IoBuffer& from, bool nonblocking) {
    size_t total = 0;
    bool packet = flags() & O_DIRECT;
    if (from.remaining() == 0) return size_t{0};
    auto result =
        task.wait_on(pipe_->waiters, EPOLLOUT | EPOLLERR, std::nullopt, [&]() -> std::optional<SysResult<size_t>> {
            while (from.remaining() > 0) {
                auto outcome = pipe_->write(from, packet);
                if (outcome.hung_up) return SysResult<size_t>(Errno(EPIPE));
                if (outcome.error != 0) return SysResult<size_t>(Errno(outcome.error));
                if (outcome.would_block) {
                    if (nonblocking) return SysResult<size_t>(Errno(EAGAIN));
                    return std::nullopt;
                }
                total += outcome.bytes;
            }
            return SysResult<size_t>(total);
        });
    if (result.ok()) return result;
    if (result.error().value == EPIPE) task.send_signal(SIGPIPE);
    // What went in before the trouble counts.
    if (total > 0) return total;
    return result;
}

SysResult<size_t> PipeFile::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    return write_all(task, from, nonblocking());
}

SysResult<int64_t> PipeFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command != FIONREAD) return File::ioctl(task, command, argument);
    TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(pipe_->bytes())));
    return 0;
}

SysResult<int64_t> PipeFile::control(Task& task, int command, uint64_t argument) {
    if (command == F_GETPIPE_SZ) return static_cast<int64_t>(pipe_->capacity());
    if (command == F_SETPIPE_SZ) {
        uint64_t size = static_cast<uint32_t>(argument);
        if (size > 0x80000000u) return Errno(EINVAL);
        return static_cast<int64_t>(TRY(pipe_->set_capacity(size)));
    }
    return File::control(task, command, argument);
}

uint32_t PipeFile::poll_events(Task*) { return pipe_->poll(readable(), writable()); }

SysResult<size_t> PipeFile::peek(Task& task, std::span<std::byte> into, bool nonblocking) {
    if (!readable()) return Errno(EBADF);
    return task.wait_on(pipe_->waiters, EPOLLIN | EPOLLHUP, std::nullopt, [&]() -> std::optional<SysResult<size_t>> {
        size_t got = pipe_->peek(into);
        if (got > 0 || into.empty()) return SysResult<size_t>(got);
        if (pipe_->writers() == 0) return SysResult<size_t>(size_t{0});
        if (nonblocking || this->nonblocking()) return SysResult<size_t>(Errno(EAGAIN));
        return std::nullopt;
    });
}

SysResult<size_t> PipeFile::push(Task& task, std::span<const std::byte> from, bool nonblocking) {
    if (!writable()) return Errno(EBADF);
    // SAFETY: a pipe only reads from what is written to it.
    IoBuffer buffer = IoBuffer::kernel(const_cast<std::byte*>(from.data()), from.size());
    return write_all(task, buffer, nonblocking || this->nonblocking());
}

PipeEnds make_pipe(Kernel& kernel, const Credentials& owner, int flags) {
    auto pipe = make_ref<Pipe>();
    Path place = anonymous_place(kernel, owner, S_IFIFO | 0600, "pipe");
    place.inode().attachment() = Ref<RefCounted>(pipe);
    int status = flags & (O_NONBLOCK | O_DIRECT);
    PipeEnds ends;
    ends.reader = make_ref<PipeFile>(place, O_RDONLY | status, pipe);
    ends.writer = make_ref<PipeFile>(place, O_WRONLY | status, pipe);
    return ends;
}

SysResult<Ref<File>> open_fifo(Task& task, const Path& path, int flags) {
    Ref<Pipe> pipe;
    {
        Inode& inode = path.inode();
        std::lock_guard lock(inode.attachment_mutex());
        if (!inode.attachment()) inode.attachment() = Ref<RefCounted>(make_ref<Pipe>());
        pipe = Ref<Pipe>(static_cast<Pipe*>(inode.attachment().get()));
    }
    int mode = flags & O_ACCMODE;
    if (mode == O_WRONLY && (flags & O_NONBLOCK) && pipe->readers() == 0) return Errno(ENXIO);
    // A pipe opened again through /proc/self/fd has had both ends: nobody waits.
    bool named = path.mount && path.inode().type() == S_IFIFO &&
                 std::string_view(path.inode().file_system().type()) != "anon_inodefs";
    uint64_t seen = mode == O_RDONLY ? pipe->writer_generation() : pipe->reader_generation();
    // Asked first: who waits at the other end may be gone as soon as it sees this one.
    bool alone = mode == O_RDONLY ? pipe->writers() == 0 : pipe->readers() == 0;
    bool waits = mode != O_RDWR && (flags & O_NONBLOCK) == 0 && named && alone;
    // Who cannot wait may not be seen at its end for a moment either: the other would go on.
    if (waits && task.borrowed()) return Errno(kRestartSys);
    Ref<File> file = make_ref<PipeFile>(path, flags, pipe);
    if (!waits) return file;
    TRY(task.wait_on(pipe->waiters, ~0u, std::nullopt, [&]() -> std::optional<SysResult<void>> {
        bool met = mode == O_RDONLY ? pipe->writers() > 0 || pipe->writer_generation() != seen
                                    : pipe->readers() > 0 || pipe->reader_generation() != seen;
        if (met) return SysResult<void>();
        return std::nullopt;
    }));
    return file;
}

}  // namespace casemate::sentry
