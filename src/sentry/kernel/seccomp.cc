#include "sentry/kernel/seccomp.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/ptrace.h>

#include <algorithm>

#include "base/log.h"
#include "sentry/kernel/errno.h"
#include "sentry/kernel/filter_notices.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel_log.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_signals.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

constexpr int kMaxErrno = 4095;

// Lines about filters come as often as an application likes: at most ten a second are written.
bool may_log() {
    static std::atomic<int64_t> second{0};
    static std::atomic<int> written{0};
    int64_t now = monotonic_now() / kSecond;
    if (second.exchange(now, std::memory_order_relaxed) != now) written.store(0, std::memory_order_relaxed);
    return written.fetch_add(1, std::memory_order_relaxed) < 10;
}

void log_verdict(Task& task, const SyscallStop& call, uint32_t value) {
    if (!may_log()) return;
    const SyscallRow* row = find_syscall(call.nr);
    std::string line =
        fmt::format("seccomp: pid={} comm=\"{}\" syscall={} ({}) ip={:#x} code={:#x}", task.pid().root_number(),
                    task.name(), static_cast<int64_t>(call.nr), row != nullptr ? row->name : "?", call.ip, value);
    task.kernel().log().add(line);
    log::info("{}", line);
}

// The whole process, by SIGSYS whatever handles it; or the thread alone, if there are others.
void kill(Task& task, bool process_too, bool strict) {
    Process& process = task.process();
    std::lock_guard lock(process.signal_mutex);
    if (strict) return TaskRunner::request_exit(task, SIGKILL);
    if (process_too || process.signal_targets.size() <= 1) process.begin_group_exit_locked(SIGSYS | 0x80);
    TaskRunner::request_exit(task, SIGSYS);
}

void trap(Task& task, const SyscallStop& call, int data) {
    siginfo_t info{};
    info.si_signo = SIGSYS;
    info.si_code = 1;  // SYS_SECCOMP
    info.si_errno = data;
    info.si_call_addr = reinterpret_cast<void*>(call.ip);
    info.si_syscall = static_cast<int>(call.nr);
    info.si_arch = AUDIT_ARCH_X86_64;
    force_signal(task, info);
}

void set_locked(Task& task, Ref<SyscallFilter> filter) {
    Task::Parts& parts = task.parts();
    parts.filter.store(filter.get(), std::memory_order_release);
    parts.filter_owner = std::move(filter);
    TaskRunner::tell_facts(task);
}

}  // namespace

