// FilterNotices: the system calls of a filter with SECCOMP_RET_USER_NOTIF that wait for another process to answer them,
// and the descriptor through which it does (SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_IOCTL_NOTIF_*).
//
// The caller waits on its own thread; the supervisor's ioctls run on its own. Everything is behind one lock.
#pragma once

#include <linux/seccomp.h>

#include <list>
#include <mutex>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class FilterNotices final : public RefCounted {
  public:
    // Asks the supervisor about a call and waits. The result of the call, or nothing if it is to be carried out
    // (SECCOMP_USER_NOTIF_FLAG_CONTINUE). ENOSYS without a supervisor, kRestartSys when a signal comes first.
    SysResult<std::optional<int64_t>> ask(Task& task, const seccomp_data& data, bool wait_killable);
    // The last task with the filter has gone.
    void filter_gone();
    // The last descriptor was closed: all that wait, and all to come, get ENOSYS.
    void supervisor_gone();

    // The ioctls; `task` is the supervisor.
    SysResult<int64_t> receive(Task& task, GuestAddr into);
    SysResult<int64_t> answer(Task& task, GuestAddr from);
    SysResult<int64_t> check_id(Task& task, GuestAddr from);
    SysResult<int64_t> add_descriptor(Task& task, GuestAddr from, size_t size);

    uint32_t poll_events();
    WaitQueue& waiters() { return waiters_; }

  private:
    // One call; on the stack of its task, in calls_ while it waits.
    struct Call {
        uint64_t id = 0;
        Task* task = nullptr;
        seccomp_data data{};
        enum class State { kNew, kSent, kAnswered } state = State::kNew;
        int64_t value = 0;
        int error = 0;
        bool carry_out = false;
    };
    Call* find_locked(uint64_t id);

    std::mutex mutex_;
    std::list<Call*> calls_;    // guarded by mutex_
    uint64_t last_id_ = 0;      // guarded by mutex_
    bool filter_gone_ = false;  // guarded by mutex_
    bool supervised_ = true;    // guarded by mutex_
    WaitQueue waiters_;         // the supervisor's
    WaitQueue callers_;
};

// The open file for the supervisor: "anon_inode:seccomp notify".
Ref<File> make_listener(Path place, Ref<FilterNotices> notices);

}  // namespace casemate::sentry
