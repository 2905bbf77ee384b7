// timerfd_create(2): expirations of a timer, read as a count.
#pragma once

#include <sys/timerfd.h>

#include <mutex>

#include "sentry/kernel/timers.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class TimerFile final : public File, private Timer {
  public:
    TimerFile(Path path, int flags, int clock, TimerThread& timers);
    ~TimerFile() override;

    // Nanoseconds; `value` 0 disarms. The old setting, with the time that was left.
    struct Setting {
        Nanoseconds value = 0, interval = 0;
    };
    Setting set(const Setting& now, bool absolute, bool cancel_on_set);
    Setting get();

    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override { return &waiters_; }
    bool seekable() const override { return false; }
    TimerFile* as_timer_file() override { return this; }
    std::string fdinfo(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;

  private:
    void expired() override;
    Nanoseconds clock_now() const;
    Setting get_locked();
    void count_locked();

    const int clock_;
    TimerThread& timers_;
    std::mutex mutex_;
    Nanoseconds due_ = 0;       // on clock_; 0: disarmed; guarded by mutex_
    Nanoseconds interval_ = 0;  // guarded by mutex_
    uint64_t expirations_ = 0;  // guarded by mutex_
    int set_flags_ = 0;         // guarded by mutex_
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
