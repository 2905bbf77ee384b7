// Scheduling, priorities, limits and times: what a task may ask of the processor, and what it used.
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/times.h>

#include <algorithm>
#include <bit>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/interval_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"
#include "sentry/vdso/vdso.h"

namespace casemate::sentry {
namespace {

// linux/ioprio.h and linux/sched/types.h clash with C++ and the C library.
constexpr int kIoPriorityProcess = 1, kIoPriorityUser = 3, kIoClassRealTime = 1, kIoClassIdle = 3, kIoClassShift = 13;
struct SchedulerAttributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
    uint32_t util_min, util_max;
};
static_assert(sizeof(SchedulerAttributes) == 56);

SysResult<Ref<Task>> find_target(Task& task, int tid) {
    if (tid < 0) return Errno(EINVAL);
    if (tid == 0) return Ref<Task>(&task);
    Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), tid);
    if (!target) return Errno(ESRCH);
    return target;
}

uint64_t all_cpus(Task& task) {
    unsigned cpus = task.kernel().options().cpus;
    return cpus >= 64 ? ~uint64_t{0} : (uint64_t{1} << cpus) - 1;
}

SysResult<int64_t> sys_sched_yield(Task&, const SyscallArgs&) {
    ::sched_yield();
    return 0;
}

SysResult<int64_t> sys_sched_getaffinity(Task& task, const SyscallArgs& args) {
    uint32_t size = args.u32(1);
    if (size < sizeof(uint64_t) || size % sizeof(uint64_t) != 0) return Errno(EINVAL);
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    uint64_t mask = target->parts().cpu_mask.load() & all_cpus(task);
    if (mask == 0) mask = all_cpus(task);
    TRY(task.write(UserPtr<uint64_t>(args.u64(2)), mask));
    return int64_t{sizeof(uint64_t)};
}

SysResult<int64_t> sys_sched_setaffinity(Task& task, const SyscallArgs& args) {
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    if (!may_schedule(task, *target)) return Errno(EPERM);
    uint64_t mask = 0;
    uint32_t size = args.u32(1);
    TRY(task.memory().copy_in(args.u64(2), &mask, size < sizeof(mask) ? size : sizeof(mask)));
    if ((mask & all_cpus(task)) == 0) return Errno(EINVAL);
    target->parts().cpu_mask.store(mask);
    Vdso* vdso = task.kernel().vdso();
    if (vdso != nullptr && (mask & all_cpus(task)) != all_cpus(task)) vdso->stop_telling_cpu();
    return 0;
}

bool real_time(int policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }

SysResult<void> check_policy(int policy, int priority) {
    policy &= ~SCHED_RESET_ON_FORK;
    switch (policy) {
        case SCHED_OTHER:
        case SCHED_BATCH:
        case SCHED_IDLE:
            return priority == 0 ? SysResult<void>() : SysResult<void>(Errno(EINVAL));
        case SCHED_FIFO:
        case SCHED_RR:
            return priority >= 1 && priority <= 99 ? SysResult<void>() : SysResult<void>(Errno(EINVAL));
        default:
            return Errno(EINVAL);
    }
}

// Real-time policies would need the host's permission: refused, as without CAP_SYS_NICE.
SysResult<int64_t> set_policy(Task& task, int tid, int policy, int priority) {
    if (tid < 0) return Errno(EINVAL);
    TRY(check_policy(policy, priority));
    Ref<Task> target = TRY(find_target(task, tid));
    if (!may_schedule(task, *target) || real_time(policy & ~SCHED_RESET_ON_FORK)) return Errno(EPERM);
    target->parts().scheduler_policy.store(policy);
    target->parts().scheduler_priority.store(priority);
    return 0;
}

SysResult<int64_t> sys_sched_setscheduler(Task& task, const SyscallArgs& args) {
    if (args.u64(2) == 0 || args.i32(1) < 0) return Errno(EINVAL);
    int priority = TRY(task.read(UserPtr<int>(args.u64(2))));
    return set_policy(task, args.i32(0), args.i32(1), priority);
}

SysResult<int64_t> sys_sched_setparam(Task& task, const SyscallArgs& args) {
    if (args.u64(1) == 0) return Errno(EINVAL);
    int priority = TRY(task.read(UserPtr<int>(args.u64(1))));
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    return set_policy(task, args.i32(0), target->parts().scheduler_policy.load(), priority);
}

SysResult<int64_t> sys_sched_getscheduler(Task& task, const SyscallArgs& args) {
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    return target->parts().scheduler_policy.load();
}

