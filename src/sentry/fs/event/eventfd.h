// eventfd(2): a counter that can be waited for.
#pragma once

#include <mutex>

#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class EventFile final : public File {
  public:
    EventFile(Path path, int flags, uint64_t initial, bool semaphore);

    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override { return &waiters_; }
    bool seekable() const override { return false; }
    std::string fdinfo(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    const bool semaphore_;
    std::mutex mutex_;
    uint64_t count_;  // guarded by mutex_
    WaitQueue waiters_;
};

}  // namespace casemate::sentry
