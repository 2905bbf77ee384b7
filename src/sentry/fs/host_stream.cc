#include "sentry/fs/host_stream.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <termios.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

namespace {

// A pipe that polls writable takes this many bytes without blocking (PIPE_BUF); terminals and sockets at least some.
constexpr size_t kSafeWrite = 4096;

}  // namespace

SysResult<std::unique_ptr<HostPoller>> HostPoller::create() {
    auto poller = std::unique_ptr<HostPoller>(new HostPoller());
    poller->epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    poller->stop_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!poller->epoll_ || !poller->stop_) return last_errno();
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = 0;
    if (::epoll_ctl(poller->epoll_.get(), EPOLL_CTL_ADD, poller->stop_.get(), &event) != 0) return last_errno();
    poller->thread_ = std::thread([self = poller.get()] { self->run(); });
    return poller;
}

HostPoller::~HostPoller() {
    uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof(one));
    if (thread_.joinable()) thread_.join();
}

void HostPoller::run() {
    epoll_event events[16];
    while (true) {
        int n = ::epoll_wait(epoll_.get(), events, 16, -1);
        if (n < 0 && errno != EINTR) return;
        for (int i = 0; i < n; ++i) {
            if (events[i].data.u64 == 0) return;
            std::lock_guard lock(mutex_);
            auto found = watches_.find(events[i].data.u64);
            if (found == watches_.end()) continue;
            Watch& watch = found->second;
            watch.armed &= ~events[i].events;
            if (events[i].events & (EPOLLHUP | EPOLLERR)) watch.armed = 0;
            if (watch.armed != 0) arm_locked(found->first, watch);
            watch.queue->notify(events[i].events);
        }
    }
}

void HostPoller::arm_locked(uint64_t id, const Watch& watch) {
    epoll_event event{};
    event.events = watch.armed | EPOLLONESHOT;
    event.data.u64 = id;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, watch.fd, &event);
}

uint64_t HostPoller::add(int fd, WaitQueue& queue) {
    std::lock_guard lock(mutex_);
    epoll_event event{};
    event.events = EPOLLONESHOT;
    event.data.u64 = ++last_id_;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return 0;
    watches_[last_id_] = Watch{fd, &queue, 0};
    return last_id_;
}

void HostPoller::watch(uint64_t id, uint32_t events) {
    std::lock_guard lock(mutex_);
    auto found = watches_.find(id);
    if (found == watches_.end()) return;
    found->second.armed |= events;
    arm_locked(id, found->second);
}

void HostPoller::remove(uint64_t id) {
    std::lock_guard lock(mutex_);
    auto found = watches_.find(id);
    if (found == watches_.end()) return;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, found->second.fd, nullptr);
    watches_.erase(found);
}

HostStream::HostStream(HostPoller& poller, UniqueFd fd, Path path, int flags, std::string name)
    : File(std::move(path), flags), poller_(poller), fd_(std::move(fd)), name_(std::move(name)) {}

SysResult<Ref<HostStream>> HostStream::create(HostPoller& poller, UniqueFd fd, Path path, int flags, std::string name) {
    struct stat info;
    if (::fstat(fd.get(), &info) != 0) return last_errno();
    auto stream =
        Ref<HostStream>::adopt(new HostStream(poller, std::move(fd), std::move(path), flags, std::move(name)));
    stream->regular_ = S_ISREG(info.st_mode) || S_ISDIR(info.st_mode) || S_ISBLK(info.st_mode);
    termios settings;
    stream->terminal_ = S_ISCHR(info.st_mode) && ::tcgetattr(stream->fd(), &settings) == 0;
    // /dev/null and its like refuse epoll: always ready.
    stream->id_ = stream->regular_ ? 0 : poller.add(stream->fd(), stream->waiters_);
    stream->pollable_ = stream->id_ != 0;
    return stream;
}

HostStream::~HostStream() {
    if (pollable_) poller_.remove(id_);
}