SysResult<int64_t> sys_sched_getparam(Task& task, const SyscallArgs& args) {
    if (args.u64(1) == 0) return Errno(EINVAL);
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    TRY(task.write(UserPtr<int>(args.u64(1)), target->parts().scheduler_priority.load()));
    return 0;
}

SysResult<int64_t> sys_sched_setattr(Task& task, const SyscallArgs& args) {
    if (args.u64(1) == 0 || args.u32(2) != 0) return Errno(EINVAL);
    uint32_t size = TRY(task.read(UserPtr<uint32_t>(args.u64(1))));
    SchedulerAttributes given{};
    TRY(copy_in_struct(task, args.u64(1), size == 0 ? 48 : size, 48, &given, sizeof(given)));
    if (given.nice < -20 || given.nice > 19) return Errno(EINVAL);
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    if (given.nice < target->process().nice.load() && !task.has_capability(CAP_SYS_NICE)) return Errno(EPERM);
    int64_t done = TRY(set_policy(task, args.i32(0), static_cast<int>(given.policy), static_cast<int>(given.priority)));
    if (given.policy == SCHED_OTHER || given.policy == SCHED_BATCH) target->process().nice.store(given.nice);
    return done;
}

SysResult<int64_t> sys_sched_getattr(Task& task, const SyscallArgs& args) {
    uint32_t size = args.u32(2);
    if (args.u64(1) == 0 || args.u32(3) != 0 || size < 48 || size > 4096) return Errno(EINVAL);
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    SchedulerAttributes out{};
    out.size = size < sizeof(out) ? 48 : sizeof(out);
    out.policy = static_cast<uint32_t>(target->parts().scheduler_policy.load());
    out.priority = static_cast<uint32_t>(target->parts().scheduler_priority.load());
    out.nice = target->process().nice.load();
    TRY(task.memory().copy_out(args.u64(1), &out, out.size));
    return 0;
}

SysResult<int64_t> sys_sched_get_priority_max(Task&, const SyscallArgs& args) {
    switch (args.i32(0)) {
        case SCHED_FIFO:
        case SCHED_RR:
            return 99;
        case SCHED_OTHER:
        case SCHED_BATCH:
        case SCHED_IDLE:
        case 6 /* SCHED_DEADLINE */:
            return 0;
        default:
            return Errno(EINVAL);
    }
}

SysResult<int64_t> sys_sched_get_priority_min(Task& task, const SyscallArgs& args) {
    int64_t most = TRY(sys_sched_get_priority_max(task, args));
    return most == 99 ? 1 : 0;
}

SysResult<int64_t> sys_sched_rr_get_interval(Task& task, const SyscallArgs& args) {
    TRY(find_target(task, args.i32(0)));
    TRY(task.write(UserPtr<timespec>(args.u64(1)), timespec{0, 4'000'000}));
    return 0;
}

SysResult<int64_t> sys_getcpu(Task& task, const SyscallArgs& args) {
    int on = ::sched_getcpu();  // from rseq or the vDSO: no call of the host's
    unsigned cpu = (on < 0 ? 0u : static_cast<unsigned>(on)) % task.kernel().options().cpus;
    // The host places the threads; what is told agrees with the affinity that was asked for.
    uint64_t mask = task.parts().cpu_mask.load() & all_cpus(task);
    if (cpu < 64 && mask != 0 && (mask >> cpu & 1) == 0) cpu = static_cast<unsigned>(std::countr_zero(mask));
    if (args.u64(0) != 0) TRY(task.write(UserPtr<uint32_t>(args.u64(0)), cpu));
    if (args.u64(1) != 0) TRY(task.write(UserPtr<uint32_t>(args.u64(1)), uint32_t{0}));
    return 0;
}

// -------------------------------------------------------------------------------------------------- priorities

// The processes that PRIO_PROCESS, PRIO_PGRP or PRIO_USER name.
SysResult<std::vector<Ref<Process>>> named_processes(Task& task, int which, int who) {
    TaskSet& tasks = task.kernel().tasks();
    std::vector<Ref<Process>> found;
    switch (which) {
        case PRIO_PROCESS: {
            Ref<Task> target = TRY(find_target(task, who));
            found.emplace_back(&target->process());
            break;
        }
        case PRIO_PGRP: {
            std::lock_guard lock(tasks.mutex);
            Pid* group = who == 0 ? task.process().group.get() : tasks.find_pid_locked(task.pid_namespace(), who);
            if (group != nullptr)
                for (Process* one : group->group_members) found.emplace_back(one);
            break;
        }
        case PRIO_USER: {
            uint32_t uid = who == 0 ? task.credentials().uid : static_cast<uint32_t>(who);
            for (const Ref<Process>& one : tasks.processes(task.pid_namespace())) {
                auto threads = tasks.threads_of(*one);
                if (threads.empty()) continue;
                auto credentials = threads[0]->credentials_of();
                if (credentials && credentials->uid == uid) found.push_back(one);
            }
            break;
        }
        default:
            return Errno(EINVAL);
    }
    if (found.empty()) return Errno(ESRCH);
    return found;
}

