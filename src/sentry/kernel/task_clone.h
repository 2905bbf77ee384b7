// New tasks: clone(2) and its relatives, and the first process of a container.
#pragma once

#include "base/result.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"
#include "sentry/loader/loader.h"

namespace casemate::sentry {

struct CloneRequest {
    uint64_t flags = 0;  // CLONE_*, without the signal
    int exit_signal = 0;
    GuestAddr stack = 0;  // the new stack pointer; 0: the parent's
    GuestAddr parent_tid = 0, child_tid = 0, pidfd = 0;
    uint64_t tls = 0;
    std::vector<int> wanted_tids;  // clone3's set_tid: innermost namespace first
};
// Needs registers. The new thread's number as the caller sees it.
SysResult<int64_t> clone_task(Task& parent, const CloneRequest& request);

// A process that the sentry starts: the init of a container or an exec session in one.
struct SpawnRequest {
    Ref<Container> container;
    Ref<PidNamespace> pid_namespace;
    Ref<Namespaces> namespaces;
    Ref<FsContext> fs;
    Ref<FdTable> files;
    Ref<Credentials> credentials;
    ResourceLimits limits = default_limits();
    ProcessObserver* observer = nullptr;
    Ref<ControllingTerminal> terminal;
    bool new_init = false;    // first process of its pid namespace
    bool never_runs = false;  // only its Task is wanted, before there is an init: discard_process() will end it
};
// A process without a program yet: load_program() gives it one, start_process() lets it run. Its first thread is not
// running, so its Task may be used by the caller (to walk paths with its credentials). discard_process() if it shall
// not run after all.
class TaskBuilder {
  public:
    static SysResult<Ref<Task>> create_process(Kernel& kernel, SpawnRequest request);
    static SysResult<void> load_program(Task& task, LoadRequest request);
    static SysResult<void> start_process(Task& task);
    static void discard_process(Task& task);

  private:
    friend SysResult<int64_t> clone_task(Task& parent, const CloneRequest& request);
    static SysResult<int64_t> clone(Task& parent, const CloneRequest& request);
    static Ref<Task> new_task(Kernel& kernel, Ref<Process> process);
    static SysResult<std::unique_ptr<AppThread>> new_application(Task& parent, AddressSpace& memory,
                                                                 const CloneRequest& request);
    static SysResult<void> publish(Task& parent, Task& child, Ref<Pid> pid, const CloneRequest& request);
};

}  // namespace casemate::sentry