uint32_t HostStream::ready_now() const {
    if (!pollable_) return EPOLLIN | EPOLLOUT | EPOLLRDNORM | EPOLLWRNORM;
    pollfd one{fd(), POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
    if (::poll(&one, 1, 0) < 0) return 0;
    return static_cast<uint32_t>(one.revents);
}

uint32_t HostStream::poll_events(Task*) {
    uint32_t ready = ready_now();
    if (ready & EPOLLIN) ready |= EPOLLRDNORM;
    if (ready & EPOLLOUT) ready |= EPOLLWRNORM;
    // Whoever asks may be about to wait.
    constexpr uint32_t kWaitable = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    if (pollable_ && (kWaitable & ~ready)) poller_.watch(id_, kWaitable & ~ready);
    return ready;
}

SysResult<size_t> HostStream::read_once(IoBuffer& into) {
    iovec pieces[16];
    auto found = TRY(into.host_pieces(pieces, true));
    if (found.count > 0) {
        ssize_t n = ::preadv2(fd(), pieces, static_cast<int>(found.count), -1, 0);
        if (n < 0) {
            int error = errno;
            into.release();
            return Errno(error);
        }
        into.advance(static_cast<size_t>(n));
        return static_cast<size_t>(n);
    }
    into.release();
    if (into.remaining() == 0) return size_t{0};
    std::byte bounce[4096];
    ssize_t n = ::read(fd(), bounce, std::min(sizeof(bounce), into.remaining()));
    if (n < 0) return last_errno();
    if (n == 0) return size_t{0};
    return into.copy_to(bounce, static_cast<size_t>(n));
}

SysResult<size_t> HostStream::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() == 0) return size_t{0};
    auto attempt = [&]() -> std::optional<SysResult<size_t>> {
        uint32_t ready = ready_now();
        if (ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            auto done = read_once(into);
            if (done.ok() || (done.error() != Errno(EAGAIN) && done.error() != Errno(EINTR))) return done;
        }
        if (nonblocking()) return SysResult<size_t>(Errno(EAGAIN));
        poller_.watch(id_, EPOLLIN | EPOLLRDHUP);
        return std::nullopt;
    };
    return task.wait_on(waiters_, EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP, std::nullopt, attempt);
}

SysResult<size_t> HostStream::write_once(IoBuffer& from) {
    iovec pieces[16];
    auto found = TRY(from.host_pieces(pieces, false));
    if (found.count > 0) {
        size_t count = found.count;
        if (pollable_) {
            size_t left = kSafeWrite;
            for (size_t i = 0; i < found.count; ++i) {
                pieces[i].iov_len = std::min(pieces[i].iov_len, left);
                left -= pieces[i].iov_len;
                count = i + 1;
                if (left == 0) break;
            }
        }
        ssize_t n = ::pwritev2(fd(), pieces, static_cast<int>(count), -1, 0);
        if (n < 0) {
            int error = errno;
            from.release();
            return Errno(error);
        }
        from.advance(static_cast<size_t>(n));
        return static_cast<size_t>(n);
    }
    from.release();
    if (from.remaining() == 0) return size_t{0};
    std::byte bounce[kSafeWrite];
    size_t copied = TRY(from.copy_from(bounce, sizeof(bounce)));
    ssize_t n = ::write(fd(), bounce, copied);
    if (n < 0) return last_errno();
    return static_cast<size_t>(n);
}

SysResult<size_t> HostStream::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    size_t total = 0;
    auto attempt = [&]() -> std::optional<SysResult<size_t>> {
        while (true) {
            uint32_t ready = ready_now();
            if (!(ready & (EPOLLOUT | EPOLLERR | EPOLLHUP))) break;
            auto done = write_once(from);
            if (!done.ok()) {
                if (done.error() == Errno(EAGAIN) || done.error() == Errno(EINTR)) break;
                if (total > 0) return SysResult<size_t>(total);
                return done;
            }
            total += *done;
            if (from.remaining() == 0 || *done == 0) return SysResult<size_t>(total);
        }
        if (nonblocking()) return total > 0 ? SysResult<size_t>(total) : SysResult<size_t>(Errno(EAGAIN));
        poller_.watch(id_, EPOLLOUT);
        return std::nullopt;
    };
    auto result = task.wait_on(waiters_, EPOLLOUT | EPOLLHUP | EPOLLERR, std::nullopt, attempt);
    if (!result.ok() && total > 0) return total;
    return result;
}

