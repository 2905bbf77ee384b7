// Kernel: the sentry's one application kernel: everything that lives as long as the pod.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/clock.h"
#include "sentry/mm/memory_file.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {

class TaskSet;      // kernel/task_set.h: all tasks, processes, groups, sessions, pids
class FutexTable;   // kernel/futex.h
class TimerThread;  // kernel/timers.h: one thread that fires all timers
class TaskThreads;  // kernel/task_threads.h: the sentry's threads behind tasks
class UserNamespace;
class OomKiller;     // kernel/oom_killer.h: what happens when the pod's memory is used up
class KernelLog;     // kernel/kernel_log.h: what dmesg shows
class SyscallWatch;  // kernel/syscall_watch.h: the record of system calls and the profile, while somebody asks for them
class Vdso;          // vdso/vdso.h

struct KernelOptions {
    unsigned cpus = 1;                        // shown to applications and in sched_getaffinity
    uint64_t memory_limit = 0;                // bytes; 0: none
    std::string release = "6.12.0-casemate";  // uname -r
    std::string version = "#1 SMP Casemate";
    bool trace = false;  // strace-like record to the log
};

class Kernel {
  public:
    Kernel(Platform& platform, MemoryFile& memory, KernelOptions options);
    ~Kernel();

    Platform& platform() const { return platform_; }
    MemoryFile& memory() const { return memory_; }
    const KernelOptions& options() const { return options_; }
    TaskSet& tasks() const { return *tasks_; }
    FutexTable& futexes() const { return *futexes_; }
    TimerThread& timers() const { return *timers_; }
    TaskThreads& threads() const { return *threads_; }
    Vdso* vdso() const { return vdso_.get(); }  // may be null
    UserNamespace& user_namespace() const { return *user_namespace_; }
    Nanoseconds boot_time() const { return boot_time_; }  // CLOCK_MONOTONIC
    OomKiller& oom_killer() const { return *oom_killer_; }
    KernelLog& log() const { return *log_; }
    SyscallWatch& watch() const { return *watch_; }
    // Whether somebody watches: what each system call looks at.
    bool watched() const { return watched_.load(std::memory_order_relaxed); }
    void set_watched(bool on) { watched_.store(on, std::memory_order_relaxed); }

    // Anonymous file systems for objects without a name in the tree (pipes, sockets, memfd, anon inodes).
    FileSystem& anonymous_files() const { return *anonymous_files_; }
    void set_anonymous_files(Ref<FileSystem> files);

  private:
    Platform& platform_;
    MemoryFile& memory_;
    KernelOptions options_;
    Nanoseconds boot_time_;
    std::atomic<bool> watched_{false};
    Ref<UserNamespace> user_namespace_;
    Ref<FileSystem> anonymous_files_;
    std::unique_ptr<TaskSet> tasks_;
    std::unique_ptr<FutexTable> futexes_;
    std::unique_ptr<TimerThread> timers_;
    std::unique_ptr<TaskThreads> threads_;
    std::unique_ptr<KernelLog> log_;
    std::unique_ptr<OomKiller> oom_killer_;
    std::unique_ptr<SyscallWatch> watch_;
    std::unique_ptr<Vdso> vdso_;
};

}  // namespace casemate::sentry
