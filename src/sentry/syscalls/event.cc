// pipe, eventfd, signalfd, timerfd and epoll: arguments to the files of fs/pipe and fs/event.
#include "sentry/syscalls/event.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include <vector>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/fs/event/epoll.h"
#include "sentry/fs/event/eventfd.h"
#include "sentry/fs/event/signalfd.h"
#include "sentry/fs/event/timerfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_parts.h"

namespace casemate::sentry {
namespace {

static_assert(EFD_CLOEXEC == O_CLOEXEC && SFD_CLOEXEC == O_CLOEXEC && TFD_CLOEXEC == O_CLOEXEC &&
              EPOLL_CLOEXEC == O_CLOEXEC);

SysResult<int64_t> install(Task& task, Ref<File> file, int flags) {
    return TRY(task.files().insert(std::move(file), flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
}

Path place(Task& task, const char* label) { return anonymous_place(task.kernel(), task.credentials(), 0600, label); }

// A descriptor that must be of one kind of file. Without RTTI the kinds that are asked for answer as_...().
SysResult<Ref<File>> file_of(Task& task, int fd) { return task.files().get(fd); }

SysResult<int64_t> do_pipe(Task& task, uint64_t out, int flags) {
    if (flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) return Errno(EINVAL);
    PipeEnds ends = make_pipe(task.kernel(), task.credentials(), flags);
    int fds[2];
    fds[0] = TRY(task.files().insert(ends.reader, flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE)));
    auto second = task.files().insert(ends.writer, flags & O_CLOEXEC, task.limit(RLIMIT_NOFILE));
    auto undo = [&](int fd) { static_cast<void>(task.files().remove(fd)); };
    if (!second.ok()) {
        undo(fds[0]);
        return second.take_error();
    }
    fds[1] = *second;
    auto written = task.memory().copy_out(out, fds, sizeof(fds));
    if (!written.ok()) {
        undo(fds[0]);
        undo(fds[1]);
        return written.take_error();
    }
    return 0;
}
SysResult<int64_t> sys_pipe(Task& task, const SyscallArgs& args) { return do_pipe(task, args.u64(0), 0); }
SysResult<int64_t> sys_pipe2(Task& task, const SyscallArgs& args) { return do_pipe(task, args.u64(0), args.i32(1)); }

SysResult<int64_t> do_eventfd(Task& task, uint32_t initial, int flags) {
    if (flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) return Errno(EINVAL);
    Ref<File> file = make_ref<EventFile>(place(task, "[eventfd]"), O_RDWR | (flags & O_NONBLOCK), initial,
                                         (flags & EFD_SEMAPHORE) != 0);
    return install(task, std::move(file), flags);
}
SysResult<int64_t> sys_eventfd(Task& task, const SyscallArgs& args) { return do_eventfd(task, args.u32(0), 0); }
SysResult<int64_t> sys_eventfd2(Task& task, const SyscallArgs& args) {
    return do_eventfd(task, args.u32(0), args.i32(1));
}

SysResult<int64_t> do_signalfd(Task& task, int fd, uint64_t address, uint64_t size, int flags) {
    if (flags & ~(SFD_CLOEXEC | SFD_NONBLOCK)) return Errno(EINVAL);
    if (size != sizeof(SignalSet)) return Errno(EINVAL);
    SignalSet mask = TRY(task.read(UserPtr<SignalSet>(address)));
    if (fd != -1) {
        Ref<File> file = TRY(file_of(task, fd));
        SignalFile* existing = file->as_signal_file();
        if (existing == nullptr) return Errno(EINVAL);
        existing->set_mask(mask);
        return fd;
    }
    Ref<File> file = make_ref<SignalFile>(place(task, "[signalfd]"), O_RDWR | (flags & O_NONBLOCK), mask,
                                          Ref<Process>(&task.process()));
    return install(task, std::move(file), flags);
}
SysResult<int64_t> sys_signalfd(Task& task, const SyscallArgs& args) {
    return do_signalfd(task, args.fd(0), args.u64(1), args.u64(2), 0);
}
SysResult<int64_t> sys_signalfd4(Task& task, const SyscallArgs& args) {
    return do_signalfd(task, args.fd(0), args.u64(1), args.u64(2), args.i32(3));
}

SysResult<int64_t> sys_timerfd_create(Task& task, const SyscallArgs& args) {
    int clock = args.i32(0), flags = args.i32(1);
    if (flags & ~(TFD_CLOEXEC | TFD_NONBLOCK)) return Errno(EINVAL);
    if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) return Errno(EPERM);
    if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME) return Errno(EINVAL);
    Ref<File> file =
        make_ref<TimerFile>(place(task, "[timerfd]"), O_RDWR | (flags & O_NONBLOCK), clock, task.kernel().timers());
    return install(task, std::move(file), flags);
}

SysResult<Nanoseconds> nanoseconds_of(const timespec& time) {
    if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= kSecond) return Errno(EINVAL);
    Nanoseconds total;
    if (__builtin_mul_overflow(time.tv_sec, kSecond, &total) || __builtin_add_overflow(total, time.tv_nsec, &total))
        return INT64_MAX;
    return total;
}
timespec timespec_of(Nanoseconds time) { return {time / kSecond, time % kSecond}; }

