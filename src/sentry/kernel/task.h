// Task: one thread of an application, driven by one thread of the sentry.
//
// Split by concern: task_run.cc (the loop), task_clone.cc, task_exec.cc, task_exit.cc, task_signals.cc, task_stop.cc,
// task_wait.cc. Handlers of syscalls get their Task by reference and run on its thread; everything another task may
// touch is behind a lock or atomic.
//
// Lock order (an inner one is taken while the outer ones may be held):
//   TaskSet::mutex (all tasks, processes, groups, sessions, parents)
//     Process::signal_mutex (pending signals, masks, stops)
//       SignalHandlers::mutex
//       Task::mutex_
//   directory mutexes, inode locks
//     futex buckets
//       AddressSpace lock
//         Mappable locks
//           MemoryFile
//   WaitQueue::mutex_ and TimerThread::mutex_ are innermost of all.
#pragma once

#include <sys/resource.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/errno.h"
#include "sentry/kernel/pid.h"
#include "sentry/kernel/signals.h"
#include "sentry/kernel/user.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/address_space.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"

namespace casemate::sentry {

class Kernel;
class Process;      // a thread group; kernel/process.h
struct Namespaces;  // kernel/namespaces.h

class Task final : public RefCounted {
  public:
    Kernel& kernel() const { return kernel_; }
    Process& process() const { return *process_; }
    int tid() const { return tid_.load(std::memory_order_relaxed); }  // in its own pid namespace
    int tgid() const { return tgid_; }                                // likewise
    Pid& pid() const { return *pid_; }                                // changes only in exec, under TaskSet::mutex
    PidNamespace& pid_namespace() const { return pid_->space(); }

    // The parts that clone may share. Changed only by the task itself (exec, unshare, setuid); read by it without a
    // lock, by others through the *_of functions below.
    AddressSpace& memory() const { return *memory_; }
    FdTable& files() const { return *files_; }
    FsContext& fs() const { return *fs_; }
    const Credentials& credentials() const { return *credentials_; }
    Namespaces& namespaces() const { return *namespaces_; }
    void set_credentials(Ref<Credentials> credentials);
    void set_namespaces(Ref<Namespaces> namespaces);
    void set_files(Ref<FdTable> files);
    void set_fs(Ref<FsContext> fs);
    bool has_capability(int capability) const { return credentials_->has(capability); }

    // The parts as seen by others (/proc, kill, prlimit). Null once the task has given them up.
    Ref<AddressSpace> memory_of();
    Ref<FdTable> files_of();
    Ref<FsContext> fs_of();
    Ref<Credentials> credentials_of();
    Ref<Namespaces> namespaces_of();
    std::string name();  // comm
    void set_name(std::string_view name);
    // As in /proc/PID/stat: R, S, T, Z, X.
    char state();

    // Copies of application memory, as AddressSpace's.
    template <typename T>
    SysResult<T> read(UserPtr<T> from) {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        TRY(memory().copy_in(from.address, &value, sizeof(T)));
        return value;
    }
    template <typename T>
    SysResult<void> write(UserPtr<T> into, const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return memory().copy_out(into.address, &value, sizeof(T));
    }
    SysResult<std::string> read_path(GuestAddr address);  // PATH_MAX; ENAMETOOLONG, EFAULT

    // RLIMIT_*: the soft limit.
    uint64_t limit(int resource) const;

    // Blocking. The pattern, race-free because the queue is joined before the condition is looked at:
    //
    //     return task.wait_on(queue, EPOLLIN, deadline, [&]() -> std::optional<SysResult<size_t>> { try once; });
    //
    // `attempt` returns a value to end, nullopt to go on waiting. Ends with kRestartSys when a signal is to be handled
    // (or the task dies), ETIMEDOUT at the deadline.
    template <typename Attempt>
    auto wait_on(WaitQueue& queue, uint32_t events, Deadline deadline, Attempt attempt) ->
        typename std::invoke_result_t<Attempt>::value_type {
        if (auto done = attempt()) return std::move(*done);
        ThreadWaiter waiter(*this, events);
        queue.add(waiter);
        while (true) {
            waiter.arm();
            if (auto done = attempt()) {
                queue.remove(waiter);
                return std::move(*done);
            }
            auto slept = waiter.sleep(deadline);
            if (!slept.ok()) {
                queue.remove(waiter);
                return slept.take_error();
            }
        }
    }
    // The same for a call that has changed nothing yet, and may be made again from its beginning: it ends with kParked
    // where its thread need not wait for it (parked_call.h). `keep` owns the queue; `unchanged()` tells whether the
    // call could still be made again.
    template <typename Attempt, typename Unchanged>
    auto wait_or_park(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events, Deadline deadline, Attempt attempt,
                      Unchanged unchanged) -> typename std::invoke_result_t<Attempt>::value_type {
        using Answer = typename std::invoke_result_t<Attempt>::value_type;
        if (auto done = attempt()) return std::move(*done);
        if (unchanged() && begin_park(deadline)) {
            park_at(std::move(keep), queue, events);
            if (auto done = attempt()) {
                cancel_park();
                return std::move(*done);
            }
            if (unchanged()) return Answer(Errno(kParked));
            cancel_park();
        }
        return wait_on(queue, events, deadline, attempt);
    }
    template <typename Attempt>
    auto wait_or_park(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events, Deadline deadline, Attempt attempt) ->
        typename std::invoke_result_t<Attempt>::value_type {
        return wait_or_park(std::move(keep), queue, events, deadline, attempt, [] { return true; });
    }
    // The steps of that: begin, queue at one or several, look at the condition again, then either cancel or end the
    // call with kParked. False: it has to wait in the ordinary way, until `deadline` as it is then.
    bool begin_park(Deadline& deadline);
    void park_at(Ref<RefCounted> keep, WaitQueue& queue, uint32_t events);
    void cancel_park();
    // A relative time-out does not start again when a parked call is made again.
    Deadline deadline_of_call(Deadline fresh) const;
    // The calling thread makes a call of this task, but is not its own: it may not sleep.
    bool borrowed() const;

