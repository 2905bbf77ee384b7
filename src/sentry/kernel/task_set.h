// TaskSet: all tasks and processes of the pod, and the lock over their relations.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/pid.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

class TaskSet {
  public:
    TaskSet();
    ~TaskSet();

    std::mutex mutex;
    const Ref<PidNamespace> root_space;

    // By number in `space`; null if there is none. A task that exited but is not released (a zombie leader) is found.
    Ref<Task> find_task(PidNamespace& space, int tid);
    Ref<Process> find_process(PidNamespace& space, int pid);
    Pid* find_pid_locked(PidNamespace& space, int number);
    // All processes not reaped yet that `space` sees, by number: /proc, kill(-1).
    std::vector<Ref<Process>> processes(PidNamespace& space);
    std::vector<Ref<Task>> threads_of(Process& process);
    std::vector<Ref<Process>> processes_of(Container& container);
    size_t task_count();

    // Pauses all tasks of a container at their next step, or lets them go on.
    void freeze(Container& container, bool frozen);
    void kill_all(Container& container, int signo);
    // Blocks until no thread of the container (null: of the pod) is left.
    void wait_until_gone(Container* container);

    // The process whose number `pid` is in the caller's namespace, with the names of /proc: parent and such.
    int parent_pid_locked(Process& process, PidNamespace& space);
    Task* any_live_thread_locked(Process& process);

    // Members of a group or session, with mutex held.
    void join_group_locked(Process& process, Ref<Pid> group);
    void join_session_locked(Process& process, Ref<Session> session);
    // POSIX: no member has a parent in another group of the same session.
    bool group_is_orphaned_locked(Pid& group, Process* ignored);

  private:
    friend class TaskRunner;
    friend class TaskBuilder;
    // Owned: one reference per thread until it is released, one per process until it is reaped.
    size_t tasks_ = 0;
    std::condition_variable task_gone_;
};

}  // namespace casemate::sentry
