#include "sentry/fs/tty/tty_file.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {
namespace {

constexpr size_t kChunk = 4096;

// Writes all of `from` to one side of a terminal by `write`, waiting for room there unless `nonblocking`.
template <typename Write>
SysResult<size_t> write_all(Task& task, WaitQueue& waiters, IoBuffer& from, bool nonblocking, Write write) {
    size_t total = 0;
    while (from.remaining() > 0) {
        std::byte chunk[kChunk];
        auto got = from.copy_from(chunk, sizeof(chunk));
        if (!got.ok()) return total > 0 ? SysResult<size_t>(total) : got.take_error();
        size_t done = 0;
        auto written = task.wait_on(waiters, EPOLLOUT, std::nullopt, [&]() -> std::optional<SysResult<void>> {
            while (done < *got) {
                auto outcome = write(std::span<const std::byte>(chunk + done, *got - done));
                if (outcome.hung_up) return SysResult<void>(Errno(EIO));
                if (outcome.would_block) {
                    if (nonblocking) return SysResult<void>(Errno(EAGAIN));
                    return std::nullopt;
                }
                done += outcome.bytes;
            }
            return SysResult<void>();
        });
        total += done;
        if (!written.ok()) return total > 0 ? SysResult<size_t>(total) : written.take_error();
    }
    return total;
}

}  // namespace

TtySlaveFile::TtySlaveFile(Path path, int flags, Ref<Terminal> terminal)
    : File(std::move(path), flags), terminal_(std::move(terminal)) {
    terminal_->slave_opened();
}
TtySlaveFile::~TtySlaveFile() { terminal_->slave_closed(); }

// A background process that touches its controlling terminal is stopped (POSIX 11.1.4).
SysResult<void> TtySlaveFile::check_job_control(Task& task, int signo) {
    Process& process = task.process();
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        if (!process.session || process.session->terminal.get() != terminal_.get()) return {};
        if (!terminal_->foreground || process.group == terminal_->foreground) return {};
        bool ignored;
        {
            std::lock_guard signals(process.signal_mutex);
            std::lock_guard handlers(process.handlers->mutex);
            ignored =
                process.handlers->actions[static_cast<size_t>(signo)].handler == reinterpret_cast<uint64_t>(SIG_IGN);
        }
        bool blocked = task.signal_mask() & signal_bit(signo);
        if (ignored || blocked) {
            if (signo == SIGTTIN) return Errno(EIO);
            return {};
        }
        if (task.kernel().tasks().group_is_orphaned_locked(*process.group, nullptr)) return Errno(EIO);
        send_to_group_locked(*process.group, kernel_signal(signo));
    }
    return Errno(kRestartSys);
}

SysResult<size_t> TtySlaveFile::read_at(Task& task, IoBuffer& into, int64_t) {
    TRY(check_job_control(task, SIGTTIN));
    if (into.remaining() == 0) return size_t{0};
    auto rule = terminal_->read_rule();
    // VTIME without VMIN: a limit on the whole read. With VMIN it starts at the first byte, which is here already then.
    Deadline deadline;
    if (!rule.canonical && rule.tenths > 0 && rule.least == 0)
        deadline = monotonic_now() + rule.tenths * (kSecond / 10);
    std::byte chunk[kChunk];
    size_t want = std::min(into.remaining(), sizeof(chunk));
    auto moved = task.wait_on(terminal_->slave_waiters, EPOLLIN, deadline, [&]() -> std::optional<SysResult<size_t>> {
        rule = terminal_->read_rule();
        if (!rule.canonical && rule.least > 1 && rule.tenths == 0 && !nonblocking() &&
            terminal_->slave_bytes_ready() < std::min(rule.least, want) && !(terminal_->poll_slave() & EPOLLHUP))
            return std::nullopt;
        auto outcome = terminal_->slave_read({chunk, want});
        if (outcome.hung_up) return SysResult<size_t>(size_t{0});
        if (!outcome.would_block) return SysResult<size_t>(outcome.bytes);
        if (!rule.canonical && rule.least == 0 && rule.tenths == 0) return SysResult<size_t>(size_t{0});
        if (nonblocking()) return SysResult<size_t>(Errno(EAGAIN));
        return std::nullopt;
    });
    if (!moved.ok() && moved.error().value == ETIMEDOUT) return size_t{0};
    size_t bytes = TRY(std::move(moved));
    if (bytes == 0) return size_t{0};
    return into.copy_to(chunk, bytes);
}

SysResult<size_t> TtySlaveFile::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    if (terminal_->termios().local & 0000400 /* TOSTOP */) TRY(check_job_control(task, SIGTTOU));
    return write_all(task, terminal_->slave_waiters, from, nonblocking(),
                     [&](std::span<const std::byte> bytes) { return terminal_->slave_write(bytes); });
}

SysResult<int64_t> TtySlaveFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (auto done = terminal_ioctl(task, *terminal_, false, command, argument)) return std::move(*done);
    return File::ioctl(task, command, argument);
}

TtyMasterFile::TtyMasterFile(Path path, int flags, Ref<Terminal> terminal)
    : File(std::move(path), flags), terminal_(std::move(terminal)) {}
TtyMasterFile::~TtyMasterFile() { terminal_->master_closed(); }

SysResult<size_t> TtyMasterFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() == 0) return size_t{0};
    std::byte chunk[kChunk];
    size_t want = std::min(into.remaining(), sizeof(chunk));
    size_t bytes = TRY(task.wait_on(terminal_->master_waiters, EPOLLIN | EPOLLHUP, std::nullopt,
                                    [&]() -> std::optional<SysResult<size_t>> {
                                        auto outcome = terminal_->master_read({chunk, want});
                                        if (outcome.hung_up) return SysResult<size_t>(Errno(EIO));
                                        if (!outcome.would_block) return SysResult<size_t>(outcome.bytes);
                                        if (nonblocking()) return SysResult<size_t>(Errno(EAGAIN));
                                        return std::nullopt;
                                    }));
    return into.copy_to(chunk, bytes);
}

SysResult<size_t> TtyMasterFile::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    return write_all(task, terminal_->master_waiters, from, nonblocking(),
                     [&](std::span<const std::byte> bytes) { return terminal_->master_write(bytes); });
}

SysResult<int64_t> TtyMasterFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (auto done = terminal_ioctl(task, *terminal_, true, command, argument)) return std::move(*done);
    return File::ioctl(task, command, argument);
}

void adopt_terminal(Task& task, Terminal& terminal) {
    Process& process = task.process();
    std::lock_guard lock(task.kernel().tasks().mutex);
    if (!process.session || process.session->leader != &process || process.session->terminal ||
        terminal.session != nullptr)
        return;
    process.session->terminal = Ref<ControllingTerminal>(&terminal);
    terminal.session = process.session.get();
    terminal.foreground = process.group;
}

Ref<Terminal> controlling_terminal(Task& task) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    Process& process = task.process();
    if (!process.session || !process.session->terminal) return nullptr;
    // Terminals are the only controlling terminals there are.
    return Ref<Terminal>(static_cast<Terminal*>(process.session->terminal.get()));
}

}  // namespace casemate::sentry