SysResult<int64_t> sys_timerfd_settime(Task& task, const SyscallArgs& args) {
    int flags = args.i32(1);
    if (flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) return Errno(EINVAL);
    auto spec = TRY(task.read(UserPtr<itimerspec>(args.u64(2))));
    Ref<File> file = TRY(file_of(task, args.fd(0)));
    TimerFile* timer = file->as_timer_file();
    if (timer == nullptr) return Errno(EINVAL);
    TimerFile::Setting now;
    now.value = TRY(nanoseconds_of(spec.it_value));
    now.interval = TRY(nanoseconds_of(spec.it_interval));
    TimerFile::Setting old = timer->set(now, flags & TFD_TIMER_ABSTIME, flags & TFD_TIMER_CANCEL_ON_SET);
    if (args.u64(3) != 0)
        TRY(task.write(UserPtr<itimerspec>(args.u64(3)),
                       itimerspec{timespec_of(old.interval), timespec_of(old.value)}));
    return 0;
}

SysResult<int64_t> sys_timerfd_gettime(Task& task, const SyscallArgs& args) {
    Ref<File> file = TRY(file_of(task, args.fd(0)));
    TimerFile* timer = file->as_timer_file();
    if (timer == nullptr) return Errno(EINVAL);
    TimerFile::Setting now = timer->get();
    TRY(task.write(UserPtr<itimerspec>(args.u64(1)), itimerspec{timespec_of(now.interval), timespec_of(now.value)}));
    return 0;
}

SysResult<int64_t> do_epoll_create(Task& task, int flags) {
    Ref<File> file = make_ref<EpollFile>(place(task, "[eventpoll]"), O_RDWR);
    return install(task, std::move(file), flags);
}
SysResult<int64_t> sys_epoll_create(Task& task, const SyscallArgs& args) {
    if (args.i32(0) <= 0) return Errno(EINVAL);
    return do_epoll_create(task, 0);
}
SysResult<int64_t> sys_epoll_create1(Task& task, const SyscallArgs& args) {
    if (args.i32(0) & ~EPOLL_CLOEXEC) return Errno(EINVAL);
    return do_epoll_create(task, args.i32(0));
}

SysResult<int64_t> sys_epoll_ctl(Task& task, const SyscallArgs& args) {
    int operation = args.i32(1), fd = args.fd(2);
    epoll_event event{};
    if (operation != EPOLL_CTL_DEL) event = TRY(task.read(UserPtr<epoll_event>(args.u64(3))));
    Ref<File> file = TRY(file_of(task, args.fd(0)));
    Ref<File> target = TRY(file_of(task, fd));
    EpollFile* epoll = file->as_epoll();
    if (epoll == nullptr || file == target) return Errno(EINVAL);
    event.events &= ~static_cast<uint32_t>(EPOLLWAKEUP);
    switch (operation) {
        case EPOLL_CTL_ADD:
            TRY(epoll->add(task, fd, target, event));
            break;
        case EPOLL_CTL_MOD:
            TRY(epoll->modify(task, fd, target, event));
            break;
        case EPOLL_CTL_DEL:
            TRY(epoll->remove(fd, target));
            break;
        default:
            return Errno(EINVAL);
    }
    return 0;
}

