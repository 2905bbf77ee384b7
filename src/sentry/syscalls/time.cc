// Clocks, sleeping, interval and POSIX timers.
#include <linux/capability.h>
#include <sys/timex.h>
#include <time.h>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/interval_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

// A clock of the host that every process may read as it is.
bool is_host_clock(int clock) {
    switch (clock) {
        case CLOCK_REALTIME:
        case CLOCK_MONOTONIC:
        case CLOCK_MONOTONIC_RAW:
        case CLOCK_REALTIME_COARSE:
        case CLOCK_MONOTONIC_COARSE:
        case CLOCK_BOOTTIME:
        case CLOCK_REALTIME_ALARM:
        case CLOCK_BOOTTIME_ALARM:
        case CLOCK_TAI:
            return true;
        default:
            return false;
    }
}

// Process and thread clocks by number: ~pid << 3 | kind, bit 2 = thread (clock_getcpuclockid(3)).
SysResult<Nanoseconds> read_dynamic_clock(Task& task, int clock) {
    int kind = clock & 3;
    bool thread = (clock & 4) != 0;
    int number = ~(clock >> 3);
    if (kind == 3) return Errno(EINVAL);
    CpuTimes times;
    if (thread) {
        Ref<Task> target(&task);
        if (number != 0) target = task.kernel().tasks().find_task(task.pid_namespace(), number);
        if (!target || &target->process() != &task.process()) return Errno(EINVAL);
        times = task_cpu_times(*target);
    } else {
        Ref<Process> target(&task.process());
        if (number != 0) target = task.kernel().tasks().find_process(task.pid_namespace(), number);
        if (!target) return Errno(EINVAL);
        times = process_cpu_times(*target);
    }
    return static_cast<Nanoseconds>(kind == 1 ? times.user_ns : times.user_ns + times.system_ns);
}

SysResult<Nanoseconds> read_clock(Task& task, int clock) {
    if (is_host_clock(clock)) {
        timespec now{};
        if (::clock_gettime(clock, &now) != 0) return last_errno();
        return to_nanoseconds(now);
    }
    if (clock == CLOCK_PROCESS_CPUTIME_ID) {
        CpuTimes times = process_cpu_times(task.process());
        return static_cast<Nanoseconds>(times.user_ns + times.system_ns);
    }
    if (clock == CLOCK_THREAD_CPUTIME_ID) {
        CpuTimes times = task_cpu_times(task);
        return static_cast<Nanoseconds>(times.user_ns + times.system_ns);
    }
    if (clock < 0) return read_dynamic_clock(task, clock);
    return Errno(EINVAL);
}

SysResult<int64_t> sys_clock_gettime(Task& task, const SyscallArgs& args) {
    Nanoseconds now = TRY(read_clock(task, args.i32(0)));
    TRY(task.write(UserPtr<timespec>(args.u64(1)), to_timespec(now)));
    return 0;
}

struct Resolutions {
    timespec of[CLOCK_TAI + 1] = {};
    Resolutions() {
        for (int clock = 0; clock <= CLOCK_TAI; ++clock)
            if (is_host_clock(clock) && ::clock_getres(clock, &of[clock]) != 0) of[clock] = {0, 1};
    }
};
// Asked before the sentry confines itself: they do not change.
const Resolutions kResolutions;

SysResult<int64_t> sys_clock_getres(Task& task, const SyscallArgs& args) {
    int clock = args.i32(0);
    timespec resolution{0, 1};
    if (is_host_clock(clock)) {
        resolution = kResolutions.of[clock];
    } else {
        TRY(read_clock(task, clock));
    }
    if (args.u64(1) != 0) TRY(task.write(UserPtr<timespec>(args.u64(1)), resolution));
    return 0;
}

// The pod's clock is the host's.
SysResult<int64_t> sys_clock_settime(Task& task, const SyscallArgs& args) {
    timespec wanted = TRY(task.read(UserPtr<timespec>(args.u64(1))));
    if (args.i32(0) != CLOCK_REALTIME || !valid(wanted)) return Errno(EINVAL);
    return Errno(EPERM);
}