FilterOutcome apply_filter(Task& task, const SyscallStop& call, bool tracer_agreed) {
    const SyscallFilter* filter = task.parts().filter.load(std::memory_order_acquire);
    if (filter == nullptr) return {};
    seccomp_data data{};
    data.nr = static_cast<int>(call.nr);
    data.arch = call.arch;
    data.instruction_pointer = call.ip;
    for (size_t i = 0; i < 6; ++i) data.args[i] = call.args[i];
    auto [value, by] = filter->judge(data);
    auto detail = static_cast<int>(value & SECCOMP_RET_DATA);
    if (by->logs() && (value & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ALLOW) log_verdict(task, call, value);
    switch (value & SECCOMP_RET_ACTION_FULL) {
        case SECCOMP_RET_ALLOW:
            return {};
        case SECCOMP_RET_LOG:
            if (!by->logs()) log_verdict(task, call, value);
            return {};
        case SECCOMP_RET_ERRNO:
            return {false, -std::min(detail, kMaxErrno)};
        case SECCOMP_RET_TRAP:
            trap(task, call, detail);
            return {false, static_cast<int>(call.nr)};  // rax as before the call
        case SECCOMP_RET_TRACE:
            if (tracer_agreed) return {};
            if (!is_traced(task) || (task.parts().tracing.options & PTRACE_O_TRACESECCOMP) == 0)
                return {false, -ENOSYS};
            return {false, -ENOSYS, static_cast<uint32_t>(detail)};
        case SECCOMP_RET_USER_NOTIF: {
            if (by->notices() == nullptr) return {false, -ENOSYS};
            auto answer = by->notices()->ask(task, data, by->waits_killable());
            if (!answer.ok()) return {false, -errno_of(answer.error())};
            if (!answer->has_value()) return {};
            return {false, **answer};
        }
        case SECCOMP_RET_KILL_THREAD:
            if (!by->logs()) log_verdict(task, call, value);
            kill(task, false, by->is_strict());
            return {false, -ENOSYS};
        default:
            if (!by->logs()) log_verdict(task, call, value);
            kill(task, true, false);
            return {false, -ENOSYS};
    }
}

SysResult<int64_t> add_filter(Task& task, std::vector<sock_filter> program, SyscallFilter::Options options,
                              FilterSync sync) {
    bool unprivileged = no_new_privileges(task, task.credentials());
    if (!unprivileged && !task.has_capability(CAP_SYS_ADMIN)) return Errno(EACCES);
    Ref<SyscallFilter> mine;
    {
        std::lock_guard lock(task.process().signal_mutex);
        mine = task.parts().filter_owner;
    }
    // What is dropped at the end goes behind the lock.
    std::vector<Ref<SyscallFilter>> dropped;
    while (true) {
        if (mine && mine->is_strict()) return Errno(EINVAL);
        Ref<SyscallFilter> made = TRY(SyscallFilter::create(program, options, mine));
        std::lock_guard lock(task.process().signal_mutex);
        // Another thread's TSYNC may have come meanwhile.
        if (task.parts().filter_owner != mine) {
            mine = task.parts().filter_owner;
            dropped.push_back(std::move(made));
            continue;
        }
        if (sync.all_threads) {
            for (Task* other : task.process().signal_targets) {
                const SyscallFilter* theirs = other->parts().filter_owner.get();
                if (other == &task || theirs == nullptr || (mine && mine->is_or_above(theirs))) continue;
                dropped.push_back(std::move(made));
                if (sync.errno_only) return Errno(ESRCH);
                return other->tid();
            }
            for (Task* other : task.process().signal_targets) {
                if (other == &task) continue;
                dropped.push_back(other->parts().filter_owner);
                set_locked(*other, made);
                if (unprivileged) other->parts().no_new_privileges_by_sync.store(true);
            }
        }
        dropped.push_back(std::move(mine));
        set_locked(task, std::move(made));
        return 0;
    }
}

SysResult<void> set_strict(Task& task) {
    Ref<SyscallFilter> strict = SyscallFilter::strict();
    std::lock_guard lock(task.process().signal_mutex);
    const SyscallFilter* now = task.parts().filter_owner.get();
    if (now != nullptr) return now->is_strict() ? SysResult<void>() : Errno(EINVAL);
    set_locked(task, std::move(strict));
    return {};
}

void set_first_filter(Task& task, Ref<SyscallFilter> filter) {
    std::lock_guard lock(task.process().signal_mutex);
    set_locked(task, std::move(filter));
}

void inherit_filter_locked(Task& maker, Task& made) {
    if (maker.parts().filter_owner) set_locked(made, maker.parts().filter_owner);
    if (maker.parts().no_new_privileges_by_sync.load()) made.parts().no_new_privileges_by_sync.store(true);
}

void drop_filter(Task& task) {
    Ref<SyscallFilter> dropped;
    std::lock_guard lock(task.process().signal_mutex);
    task.parts().filter.store(nullptr);
    std::swap(dropped, task.parts().filter_owner);
}

bool no_new_privileges(const Task& task, const Credentials& credentials) {
    return credentials.no_new_privileges || task.parts().no_new_privileges_by_sync.load();
}

SeccompStatus seccomp_status(Task& task) {
    std::lock_guard lock(task.process().signal_mutex);
    const SyscallFilter* filter = task.parts().filter_owner.get();
    if (filter == nullptr) return {};
    if (filter->is_strict()) return {SECCOMP_MODE_STRICT, 0};
    return {SECCOMP_MODE_FILTER, filter->depth()};
}

}  // namespace casemate::sentry
