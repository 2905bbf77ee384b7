// signalfd(2): pending signals of the reading task, read as records.
#pragma once

#include <atomic>

#include "sentry/kernel/signals.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class Process;

class SignalFile final : public File {
  public:
    // `process`: whose signals poll waits for (the maker's; epoll has no other task to ask for).
    SignalFile(Path path, int flags, SignalSet mask, Ref<Process> process);
    ~SignalFile() override;

    void set_mask(SignalSet mask);
    uint32_t poll_events(Task* task) override;
    WaitQueue* waiters() override;
    bool seekable() const override { return false; }
    SignalFile* as_signal_file() override { return this; }
    std::string fdinfo(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;

  private:
    std::atomic<SignalSet> mask_;
    const Ref<Process> process_;
};

}  // namespace casemate::sentry