SysResult<int64_t> do_epoll_wait(Task& task, int fd, uint64_t out, int most, Deadline deadline) {
    constexpr int kMost = INT32_MAX / static_cast<int>(sizeof(epoll_event));
    if (most <= 0 || most > kMost) return Errno(EINVAL);
    Ref<File> file = TRY(file_of(task, fd));
    EpollFile* epoll = file->as_epoll();
    if (epoll == nullptr) return Errno(EINVAL);
    auto events = epoll->wait(task, static_cast<size_t>(most), deadline);
    if (!events.ok()) {
        int code = events.error().value;
        return Errno(code == kRestartSys ? EINTR : code);  // never restarted (signal(7))
    }
    TRY(task.memory().copy_out(out, events->data(), events->size() * sizeof(epoll_event)));
    if (!events->empty()) task.parts().standing_answers.offer_reads(task);
    return static_cast<int64_t>(events->size());
}
Deadline milliseconds_from_now(int timeout) {
    if (timeout < 0) return std::nullopt;
    return timeout == 0 ? 0 : monotonic_now() + timeout * (kSecond / 1000);
}
SysResult<int64_t> sys_epoll_wait(Task& task, const SyscallArgs& args) {
    return do_epoll_wait(task, args.fd(0), args.u64(1), args.i32(2), milliseconds_from_now(args.i32(3)));
}
SysResult<int64_t> sys_epoll_pwait(Task& task, const SyscallArgs& args) {
    TRY(set_mask_for_wait(task, args.u64(4), args.u64(5)));
    return sys_epoll_wait(task, args);
}
SysResult<int64_t> sys_epoll_pwait2(Task& task, const SyscallArgs& args) {
    Deadline deadline;
    if (args.u64(3) != 0) {
        auto timeout = TRY(task.read(UserPtr<timespec>(args.u64(3))));
        Nanoseconds length = TRY(nanoseconds_of(timeout));
        Nanoseconds end;
        if (length == 0)
            deadline = 0;
        else if (!__builtin_add_overflow(length, monotonic_now(), &end))
            deadline = end;
    }
    TRY(set_mask_for_wait(task, args.u64(4), args.u64(5)));
    return do_epoll_wait(task, args.fd(0), args.u64(1), args.i32(2), deadline);
}

constexpr SyscallRow kRows[] = {
    {22, "pipe", sys_pipe, Support::kFull},
    {213, "epoll_create", sys_epoll_create, Support::kFull},
    {214, "epoll_ctl_old", nullptr, Support::kNone, "never had a meaning on x86-64", ENOSYS},
    {215, "epoll_wait_old", nullptr, Support::kNone, "never had a meaning on x86-64", ENOSYS},
    {232, "epoll_wait", sys_epoll_wait, Support::kFull},
    {233, "epoll_ctl", sys_epoll_ctl, Support::kFull},
    {281, "epoll_pwait", sys_epoll_pwait, Support::kFull},
    {282, "signalfd", sys_signalfd, Support::kFull},
    {283, "timerfd_create", sys_timerfd_create, Support::kPartial, "no alarm clocks"},
    {284, "eventfd", sys_eventfd, Support::kFull},
    {286, "timerfd_settime", sys_timerfd_settime, Support::kPartial, "the clock is never set: no cancel"},
    {287, "timerfd_gettime", sys_timerfd_gettime, Support::kFull},
    {289, "signalfd4", sys_signalfd4, Support::kFull},
    {290, "eventfd2", sys_eventfd2, Support::kFull},
    {291, "epoll_create1", sys_epoll_create1, Support::kFull},
    {293, "pipe2", sys_pipe2, Support::kPartial, "no O_NOTIFICATION_PIPE"},
    {441, "epoll_pwait2", sys_epoll_pwait2, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> event_syscalls() { return kRows; }

}  // namespace casemate::sentry
