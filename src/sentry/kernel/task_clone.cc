#include "sentry/kernel/task_clone.h"

#include <linux/ptrace.h>
#include <sched.h>

#include <cstring>

#include "base/scope_exit.h"
#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/interval_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/pidfd.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_release.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_threads.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kClearSighand = 0x100000000;  // CLONE_CLEAR_SIGHAND
constexpr uint64_t kNamespaceFlags =
    CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUSER | CLONE_NEWCGROUP;

SysResult<void> check_flags(Task& parent, const CloneRequest& request) {
    uint64_t flags = request.flags;
    if ((flags & CLONE_THREAD) != 0 && (flags & CLONE_SIGHAND) == 0) return Errno(EINVAL);
    if ((flags & CLONE_SIGHAND) != 0 && (flags & CLONE_VM) == 0) return Errno(EINVAL);
    if ((flags & kClearSighand) != 0 && (flags & CLONE_SIGHAND) != 0) return Errno(EINVAL);
    if ((flags & (CLONE_NEWNS | CLONE_FS)) == (CLONE_NEWNS | CLONE_FS)) return Errno(EINVAL);
    if ((flags & (CLONE_NEWUSER | CLONE_FS)) == (CLONE_NEWUSER | CLONE_FS)) return Errno(EINVAL);
    if ((flags & CLONE_THREAD) != 0 && (flags & (CLONE_NEWUSER | CLONE_NEWPID)) != 0) return Errno(EINVAL);
    // A thread lives in its process's pid namespace.
    if ((flags & (CLONE_THREAD | CLONE_VM)) != 0 &&
        parent.namespaces().pid_for_children.get() != &parent.pid_namespace() && (flags & CLONE_THREAD) != 0)
        return Errno(EINVAL);
    if ((flags & CLONE_PIDFD) != 0 && (flags & CLONE_DETACHED) != 0) return Errno(EINVAL);
    // Not beside an init.
    if ((flags & CLONE_PARENT) != 0 && parent.tgid() == 1) return Errno(EINVAL);
    return {};
}

SysResult<void> check_task_limits(Task& parent, Process& process) {
    Container& container = *process.container;
    uint64_t limit = container.task_limit.load();
    if (limit != 0 && container.tasks.load() >= limit) return Errno(EAGAIN);
    uint64_t user_limit = parent.limit(RLIMIT_NPROC);
    constexpr int kSysAdmin = 21, kSysResource = 24;
    if (user_limit == RLIM_INFINITY || parent.credentials().uid == 0 || parent.has_capability(kSysAdmin) ||
        parent.has_capability(kSysResource))
        return {};
    uint64_t used = 0;
    for (const Ref<Process>& one : parent.kernel().tasks().processes(*parent.kernel().tasks().root_space)) {
        std::vector<Ref<Task>> threads = parent.kernel().tasks().threads_of(*one);
        if (!threads.empty())
            if (auto credentials = threads[0]->credentials_of())
                if (credentials->uid == parent.credentials().uid) used += threads.size();
    }
    return used >= user_limit ? SysResult<void>(Errno(EAGAIN)) : SysResult<void>();
}

void copy_parts(Task& parent, Task& child, const CloneRequest& request) {
    Task::Parts& from = parent.parts();
    Task::Parts& parts = child.parts();
    parts.blocked = from.blocked;
    if ((request.flags & CLONE_VM) == 0 || (request.flags & CLONE_VFORK) != 0)
        parts.alternate_stack = from.alternate_stack;
    parts.personality = from.personality;
    parts.cpu_mask.store(from.cpu_mask.load());
    parts.scheduler_policy.store(from.scheduler_policy.load());
    parts.scheduler_priority.store(from.scheduler_priority.load());
    parts.timer_slack_ns.store(from.timer_slack_ns.load());
    parts.io_priority.store(from.io_priority.load());
    if ((request.flags & CLONE_CHILD_CLEARTID) != 0) parts.clear_child_tid = request.child_tid;
}