    // Sleeps until woken by `notified`, a signal (kRestartSys) or the deadline (ETIMEDOUT).
    enum class Interruptible { kYes, kOnlyByDeath };
    class ThreadWaiter final : public Waiter {
      public:
        ThreadWaiter(Task& task, uint32_t events) : Waiter(events), task_(task) {}
        void arm() { woken_.store(false, std::memory_order_seq_cst); }
        bool woken() const { return woken_.load(std::memory_order_acquire); }
        SysResult<void> sleep(Deadline deadline, Interruptible how = Interruptible::kYes);
        bool notified(uint32_t events) override;
        // From another queue's waiter, under the lock of that queue.
        void wake() {
            Task& task = task_;
            mark();
            task.unpark();
        }
        // Without a queue (futexes): mark() under the lock that the sleeper checks, then Task::unpark(). Once marked,
        // the waiter may be gone.
        void mark() { woken_.store(true, std::memory_order_seq_cst); }

      private:
        Task& task_;
        std::atomic<bool> woken_{false};
    };
    // Wakes its thread from a sleep to look at its waiter again.
    void unpark();
    // Sleeps until a signal (kRestartSys) or the deadline (ETIMEDOUT).
    SysResult<void> sleep_until(Deadline deadline);

    // A signal to be acted on is pending (or the task must die, stop, freeze): blocking calls end.
    bool interrupted() const { return attention_.load(std::memory_order_acquire) & kInterrupts; }
    // Makes the task look at its signals soon: out of application code or out of a sleep. From any thread.
    void interrupt();
    // The task or its process is to end whatever happens.
    bool dying() const;

    // For a call that returns kRestartBlock: how to go on after a stop or an ignored signal. Own thread only.
    void set_restart(std::function<SysResult<int64_t>(Task&)> again);
    // ppoll, pselect, epoll_pwait, sigsuspend: the mask for the rest of this syscall and for choosing the signal that
    // ends it; restored after the call (behind the handler's frame if one runs). Own thread only.
    void set_temporary_mask(SignalSet mask);
    // A signal to this thread only.
    void send_signal(const siginfo_t& info);
    void send_signal(int signo) { send_signal(kernel_signal(signo)); }
    // Takes a pending signal of `wanted` (its own or its process's): signalfd, sigtimedwait.
    std::optional<siginfo_t> take_signal(SignalSet wanted);
    // Which of `wanted` are pending for it: signalfd's poll.
    SignalSet pending_signals();
    SignalSet pending_signals_locked();  // with Process::signal_mutex held
    SignalSet signal_mask();

    // Registers of the application at the present stop; only when has_registers() (clone, exec, sigreturn and such).
    bool has_registers() const;
    Registers& registers();
    AppThread& app() const { return *app_; }

    struct Parts;  // kernel/task_parts.h: signal mask, pending signals, alternate stack, robust list...
    Parts& parts() const { return *parts_; }

  private:
    friend class TaskRunner;  // task_run.cc and the other parts of the task
    friend class TaskSet;
    friend class TaskBuilder;  // task_clone.cc
    friend class TaskFixture;  // kernel/task_fixture_test.h
    Task(Kernel& kernel, Ref<Process> process);
    ~Task() override;

    static constexpr uint32_t kInterrupts = 1;  // blocking calls end
    static constexpr uint32_t kLook = 2;        // the run loop has something to do before application code goes on

    Kernel& kernel_;
    Ref<Process> process_;
    Ref<Pid> pid_;
    std::atomic<int> tid_{0};
    int tgid_ = 0;
    std::atomic<uint32_t> attention_{0};
    std::atomic<uint32_t> park_word_{0};  // 1: the task sleeps on it
    std::atomic<bool> in_application_{false};

    std::mutex mutex_;  // guards changes of the Refs below and the name
    Ref<AddressSpace> memory_;
    Ref<FdTable> files_;
    Ref<FsContext> fs_;
    Ref<Credentials> credentials_;
    Ref<Namespaces> namespaces_;
    std::string name_;
    std::unique_ptr<AppThread> app_;  // destroyed before memory_
    std::unique_ptr<Parts> parts_;
};

}  // namespace casemate::sentry
