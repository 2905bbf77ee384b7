// Stops of job control, and the freezing of a container: a task parks at the edge to application code.
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_run.h"
#include "sentry/kernel/task_set.h"
#include "sentry/kernel/task_signals.h"

namespace casemate::sentry {

bool TaskRunner::must_park(Task& task) {
    if (task.process().container->frozen()) return true;
    std::lock_guard lock(task.process().signal_mutex);
    // A traced task has told its tracer of the stop, which had it go on.
    return task.process().stop_signal != 0 && !(is_traced(task) && task.parts().tracing.group_stop_over);
}

// A stop signal with default action was taken.
void TaskRunner::begin_stop(Task& task, int signo) {
    Process& process = task.process();
    if (signo != SIGSTOP) {
        // Nobody could ever continue an orphaned group.
        std::lock_guard lock(process.kernel.tasks().mutex);
        if (process.kernel.tasks().group_is_orphaned_locked(*process.group, nullptr)) return;
    }
    std::lock_guard lock(process.signal_mutex);
    if (process.group_exiting || process.stop_signal != 0) return;
    // A SIGCONT that came since the signal was taken cancels it.
    if (((process.pending.set() | task.parts().pending.set()) & signal_bit(SIGCONT)) != 0) return;
    process.stop_signal = signo;
    process.stop_code = signo;
    process.stopped = false;
    process.stopped_threads = 0;
    process.continue_unwaited = false;
    for (Task* other : process.signal_targets) {
        other->parts().tracing.group_stop_over = false;
        if (other != &task) other->interrupt();
    }
}

void TaskRunner::park(Task& task) {
    Process& process = task.process();
    Task::Parts& parts = task.parts();
    release_held_parent(task);
    WakeBatch::flush();
    std::unique_lock lock(process.signal_mutex);
    parts.parked.store(true);
    auto over = [&] {
        if (task.dying()) return true;
        if (process.container->frozen()) return false;
        return process.stop_signal == 0 || (is_traced(task) && !parts.tracing.group_stop_over);
    };
    while (!over()) {
        if (process.stop_signal != 0 && !parts.stop_counted) {
            parts.stop_counted = true;
            ++process.stopped_threads;
        }
        if (process.stop_signal != 0 && !process.stopped && process.stopped_threads >= process.signal_targets.size()) {
            process.stopped = true;
            process.stop_unwaited = true;
            lock.unlock();
            tell_parent_of_stop(process);
            WakeBatch::flush();
            lock.lock();
            continue;
        }
        process.stop_changed.wait(lock);
    }
    parts.parked.store(false);
    if (parts.stop_counted) {
        parts.stop_counted = false;
        if (process.stopped_threads > 0) --process.stopped_threads;
    }
    bool tell = std::exchange(process.continue_untold, false);
    lock.unlock();
    if (tell) tell_parent_of_continue(process);
}

}  // namespace casemate::sentry