SysResult<int64_t> sys_getpriority(Task& task, const SyscallArgs& args) {
    auto found = TRY(named_processes(task, args.i32(0), args.i32(1)));
    int best = 19;
    for (const Ref<Process>& one : found) best = std::min(best, one->nice.load());
    return 20 - best;
}

SysResult<int64_t> sys_setpriority(Task& task, const SyscallArgs& args) {
    int wanted = std::clamp(args.i32(2), -20, 19);
    auto found = TRY(named_processes(task, args.i32(0), args.i32(1)));
    for (const Ref<Process>& one : found) {
        auto threads = task.kernel().tasks().threads_of(*one);
        if (!threads.empty() && !may_schedule(task, *threads[0])) return Errno(EPERM);
        bool allowed = wanted >= one->nice.load() || task.has_capability(CAP_SYS_NICE) ||
                       20 - wanted <= static_cast<int64_t>(one->limit(RLIMIT_NICE).soft);
        if (!allowed) return Errno(EACCES);
        one->nice.store(wanted);
    }
    return 0;
}

SysResult<int64_t> sys_ioprio_get(Task& task, const SyscallArgs& args) {
    if (args.i32(0) != kIoPriorityProcess) return args.i32(0) > kIoPriorityUser ? Errno(EINVAL) : Errno(ESRCH);
    Ref<Task> target = TRY(find_target(task, args.i32(1)));
    return static_cast<int64_t>(target->parts().io_priority.load());
}

SysResult<int64_t> sys_ioprio_set(Task& task, const SyscallArgs& args) {
    int level = args.i32(2);
    int kind = level >> kIoClassShift;
    if (kind > kIoClassIdle || level < 0) return Errno(EINVAL);
    if (kind == kIoClassRealTime && !task.has_capability(CAP_SYS_NICE) && !task.has_capability(CAP_SYS_ADMIN))
        return Errno(EPERM);
    if (args.i32(0) != kIoPriorityProcess) return args.i32(0) > kIoPriorityUser ? Errno(EINVAL) : Errno(ESRCH);
    Ref<Task> target = TRY(find_target(task, args.i32(1)));
    target->parts().io_priority.store(static_cast<uint64_t>(level));
    return 0;
}

// ------------------------------------------------------------------------------------------------------ limits

SysResult<ResourceLimit> change_limit(Task& task, Process& process, int resource, const ResourceLimit* wanted) {
    if (resource < 0 || resource >= RLIM_NLIMITS) return Errno(EINVAL);
    if (wanted == nullptr) return process.limit(resource);
    if (wanted->soft > wanted->hard) return Errno(EINVAL);
    if (resource == RLIMIT_NOFILE && wanted->hard > 1 << 20) return Errno(EPERM);  // fs.nr_open
    ResourceLimit old = process.limit(resource);
    if (wanted->hard > old.hard && !task.has_capability(CAP_SYS_RESOURCE)) return Errno(EPERM);
    old = process.set_limit(resource, wanted);
    if (resource == RLIMIT_CPU) process.interval_timers->watch_cpu_limit();
    return old;
}

SysResult<int64_t> sys_getrlimit(Task& task, const SyscallArgs& args) {
    ResourceLimit limit = TRY(change_limit(task, task.process(), args.i32(0), nullptr));
    TRY(task.write(UserPtr<ResourceLimit>(args.u64(1)), limit));
    return 0;
}

SysResult<int64_t> sys_setrlimit(Task& task, const SyscallArgs& args) {
    ResourceLimit wanted = TRY(task.read(UserPtr<ResourceLimit>(args.u64(1))));
    TRY(change_limit(task, task.process(), args.i32(0), &wanted));
    return 0;
}