SysResult<int64_t> sys_settimeofday(Task&, const SyscallArgs&) { return Errno(EPERM); }

SysResult<int64_t> sys_gettimeofday(Task& task, const SyscallArgs& args) {
    if (args.u64(0) != 0) TRY(task.write(UserPtr<timeval>(args.u64(0)), to_timeval(realtime_now())));
    if (args.u64(1) != 0) TRY(task.write(UserPtr<struct timezone>(args.u64(1)), (struct timezone){0, 0}));
    return 0;
}

SysResult<int64_t> sys_time(Task& task, const SyscallArgs& args) {
    int64_t now = realtime_now() / kSecond;
    if (args.u64(0) != 0) TRY(task.write(UserPtr<int64_t>(args.u64(0)), now));
    return now;
}

SysResult<int64_t> read_timex(Task& task, GuestAddr address) {
    struct timex given = TRY(task.read(UserPtr<struct timex>(address)));
    if (given.modes != 0) return Errno(EPERM);
    int state = ::adjtimex(&given);
    if (state < 0) return last_errno();
    TRY(task.write(UserPtr<struct timex>(address), given));
    return state;
}

SysResult<int64_t> sys_adjtimex(Task& task, const SyscallArgs& args) { return read_timex(task, args.u64(0)); }

SysResult<int64_t> sys_clock_adjtime(Task& task, const SyscallArgs& args) {
    if (args.i32(0) != CLOCK_REALTIME) return Errno(is_host_clock(args.i32(0)) ? EOPNOTSUPP : EINVAL);
    return read_timex(task, args.u64(1));
}

// ---------------------------------------------------------------------------------------------------- sleeping

// `remaining`: where the rest of an interrupted relative sleep is told; 0: nowhere.
SysResult<int64_t> sleep_to(Task& task, Nanoseconds deadline, GuestAddr remaining) {
    auto slept = task.sleep_until(deadline);
    if (slept.ok() || slept.error() == Errno(ETIMEDOUT)) return 0;
    if (remaining != 0) {
        Nanoseconds rest = deadline - monotonic_now();
        if (rest <= 0) return 0;
        TRY(task.write(UserPtr<timespec>(remaining), to_timespec(rest)));
    }
    task.set_restart([=](Task& self) { return sleep_to(self, deadline, remaining); });
    return Errno(kRestartBlock);
}

SysResult<int64_t> sys_nanosleep(Task& task, const SyscallArgs& args) {
    timespec wanted = TRY(task.read(UserPtr<timespec>(args.u64(0))));
    if (!valid(wanted)) return Errno(EINVAL);
    return sleep_to(task, saturating_add(monotonic_now(), to_nanoseconds(wanted)), args.u64(1));
}

SysResult<int64_t> sys_clock_nanosleep(Task& task, const SyscallArgs& args) {
    int clock = args.i32(0);
    bool absolute = (args.i32(1) & TIMER_ABSTIME) != 0;
    switch (clock) {
        case CLOCK_REALTIME:
        case CLOCK_MONOTONIC:
        case CLOCK_BOOTTIME:
        case CLOCK_TAI:
        case CLOCK_PROCESS_CPUTIME_ID:
            break;
        case CLOCK_REALTIME_ALARM:
        case CLOCK_BOOTTIME_ALARM:
            if (!task.has_capability(CAP_WAKE_ALARM)) return Errno(EPERM);
            break;
        case CLOCK_MONOTONIC_RAW:
        case CLOCK_REALTIME_COARSE:
        case CLOCK_MONOTONIC_COARSE:
            return Errno(EOPNOTSUPP);
        default:
            return Errno(EINVAL);
    }
    timespec wanted = TRY(task.read(UserPtr<timespec>(args.u64(2))));
    if (!valid(wanted)) return Errno(EINVAL);
    Nanoseconds at = to_nanoseconds(wanted);
    if (clock == CLOCK_PROCESS_CPUTIME_ID) {
        // CPU time is looked at now and then: it does not run while everybody sleeps.
        Nanoseconds start = TRY(read_clock(task, clock));
        Nanoseconds until = absolute ? at : saturating_add(start, at);
        while (true) {
            Nanoseconds now = TRY(read_clock(task, clock));
            if (now >= until) return 0;
            Nanoseconds step = until - now < 1'000'000 ? 1'000'000 : until - now;
            auto slept = task.sleep_until(saturating_add(monotonic_now(), step));
            if (!slept.ok() && slept.error() != Errno(ETIMEDOUT)) return Errno(EINTR);
        }
    }
    if (!absolute) return sleep_to(task, saturating_add(monotonic_now(), at), args.u64(3));
    while (true) {
        Nanoseconds now = TRY(read_clock(task, clock));
        if (now >= at) return 0;
        auto slept = task.sleep_until(saturating_add(monotonic_now(), at - now));
        if (!slept.ok() && slept.error() != Errno(ETIMEDOUT)) return Errno(kRestartNoHandler);
    }
}

