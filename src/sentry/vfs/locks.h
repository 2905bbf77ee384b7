// Advisory locks of one inode: POSIX record locks (owned by a descriptor table), OFD locks and flock (owned by an open
// file description). POSIX and OFD locks conflict with each other, flock only with itself.
//
// Blocking POSIX requests look for cycles of owners that wait for one another and answer EDEADLK (of one file system's
// locks or of many: the wait graph is one for all inodes).
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "base/result.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class Task;

class InodeLocks {
  public:
    enum class Kind : uint8_t { kPosix, kDescription };
    struct Range {
        int64_t start = 0, end = 0;  // end is exclusive; INT64_MAX: to the end of the file, wherever that is
        bool exclusive = false;
        Kind kind = Kind::kPosix;
        const void* owner = nullptr;  // FdTable or File
        int pid = 0;                  // shown by F_GETLK; -1 of OFD locks
    };

    // Sets a lock (replacing and splitting what the owner held in the range). EAGAIN, or with `wait` blocks: EDEADLK,
    // kRestartSys.
    SysResult<void> set_range(Task& task, const Range& wanted, bool wait);
    void clear_range(const Range& range);
    // The first lock that conflicts with `wanted`.
    std::optional<Range> conflict(const Range& wanted);

    // LOCK_SH or LOCK_EX; EWOULDBLOCK.
    SysResult<void> flock(Task& task, const void* owner, bool exclusive, bool wait);
    void unflock(const void* owner);

    void release_owner(const void* descriptor_table);  // POSIX locks, at any close
    void release_description(const void* file);        // OFD and flock, at the last close

    // For /proc/locks.
    struct Shown {
        Range range;
        bool flock = false;
    };
    std::vector<Shown> snapshot();

  private:
    std::optional<Range> conflict_locked(const Range& wanted) const;
    void clear_locked(const Range& range);
    bool try_flock_locked(const void* owner, bool exclusive);

    std::mutex mutex_;
    std::vector<Range> ranges_;  // guarded by mutex_
    struct Flock {
        const void* owner;
        bool exclusive;
    };
    std::vector<Flock> flocks_;  // guarded by mutex_
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