void copy_process(Process& from, Process& process, const CloneRequest& request) {
    process.set_limits(from.limits());
    process.oom_score_adj.store(from.oom_score_adj.load());
    process.nice.store(from.nice.load());
    std::lock_guard lock(from.signal_mutex);
    process.handlers = (request.flags & CLONE_SIGHAND) != 0 ? from.handlers : from.handlers->clone();
    if ((request.flags & kClearSighand) != 0) {
        for (SignalAction& action : process.handlers->actions)
            if (!action.is_ignore()) action = SignalAction{};
    }
}

// Which event the tracer of `parent` is told; 0: none.
int clone_event(Task& parent, const CloneRequest& request) {
    if (!is_traced(parent) || (request.flags & CLONE_UNTRACED) != 0) return 0;
    int event = (request.flags & CLONE_VFORK) != 0 ? PTRACE_EVENT_VFORK
                : request.exit_signal == SIGCHLD   ? PTRACE_EVENT_FORK
                                                   : PTRACE_EVENT_CLONE;
    return (parent.parts().tracing.options & (1u << event)) != 0 ? event : 0;
}

// The child of a traced task is its tracer's from the first instruction on. TaskSet::mutex held.
void trace_child_locked(Task& parent, Task& child) {
    Tracing& of_parent = parent.parts().tracing;
    Task* tracer = of_parent.tracer.load(std::memory_order_relaxed);
    if (tracer == nullptr) return;
    attach_tracer_locked(*tracer, child, of_parent.seized, of_parent.options);
    std::lock_guard lock(child.process().signal_mutex);
    if (of_parent.seized)
        child.parts().tracing.trap_wanted = true;
    else
        child.parts().pending.add(kernel_signal(SIGSTOP), UINT64_MAX);
    child.interrupt();
}

}  // namespace

Ref<Task> TaskBuilder::new_task(Kernel& kernel, Ref<Process> process) {
    return Ref<Task>::adopt(new Task(kernel, std::move(process)));
}

SysResult<int64_t> clone_task(Task& parent, const CloneRequest& request) { return TaskBuilder::clone(parent, request); }

SysResult<std::unique_ptr<AppThread>> TaskBuilder::new_application(Task& parent, AddressSpace& memory,
                                                                   const CloneRequest& request) {
    auto app = TRY(memory.host().create_thread());
    Registers& registers = app->registers();
    registers = parent.registers();
    registers.ax = 0;
    if (request.stack != 0) registers.sp = request.stack;
    if ((request.flags & CLONE_SETTLS) != 0) {
        if (request.tls >= parent.kernel().platform().max_user_address()) return Errno(EPERM);
        registers.fs_base = request.tls;
    }
    std::span<std::byte> fp = app->fp_state();
    std::memcpy(fp.data(), parent.app().fp_state().data(), fp.size());
    return app;
}

// Makes the thread, and its process, visible to others. EINTR: the caller is dying.
SysResult<void> TaskBuilder::publish(Task& parent, Task& child, Ref<Pid> pid, const CloneRequest& request) {
    bool thread = (request.flags & CLONE_THREAD) != 0;
    TaskSet& tasks = parent.kernel().tasks();
    Process& process = child.process();
    Process& from = parent.process();
    std::lock_guard lock(tasks.mutex);
    if (pid->space().dead) return Errno(ENOMEM);
    std::lock_guard signal_lock(from.signal_mutex);
    if (parent.dying()) return Errno(EINTR);
    inherit_filter_locked(parent, child);
    pid->task = &child;
    child.tid_.store(pid->number());
    child.pid_ = pid;
    child.ref();  // given back by release_task_locked
    ++tasks.tasks_;
    process.container->tasks.fetch_add(1);
    process.threads.push_back(&child);
    ++process.live_threads;
    if (thread) {
        child.tgid_ = parent.tgid_;
        process.signal_targets.push_back(&child);
        if (process.stop_signal != 0) child.interrupt();
        return {};
    }
    child.tgid_ = pid->number();
    process.signal_targets.push_back(&child);
    process.pid = pid;
    process.leader = &child;
    pid->process = &process;
    bool sibling = (request.flags & CLONE_PARENT) != 0;
    process.exit_signal = sibling ? from.exit_signal : request.exit_signal;
    process.parent = sibling ? from.parent : &from;
    process.creator = sibling ? from.creator : parent.pid_;
    PidNamespace& space = pid->space();
    if (space.init == nullptr) {
        space.init = &process;
        process.unkillable = true;
    }
    if (process.parent != nullptr) process.parent->children.push_back(&process);
    tasks.join_group_locked(process, from.group);
    tasks.join_session_locked(process, from.session);
    return {};
}