// ---------------------------------------------------------------------------------------------- interval timers

itimerval to_itimerval(const IntervalTimers::Setting& setting) {
    return {to_timeval(setting.interval), to_timeval(setting.remaining)};
}

SysResult<int64_t> sys_getitimer(Task& task, const SyscallArgs& args) {
    if (args.u32(0) > ITIMER_PROF) return Errno(EINVAL);
    TRY(task.write(UserPtr<itimerval>(args.u64(1)), to_itimerval(task.process().interval_timers->get(args.i32(0)))));
    return 0;
}

SysResult<int64_t> sys_setitimer(Task& task, const SyscallArgs& args) {
    if (args.u32(0) > ITIMER_PROF) return Errno(EINVAL);
    itimerval wanted{};
    if (args.u64(1) != 0) wanted = TRY(task.read(UserPtr<itimerval>(args.u64(1))));
    if (!valid(wanted.it_value) || !valid(wanted.it_interval)) return Errno(EINVAL);
    auto old = task.process().interval_timers->set(
        args.i32(0), {to_nanoseconds(wanted.it_value), to_nanoseconds(wanted.it_interval)});
    if (args.u64(2) != 0) TRY(task.write(UserPtr<itimerval>(args.u64(2)), to_itimerval(old)));
    return 0;
}

SysResult<int64_t> sys_alarm(Task& task, const SyscallArgs& args) {
    auto old = task.process().interval_timers->set(ITIMER_REAL, {Nanoseconds{args.u32(0)} * kSecond, 0});
    // Rounded, but what is left is never told as nothing.
    int64_t seconds = (old.remaining + kSecond / 2) / kSecond;
    return old.remaining != 0 && seconds == 0 ? 1 : seconds;
}

// ------------------------------------------------------------------------------------------------- POSIX timers

struct KernelSigevent {
    sigval value;
    int32_t signo;
    int32_t notify;
    int32_t tid;
    int32_t padding[11];
};
static_assert(sizeof(KernelSigevent) == 64);

SysResult<int64_t> sys_timer_create(Task& task, const SyscallArgs& args) {
    int clock = args.i32(0);
    switch (clock) {
        case CLOCK_REALTIME:
        case CLOCK_MONOTONIC:
        case CLOCK_BOOTTIME:
        case CLOCK_TAI:
        case CLOCK_PROCESS_CPUTIME_ID:
        case CLOCK_THREAD_CPUTIME_ID:
            break;
        case CLOCK_REALTIME_ALARM:
        case CLOCK_BOOTTIME_ALARM:
            if (!task.has_capability(CAP_WAKE_ALARM)) return Errno(EPERM);
            break;
        default:
            if (clock >= 0 || !read_clock(task, clock).ok()) return Errno(EINVAL);
            clock = CLOCK_PROCESS_CPUTIME_ID;
    }
    int signo = SIGALRM;
    int tid = 0;
    KernelSigevent event{};
    bool given = args.u64(1) != 0;
    if (given) {
        event = TRY(task.read(UserPtr<KernelSigevent>(args.u64(1))));
        signo = event.signo;
        switch (event.notify) {
            case SIGEV_NONE:
                signo = 0;
                break;
            case SIGEV_SIGNAL:
            case SIGEV_THREAD:
                if (!valid_signal(signo)) return Errno(EINVAL);
                break;
            case SIGEV_THREAD_ID: {
                if (!valid_signal(signo)) return Errno(EINVAL);
                Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), event.tid);
                if (!target || &target->process() != &task.process()) return Errno(EINVAL);
                tid = event.tid;
                break;
            }
            default:
                return Errno(EINVAL);
        }
    }
    PosixTimers& timers = *task.process().posix_timers;
    int id = TRY(timers.create(clock, signo, given ? &event.value : nullptr, tid, task.limit(RLIMIT_SIGPENDING)));
    auto written = task.write(UserPtr<int>(args.u64(2)), id);
    if (!written.ok()) {
        static_cast<void>(timers.remove(id));
        return written.take_error();
    }
    return 0;
}

