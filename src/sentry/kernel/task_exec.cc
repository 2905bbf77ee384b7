// execve from the moment the new program is loaded.
#include <linux/ptrace.h>

#include <algorithm>

#include "sentry/kernel/cpu_times.h"
#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_release.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {

// All other threads of the process end, and the caller becomes its leader.
SysResult<void> TaskRunner::become_only_thread(Task& task) {
    Process& process = task.process();
    TaskSet& tasks = task.kernel().tasks();
    std::vector<Ref<RefCounted>> dropped;  // goes behind the lock
    WakeBatch::flush();
    std::unique_lock lock(tasks.mutex);
    {
        std::lock_guard signal_lock(process.signal_mutex);
        if (process.group_exiting || process.exec_task.load() != nullptr) return Errno(EAGAIN);
        if (process.threads.size() > 1) {
            process.exec_task.store(&task);
            process.stop_changed.notify_all();
            for (Task* other : process.signal_targets)
                if (other != &task) other->interrupt();
        }
    }
    auto others_gone = [&] {
        return std::all_of(process.threads.begin(), process.threads.end(),
                           [&](Task* one) { return one == &task || one->parts().dead.load() != 0; });
    };
    // A fatal signal ends this thread too; the others are ending anyhow, so the wait is short either way.
    process.thread_gone.wait(lock, others_gone);
    if (Task* old = process.leader; old != &task) {
        // The caller takes the leader's number; its own is given back with the old leader's task.
        Ref<Pid> mine = task.pid_;
        task.pid_ = process.pid;
        old->pid_ = mine;
        process.pid->task = &task;
        mine->task = old;
        process.leader = &task;
        task.tid_.store(process.pid->number());
        release_task_locked(*old, dropped);
        std::erase(process.threads, &task);
        process.threads.insert(process.threads.begin(), &task);
    }
    std::lock_guard signal_lock(process.signal_mutex);
    process.exec_task.store(nullptr);
    lock.unlock();
    return {};
}

SysResult<void> TaskRunner::take_program(Task& task, LoadedProgram program) {
    auto app = TRY(program.memory->host().create_thread());
    Registers& registers = app->registers();
    registers.ip = program.entry;
    registers.sp = program.stack;
    registers.flags = 0x202;
    std::unique_ptr<AppThread> old_app;
    Ref<AddressSpace> old_memory = std::move(program.memory);
    Ref<Credentials> credentials = std::move(program.credentials);
    bool first = task.memory_.get() == nullptr;
    if (!first) account_address_space_left(task);
    task.parts().standing_answers.drop();
    {
        std::lock_guard lock(task.mutex_);
        old_app = std::move(task.app_);
        task.app_ = std::move(app);
        task.app_->set_quick_calls(&task.parts().quick_calls);
        std::swap(task.memory_, old_memory);
        std::swap(task.credentials_, credentials);
        task.name_ = program.name.substr(0, 15);
        tell_facts_locked(task);
    }
    account_address_space_joined(task);
    old_app.reset();  // before the address space it belongs to
    return {};
}

SysResult<int64_t> TaskRunner::exec(Task& task, LoadedProgram program) {
    Process& process = task.process();
    Task::Parts& parts = task.parts();
    int number_before = task.tid();
    TRY(become_only_thread(task));
    // From here on there is no way back: a failure kills.
    task.kernel().futexes().task_exits(task);
    parts.futexes_released.store(false);
    parts.robust_list = 0;
    if (parts.clear_child_tid != 0) {
        uint32_t zero = 0;
        if (task.memory().copy_out(parts.clear_child_tid, &zero, sizeof(zero)).ok())
            static_cast<void>(task.kernel().futexes().wake(task, parts.clear_child_tid, 1, ~0u, false));
        parts.clear_child_tid = 0;
    }
    process.posix_timers->remove_all();
    Ref<Hold> hold = std::move(parts.hold);
    auto taken = take_program(task, std::move(program));
    if (!taken.ok()) {
        if (hold) hold->child_left();
        std::lock_guard lock(process.signal_mutex);
        process.begin_group_exit_locked(SIGKILL);
        return taken.take_error();
    }
    if (hold) hold->child_left();

    // What CLONE_FILES shared is not closed for others.
    if (task.files_->ref_count() > 1) task.set_files(task.files_->clone());
    for (const Ref<File>& file : task.files_->remove_close_on_exec()) file->descriptor_closed(task);
    {
        std::lock_guard lock(process.signal_mutex);
        process.handlers = process.handlers->clone();
        for (SignalAction& action : process.handlers->actions) {
            uint64_t kept = action.is_ignore() ? 1 : 0;
            action = SignalAction{};
            action.handler = kept;
        }
    }
    parts.alternate_stack = AlternateStack{};
    parts.restart = nullptr;
    parts.tracing.watchpoints = Watchpoints{};
    {
        std::lock_guard lock(task.kernel().tasks().mutex);
        process.exit_signal = process.exit_signal != 0 || process.parent != nullptr ? SIGCHLD : 0;
        process.has_executed = true;
    }
    if (is_traced(task)) {
        if ((parts.tracing.options & PTRACE_O_TRACEEXEC) != 0)
            stop_for_event(task, PTRACE_EVENT_EXEC, static_cast<uint64_t>(number_before));
        else if (!parts.tracing.seized)
            task.send_signal(SIGTRAP);
    }
    return Errno(kRegistersSet);
}

void TaskRunner::end_unstarted(Task& task) {
    if (task.memory_) {
        task.parts().standing_answers.drop();
        std::unique_ptr<AppThread> app = std::move(task.app_);
        app.reset();
        task.memory_.reset();
    }
    end(task);
}

}  // namespace casemate::sentry