SysResult<int64_t> TaskBuilder::clone(Task& parent, const CloneRequest& request) {
    uint64_t flags = request.flags;
    Kernel& kernel = parent.kernel();
    TaskSet& tasks = kernel.tasks();
    TRY(check_flags(parent, request));
    TRY(check_task_limits(parent, parent.process()));
    bool thread = (flags & CLONE_THREAD) != 0;
    // A child must not be made by a parent that a signal to the group could miss: the signal first.
    if (!thread && parent.interrupted()) return Errno(kRestartNoIntr);
    // Who has children or threads of its own needs pages of its own.
    release_held_parent(parent);

    TRY(kernel.threads().reserve());
    ScopeExit give_thread_back([&] { kernel.threads().cancel_reservation(); });
    Ref<Process> process(&parent.process());
    if (!thread) {
        process = make_ref<Process>(kernel, parent.process().container);
        copy_process(parent.process(), *process, request);
    }
    Ref<Task> child = new_task(kernel, process);
    bool parent_held = false;
    if ((flags & CLONE_VM) != 0) {
        child->memory_ = parent.memory_;
    } else {
        // Nothing can be held while other threads of the parent run on, or where numbers are written to its memory.
        bool alone = parent.memory_->ref_count() == 1 && !is_traced(parent) &&
                     (flags & (CLONE_PARENT_SETTID | CLONE_PIDFD)) == 0;
        AddressSpace::ForkResult fork = TRY(parent.memory().fork(alone));
        child->memory_ = std::move(fork.child);
        parent_held = fork.parent_held;
    }
    child->app_ = TRY(new_application(parent, child->memory(), request));
    child->app_->set_quick_calls(&child->parts().quick_calls);
    child->files_ = (flags & CLONE_FILES) != 0 ? parent.files_ : parent.files_->clone();
    child->fs_ = (flags & CLONE_FS) != 0 ? parent.fs_ : parent.fs_->clone();
    child->credentials_ = parent.credentials_;
    child->namespaces_ = parent.namespaces_;
    child->name_ = parent.name();
    copy_parts(parent, *child, request);
    Ref<PidNamespace> space =
        thread ? Ref<PidNamespace>(&parent.pid_namespace()) : parent.namespaces_->pid_for_children;
    if ((flags & kNamespaceFlags) != 0) {
        child->namespaces_ = TRY(new_namespaces(parent, *child->fs_, flags & kNamespaceFlags));
        if ((flags & CLONE_NEWPID) != 0) space = child->namespaces_->pid_for_children;
    }
    if (!thread) account_address_space_joined(*child);

    // The number first: it is written to memory before anybody can see the child.
    Ref<Pid> pid;
    {
        std::lock_guard lock(tasks.mutex);
        pid = TRY(Pid::create_locked(*space, request.wanted_tids));
    }
    ScopeExit free_pid([&] {
        std::lock_guard lock(tasks.mutex);
        pid->release_if_unused_locked();
    });
    int number = pid->number_in(parent.pid_namespace());
    std::optional<int> pidfd;
    ScopeExit close_pidfd([&] {
        if (pidfd) static_cast<void>(parent.files().remove(*pidfd));
    });
    if ((flags & CLONE_PIDFD) != 0) {
        pidfd = TRY(parent.files().insert(make_pidfd(kernel, pid, 0), true, parent.limit(RLIMIT_NOFILE)));
        TRY(parent.write(UserPtr<int>(request.pidfd), *pidfd));
    }
    if ((flags & CLONE_PARENT_SETTID) != 0) static_cast<void>(parent.write(UserPtr<int>(request.parent_tid), number));
    if ((flags & CLONE_CHILD_SETTID) != 0)
        static_cast<void>(child->write(UserPtr<int>(request.child_tid), pid->number()));

    TRY(publish(parent, *child, pid, request));
    close_pidfd.dismiss();
    free_pid.dismiss();
    give_thread_back.dismiss();
    Ref<Hold> hold;
    if ((flags & CLONE_VFORK) != 0 || parent_held) {
        hold = make_ref<Hold>((flags & CLONE_VFORK) != 0);
        child->parts().hold = hold;
    }
    if (!thread) process->interval_timers->watch_cpu_limit();
    Ref<Task> awaited = hold ? child : nullptr;
    int event = clone_event(parent, request);
    uint64_t message = 0;
    if (event != 0 || ((flags & CLONE_PTRACE) != 0 && is_traced(parent))) [[unlikely]] {
        std::lock_guard lock(tasks.mutex);
        trace_child_locked(parent, *child);
        if (Task* tracer = parent.parts().tracing.tracer.load())
            message = static_cast<uint64_t>(pid->number_in(tracer->pid_namespace()));
    }
    // Who waits for it keeps no CPU busy.
    CloneRhythm& rhythm = parent.parts().clone_rhythm;
    const bool here = hold || rhythm.waits_soon();
    if (!hold) rhythm.cloned(monotonic_now());
    kernel.threads().start(std::move(child), here ? WakeOn::kThisCpu : WakeOn::kAnyCpu);
    if (event != 0) TaskRunner::stop_for_event(parent, event, message);
    if (hold) hold->wait(parent, *awaited);
    if ((flags & CLONE_VFORK) != 0 && is_traced(parent) &&
        (parent.parts().tracing.options & PTRACE_O_TRACEVFORKDONE) != 0)
        TaskRunner::stop_for_event(parent, PTRACE_EVENT_VFORK_DONE, message);
    return number;
}