SysResult<int64_t> HostStream::seek(Task&, int64_t offset, int whence) {
    if (!regular_) return Errno(ESPIPE);
    off_t at = ::lseek(fd(), offset, whence);
    if (at < 0) return last_errno();
    return static_cast<int64_t>(at);
}

SysResult<void> HostStream::stat(Task& task, struct stat& out) {
    struct stat host;
    if (::fstat(fd(), &host) != 0) return last_errno();
    // Ids and numbers of the host are not the pod's business.
    out = {};
    out.st_mode = host.st_mode;
    out.st_nlink = 1;
    out.st_uid = task.credentials().fsuid;
    out.st_gid = task.credentials().fsgid;
    out.st_ino = id_ + 1;
    out.st_rdev = host.st_rdev;
    out.st_size = regular_ ? host.st_size : 0;
    out.st_blksize = 4096;
    out.st_blocks = regular_ ? host.st_blocks : 0;
    out.st_atim = host.st_atim;
    out.st_mtim = host.st_mtim;
    out.st_ctim = host.st_ctim;
    return {};
}

SysResult<void> HostStream::sync(Task&, bool data_only) {
    if (!regular_) return Errno(EINVAL);
    if ((data_only ? ::fdatasync(fd()) : ::fsync(fd())) != 0) return last_errno();
    return {};
}

SysResult<void> HostStream::truncate(Task&, int64_t size) {
    if (!regular_) return Errno(EINVAL);
    if (::ftruncate(fd(), size) != 0) return last_errno();
    return {};
}

SysResult<int64_t> HostStream::ioctl(Task& task, uint64_t command, uint64_t argument) {
    switch (command) {
        case FIONREAD: {
            int bytes = 0;
            if (::ioctl(fd(), FIONREAD, &bytes) != 0) return last_errno();
            TRY(task.write(UserPtr<int32_t>(argument), bytes));
            return int64_t{0};
        }
        case TCGETS: {
            // The kernel's struct termios: 36 bytes, smaller than the C library's.
            char settings[36];
            if (!terminal_) return Errno(ENOTTY);
            if (::ioctl(fd(), TCGETS, settings) != 0) return last_errno();
            TRY(task.memory().copy_out(argument, settings, sizeof(settings)));
            return int64_t{0};
        }
        case TCSETS:
        case TCSETSW:
        case TCSETSF: {
            char settings[36];
            if (!terminal_) return Errno(ENOTTY);
            TRY(task.memory().copy_in(argument, settings, sizeof(settings)));
            if (::ioctl(fd(), command, settings) != 0) return last_errno();
            return int64_t{0};
        }
        case TIOCGWINSZ: {
            winsize size{};
            if (!terminal_) return Errno(ENOTTY);
            if (::ioctl(fd(), TIOCGWINSZ, &size) != 0) return last_errno();
            TRY(task.memory().copy_out(argument, &size, sizeof(size)));
            return int64_t{0};
        }
        case TIOCSWINSZ: {
            winsize size{};
            if (!terminal_) return Errno(ENOTTY);
            TRY(task.memory().copy_in(argument, &size, sizeof(size)));
            if (::ioctl(fd(), TIOCSWINSZ, &size) != 0) return last_errno();
            return int64_t{0};
        }
        default:
            return Errno(ENOTTY);
    }
}

std::string HostStream::link_name(Task& task) {
    if (!name_.empty()) return name_;
    return File::link_name(task);
}

}  // namespace casemate::sentry