SysResult<int64_t> sys_prlimit64(Task& task, const SyscallArgs& args) {
    Ref<Task> target = TRY(find_target(task, args.i32(0)));
    if (&target->process() != &task.process() && !task.has_capability(CAP_SYS_RESOURCE)) {
        auto theirs = target->credentials_of();
        const Credentials& mine = task.credentials();
        bool same = theirs && mine.uid == theirs->uid && mine.uid == theirs->euid && mine.uid == theirs->suid &&
                    mine.gid == theirs->gid && mine.gid == theirs->egid && mine.gid == theirs->sgid;
        if (!same) return Errno(EPERM);
    }
    ResourceLimit wanted;
    if (args.u64(2) != 0) wanted = TRY(task.read(UserPtr<ResourceLimit>(args.u64(2))));
    ResourceLimit old = TRY(change_limit(task, target->process(), args.i32(1), args.u64(2) != 0 ? &wanted : nullptr));
    if (args.u64(3) != 0) TRY(task.write(UserPtr<ResourceLimit>(args.u64(3)), old));
    return 0;
}

// ------------------------------------------------------------------------------------------------------- usage

SysResult<int64_t> sys_getrusage(Task& task, const SyscallArgs& args) {
    ResourceUse use;
    switch (args.i32(0)) {
        case RUSAGE_SELF:
            use = process_use(task.process());
            break;
        case RUSAGE_CHILDREN: {
            std::lock_guard lock(task.kernel().tasks().mutex);
            use = task.process().children_use;
            break;
        }
        case RUSAGE_THREAD: {
            use = process_use(task.process());
            CpuTimes times = task_cpu_times(task);
            use.user_ns = times.user_ns;
            use.system_ns = times.system_ns;
            break;
        }
        default:
            return Errno(EINVAL);
    }
    if (args.i32(0) != RUSAGE_CHILDREN) {
        uint64_t now = task.memory().usage().resident_bytes;
        if (now > use.peak_resident) use.peak_resident = now;
    }
    TRY(task.write(UserPtr<struct rusage>(args.u64(1)), to_rusage(use)));
    return 0;
}

SysResult<int64_t> sys_times(Task& task, const SyscallArgs& args) {
    constexpr uint64_t kTick = 10'000'000;
    if (args.u64(0) != 0) {
        ResourceUse own = process_use(task.process()), children;
        {
            std::lock_guard lock(task.kernel().tasks().mutex);
            children = task.process().children_use;
        }
        struct tms out {};
        out.tms_utime = static_cast<clock_t>(own.user_ns / kTick);
        out.tms_stime = static_cast<clock_t>(own.system_ns / kTick);
        out.tms_cutime = static_cast<clock_t>(children.user_ns / kTick);
        out.tms_cstime = static_cast<clock_t>(children.system_ns / kTick);
        TRY(task.write(UserPtr<struct tms>(args.u64(0)), out));
    }
    return monotonic_now() / static_cast<int64_t>(kTick);
}

constexpr SyscallRow kRows[] = {
    {24, "sched_yield", sys_sched_yield, Support::kFull},
    {97, "getrlimit", sys_getrlimit, Support::kFull},
    {98, "getrusage", sys_getrusage, Support::kPartial, "no counts of I/O and of involuntary switches"},
    {100, "times", sys_times, Support::kFull},
    {140, "getpriority", sys_getpriority, Support::kFull},
    {141, "setpriority", sys_setpriority, Support::kPartial, "kept and told; the host schedules all alike"},
    {142, "sched_setparam", sys_sched_setparam, Support::kPartial, "no real-time priorities"},
    {143, "sched_getparam", sys_sched_getparam, Support::kFull},
    {144, "sched_setscheduler", sys_sched_setscheduler, Support::kPartial, "no real-time policies (EPERM)"},
    {145, "sched_getscheduler", sys_sched_getscheduler, Support::kFull},
    {146, "sched_get_priority_max", sys_sched_get_priority_max, Support::kFull},
    {147, "sched_get_priority_min", sys_sched_get_priority_min, Support::kFull},
    {148, "sched_rr_get_interval", sys_sched_rr_get_interval, Support::kFull},
    {160, "setrlimit", sys_setrlimit, Support::kFull},
    {203, "sched_setaffinity", sys_sched_setaffinity, Support::kPartial, "kept and told; the host places the threads"},
    {204, "sched_getaffinity", sys_sched_getaffinity, Support::kFull},
    {251, "ioprio_set", sys_ioprio_set, Support::kPartial, "kept and told, for single processes"},
    {252, "ioprio_get", sys_ioprio_get, Support::kPartial, "for single processes"},
    {302, "prlimit64", sys_prlimit64, Support::kFull},
    {309, "getcpu", sys_getcpu, Support::kFull},
    {314, "sched_setattr", sys_sched_setattr, Support::kPartial, "no real-time and deadline policies"},
    {315, "sched_getattr", sys_sched_getattr, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> scheduling_syscalls() { return kRows; }

}  // namespace casemate::sentry