// --------------------------------------------------------------------------------- processes of the sentry's own

SysResult<Ref<Task>> TaskBuilder::create_process(Kernel& kernel, SpawnRequest request) {
    TaskSet& tasks = kernel.tasks();
    auto process = make_ref<Process>(kernel, request.container);
    process->set_limits(request.limits);
    process->observer = request.observer;
    Ref<Task> task = new_task(kernel, process);
    task->fs_ = std::move(request.fs);
    task->files_ = std::move(request.files);
    task->credentials_ = std::move(request.credentials);
    task->namespaces_ = std::move(request.namespaces);
    std::lock_guard lock(tasks.mutex);
    PidNamespace& space = *request.pid_namespace;
    if (!request.new_init && !request.never_runs && space.init == nullptr) return Errno(ESRCH);
    Ref<Pid> pid = TRY(Pid::create_locked(space));
    std::lock_guard signal_lock(process->signal_mutex);
    pid->task = task.get();
    pid->process = process.get();
    task->pid_ = pid;
    task->tid_.store(pid->number());
    task->tgid_ = pid->number();
    task->ref();
    ++tasks.tasks_;
    process->container->tasks.fetch_add(1);
    process->pid = pid;
    process->leader = task.get();
    process->threads.push_back(task.get());
    process->live_threads = 1;
    process->signal_targets.push_back(task.get());
    process->exit_signal = 0;
    if (request.new_init) {
        space.init = process.get();
        process->unkillable = true;
    }
    // A session of its own, with the terminal if there is one.
    auto session = make_ref<Session>(pid);
    session->leader = process.get();
    tasks.join_group_locked(*process, pid);
    tasks.join_session_locked(*process, session);
    if (request.terminal) {
        request.terminal->session = session.get();
        request.terminal->foreground = pid;
        session->terminal = std::move(request.terminal);
    }
    return task;
}

SysResult<void> TaskBuilder::load_program(Task& task, LoadRequest request) {
    LoadedProgram program = TRY(load(task, std::move(request)));
    return TaskRunner::take_program(task, std::move(program));
}

SysResult<void> TaskBuilder::start_process(Task& task) {
    Kernel& kernel = task.kernel();
    TRY(kernel.threads().reserve());
    kernel.threads().start(Ref<Task>(&task), WakeOn::kAnyCpu);
    return {};
}

void TaskBuilder::discard_process(Task& task) { TaskRunner::end_unstarted(task); }

}  // namespace casemate::sentry
