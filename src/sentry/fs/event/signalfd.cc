#include "sentry/fs/event/signalfd.h"

#include <fmt/core.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {
namespace {

signalfd_siginfo record_of(const siginfo_t& info) {
    signalfd_siginfo out{};
    out.ssi_signo = static_cast<uint32_t>(info.si_signo);
    out.ssi_errno = info.si_errno;
    out.ssi_code = info.si_code;
    if (info.si_code == SI_TIMER) {
        out.ssi_tid = static_cast<uint32_t>(info.si_timerid);
        out.ssi_overrun = static_cast<uint32_t>(info.si_overrun);
        out.ssi_int = info.si_value.sival_int;
        out.ssi_ptr = reinterpret_cast<uint64_t>(info.si_value.sival_ptr);
        return out;
    }
    bool by_fault =
        info.si_code > 0 && (info.si_signo == SIGSEGV || info.si_signo == SIGBUS || info.si_signo == SIGILL ||
                             info.si_signo == SIGFPE || info.si_signo == SIGTRAP);
    if (by_fault) {
        out.ssi_addr = reinterpret_cast<uint64_t>(info.si_addr);
        return out;
    }
    out.ssi_pid = static_cast<uint32_t>(info.si_pid);
    out.ssi_uid = info.si_uid;
    if (info.si_signo == SIGCHLD && info.si_code > 0) {
        out.ssi_status = info.si_status;
        out.ssi_utime = static_cast<uint64_t>(info.si_utime);
        out.ssi_stime = static_cast<uint64_t>(info.si_stime);
    } else {
        out.ssi_int = info.si_value.sival_int;
        out.ssi_ptr = reinterpret_cast<uint64_t>(info.si_value.sival_ptr);
    }
    return out;
}

}  // namespace

SignalFile::SignalFile(Path path, int flags, SignalSet mask, Ref<Process> process)
    : File(std::move(path), flags), mask_(mask & ~kUnblockable), process_(std::move(process)) {}
SignalFile::~SignalFile() = default;

void SignalFile::set_mask(SignalSet mask) {
    mask_.store(mask & ~kUnblockable);
    process_->signal_waiters.notify(EPOLLIN, ~0u);
}

WaitQueue* SignalFile::waiters() { return &process_->signal_waiters; }

uint32_t SignalFile::poll_events(Task* task) {
    SignalSet pending = 0;
    if (task != nullptr) {
        pending = task->pending_signals();
    } else {
        std::lock_guard lock(process_->signal_mutex);
        pending = process_->pending.set();
    }
    return pending & mask_.load() ? uint32_t{EPOLLIN} : 0;
}

SysResult<size_t> SignalFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() < sizeof(signalfd_siginfo)) return Errno(EINVAL);
    // The reader's process may not be the maker's (fork): it waits on its own signals.
    auto& queue = task.process().signal_waiters;
    siginfo_t first = TRY(task.wait_on(queue, EPOLLIN, std::nullopt, [&]() -> std::optional<SysResult<siginfo_t>> {
        if (auto info = task.take_signal(mask_.load())) return SysResult<siginfo_t>(*info);
        if (nonblocking()) return SysResult<siginfo_t>(Errno(EAGAIN));
        return std::nullopt;
    }));
    size_t total = 0;
    for (std::optional<siginfo_t> info = first; info; info = task.take_signal(mask_.load())) {
        signalfd_siginfo record = record_of(*info);
        auto copied = into.copy_to(&record, sizeof(record));
        if (!copied.ok() || *copied < sizeof(record)) return total > 0 ? SysResult<size_t>(total) : Errno(EFAULT);
        total += sizeof(record);
        if (into.remaining() < sizeof(record)) break;
    }
    return total;
}

std::string SignalFile::fdinfo(Task& task) {
    return File::fdinfo(task) + fmt::format("sigmask:\t{:016x}\n", mask_.load());
}

}  // namespace casemate::sentry