itimerspec to_itimerspec(const PosixTimer::Setting& setting) {
    return {to_timespec(setting.interval), to_timespec(setting.remaining)};
}

SysResult<int64_t> sys_timer_settime(Task& task, const SyscallArgs& args) {
    if (args.u64(2) == 0) return Errno(EINVAL);
    itimerspec wanted = TRY(task.read(UserPtr<itimerspec>(args.u64(2))));
    if (!valid(wanted.it_value) || !valid(wanted.it_interval)) return Errno(EINVAL);
    Ref<PosixTimer> timer = TRY(task.process().posix_timers->find(args.i32(0)));
    auto old = timer->set(to_nanoseconds(wanted.it_value), to_nanoseconds(wanted.it_interval),
                          (args.i32(1) & TIMER_ABSTIME) != 0);
    if (args.u64(3) != 0) TRY(task.write(UserPtr<itimerspec>(args.u64(3)), to_itimerspec(old)));
    return 0;
}

SysResult<int64_t> sys_timer_gettime(Task& task, const SyscallArgs& args) {
    Ref<PosixTimer> timer = TRY(task.process().posix_timers->find(args.i32(0)));
    TRY(task.write(UserPtr<itimerspec>(args.u64(1)), to_itimerspec(timer->get())));
    return 0;
}

SysResult<int64_t> sys_timer_getoverrun(Task& task, const SyscallArgs& args) {
    Ref<PosixTimer> timer = TRY(task.process().posix_timers->find(args.i32(0)));
    return timer->overrun();
}

SysResult<int64_t> sys_timer_delete(Task& task, const SyscallArgs& args) {
    TRY(task.process().posix_timers->remove(args.i32(0)));
    return 0;
}

constexpr SyscallRow kRows[] = {
    {35, "nanosleep", sys_nanosleep, Support::kFull},
    {36, "getitimer", sys_getitimer, Support::kFull},
    {37, "alarm", sys_alarm, Support::kFull},
    {38, "setitimer", sys_setitimer, Support::kFull},
    {96, "gettimeofday", sys_gettimeofday, Support::kFull},
    {159, "adjtimex", sys_adjtimex, Support::kPartial, "reading only: the clock is the host's"},
    {164, "settimeofday", sys_settimeofday, Support::kPartial, "EPERM: the clock is the host's"},
    {201, "time", sys_time, Support::kFull},
    {222, "timer_create", sys_timer_create, Support::kFull},
    {223, "timer_settime", sys_timer_settime, Support::kFull},
    {224, "timer_gettime", sys_timer_gettime, Support::kFull},
    {225, "timer_getoverrun", sys_timer_getoverrun, Support::kFull},
    {226, "timer_delete", sys_timer_delete, Support::kFull},
    {227, "clock_settime", sys_clock_settime, Support::kPartial, "EPERM: the clock is the host's"},
    {228, "clock_gettime", sys_clock_gettime, Support::kPartial, "a thread's user time is its share of the process's"},
    {229, "clock_getres", sys_clock_getres, Support::kFull},
    {230, "clock_nanosleep", sys_clock_nanosleep, Support::kFull},
    {305, "clock_adjtime", sys_clock_adjtime, Support::kPartial, "reading only: the clock is the host's"},
};

}  // namespace

std::span<const SyscallRow> time_syscalls() { return kRows; }

}  // namespace casemate::sentry
