#include "sentry/kernel/task_wait.h"

#include <sys/epoll.h>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_release.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {
namespace {

bool selected_locked(Process& child, Process& waiter, const WaitRequest& request) {
    switch (request.who) {
        case WaitRequest::Who::kAny:
            break;
        case WaitRequest::Who::kPid:
            if (child.pid != request.target) return false;
            break;
        case WaitRequest::Who::kGroup:
            if (child.group != request.target) return false;
            break;
        case WaitRequest::Who::kSameGroup:
            if (child.group != waiter.group) return false;
            break;
    }
    if ((request.options & __WALL) != 0) return true;
    bool clone_child = child.exit_signal != SIGCHLD;
    return clone_child == ((request.options & __WCLONE) != 0);
}

std::optional<WaitAnswer> look_locked(Process& child, const WaitRequest& request,
                                      std::vector<Ref<RefCounted>>& dropped) {
    Process& waiter = *child.parent;
    WaitAnswer answer;
    answer.pid = child.pid->number_in(waiter.pid->space());
    if (child.leader != nullptr)
        if (Ref<Credentials> credentials = child.leader->credentials_of()) answer.uid = credentials->uid;
    bool keep = (request.options & WNOWAIT) != 0;
    if (child.zombie) {
        if ((request.options & WEXITED) == 0) return std::nullopt;
        answer.status = child.exit_status;
        if ((answer.status & 0x7f) == 0) {
            answer.code = CLD_EXITED;
            answer.value = answer.status >> 8 & 0xff;
        } else {
            answer.code = (answer.status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED;
            answer.value = answer.status & 0x7f;
        }
        answer.use = child.final_use;
        answer.use.add(child.children_use);
        if (!keep) reap_process_locked(child, dropped);
        return answer;
    }
    std::unique_lock lock(child.signal_mutex);
    // Who traces it sees the stops of its threads, not those of the process.
    Task* tracer = child.leader != nullptr ? child.leader->parts().tracing.tracer.load() : nullptr;
    if (tracer != nullptr && &tracer->process() == &waiter) return std::nullopt;
    if ((request.options & WSTOPPED) != 0 && child.stopped && child.stop_unwaited) {
        answer.status = child.stop_code << 8 | 0x7f;
        answer.code = CLD_STOPPED;
        answer.value = child.stop_code;
        if (!keep) child.stop_unwaited = false;
    } else if ((request.options & WCONTINUED) != 0 && child.continue_unwaited) {
        answer.status = 0xffff;
        answer.code = CLD_CONTINUED;
        answer.value = SIGCONT;
        if (!keep) child.continue_unwaited = false;
    } else {
        return std::nullopt;
    }
    lock.unlock();
    answer.use = process_use_locked(child);
    return answer;
}

bool names(const WaitRequest& request, Process& waiter, Pid& pid, Pid* group) {
    switch (request.who) {
        case WaitRequest::Who::kPid:
            // A thread that ended is in no table any more.
            return pid.number_in(waiter.pid->space()) == request.number;
        case WaitRequest::Who::kGroup:
            return request.target.get() == group;
        case WaitRequest::Who::kSameGroup:
            return waiter.group.get() == group;
        default:
            return true;
    }
}

// The stops and ends of what the process traces. `any`: there is something that may still come.
std::optional<WaitAnswer> look_at_traced_locked(Task& task, const WaitRequest& request, bool& any,
                                                std::vector<Ref<RefCounted>>& dropped) {
    Process& waiter = task.process();
    bool keep = (request.options & WNOWAIT) != 0;
    for (size_t i = 0; i < waiter.traced_exits.size() && (request.options & WEXITED) != 0; ++i) {
        TracedExit& exit = waiter.traced_exits[i];
        if (!names(request, waiter, *exit.pid, exit.group.get())) continue;
        WaitAnswer answer;
        answer.pid = exit.pid->number_in(waiter.pid->space());
        answer.status = exit.status;
        answer.code = (exit.status & 0x7f) == 0 ? CLD_EXITED : CLD_KILLED;
        answer.value = (exit.status & 0x7f) == 0 ? exit.status >> 8 & 0xff : exit.status & 0x7f;
        answer.uid = exit.uid;
        if (!keep) {
            dropped.push_back(std::move(exit.pid));
            dropped.push_back(std::move(exit.group));
            waiter.traced_exits.erase(waiter.traced_exits.begin() + static_cast<ptrdiff_t>(i));
        }
        return answer;
    }
    for (Task* tracee : waiter.tracees) {
        Process& process = tracee->process();
        Tracing& tracing = tracee->parts().tracing;
        if (!names(request, waiter, tracee->pid(), process.group.get())) continue;
        if ((request.options & __WNOTHREAD) != 0 && tracing.tracer.load() != &task) continue;
        any = true;
        std::lock_guard lock(process.signal_mutex);
        if (!tracing.stopped || !tracing.unwaited) continue;
        if (!keep) tracing.unwaited = false;
        WaitAnswer answer;
        answer.pid = tracee->pid().number_in(waiter.pid->space());
        answer.status = tracing.code << 8 | 0x7f;
        answer.code = CLD_TRAPPED;
        answer.value = tracing.code;
        if (Ref<Credentials> credentials = tracee->credentials_of()) answer.uid = credentials->uid;
        return answer;
    }
    return std::nullopt;
}

}  // namespace

SysResult<WaitAnswer> wait_for_child(Task& task, const WaitRequest& request) {
    Process& waiter = task.process();
    TaskSet& tasks = task.kernel().tasks();
    auto attempt = [&]() -> std::optional<SysResult<WaitAnswer>> {
        std::vector<Ref<RefCounted>> dropped;  // goes behind the lock
        std::unique_lock lock(tasks.mutex);
        bool any = false;
        if (!waiter.tracees.empty() || !waiter.traced_exits.empty()) [[unlikely]] {
            if (auto answer = look_at_traced_locked(task, request, any, dropped)) {
                lock.unlock();
                return SysResult<WaitAnswer>(*answer);
            }
        }
        for (size_t i = 0; i < waiter.children.size(); ++i) {
            Process& child = *waiter.children[i];
            if (!selected_locked(child, waiter, request)) continue;
            if ((request.options & __WNOTHREAD) != 0 && child.creator.get() != &task.pid()) continue;
            any = true;
            if (auto answer = look_locked(child, request, dropped)) {
                lock.unlock();
                return SysResult<WaitAnswer>(*answer);
            }
        }
        lock.unlock();
        if (!any) return SysResult<WaitAnswer>(Errno(ECHILD));
        if ((request.options & WNOHANG) != 0) return SysResult<WaitAnswer>(WaitAnswer{});
        return std::nullopt;
    };
    return task.wait_or_park(Ref<RefCounted>(&waiter), waiter.child_waiters, EPOLLIN, std::nullopt, attempt);
}

}  // namespace casemate::sentry
