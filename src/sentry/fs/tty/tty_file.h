// The open ends of a terminal, and the terminals of the pod.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "sentry/fs/tty/terminal.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

// What ioctls of both ends and of /dev/tty share. nullopt: not a terminal command.
std::optional<SysResult<int64_t>> terminal_ioctl(Task& task, Terminal& terminal, bool master, uint64_t command,
                                                 uint64_t argument);

class TtySlaveFile final : public File {
  public:
    TtySlaveFile(Path path, int flags, Ref<Terminal> terminal);
    ~TtySlaveFile() override;

    Terminal& terminal() const { return *terminal_; }
    SysResult<int64_t> seek(Task&, int64_t, int) override { return Errno(ESPIPE); }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    uint32_t poll_events(Task*) override { return terminal_->poll_slave(); }
    WaitQueue* waiters() override { return &terminal_->slave_waiters; }
    bool seekable() const override { return false; }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    SysResult<void> check_job_control(Task& task, int signo);
    Ref<Terminal> terminal_;
};

class TtyMasterFile final : public File {
  public:
    TtyMasterFile(Path path, int flags, Ref<Terminal> terminal);
    ~TtyMasterFile() override;

    Terminal& terminal() const { return *terminal_; }
    SysResult<int64_t> seek(Task&, int64_t, int) override { return Errno(ESPIPE); }
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    uint32_t poll_events(Task*) override { return terminal_->poll_master(); }
    WaitQueue* waiters() override { return &terminal_->master_waiters; }
    bool seekable() const override { return false; }

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    Ref<Terminal> terminal_;
};

// open(2) of a slave by a session leader without a terminal makes it the controlling one, unless O_NOCTTY.
void adopt_terminal(Task& task, Terminal& terminal);
// The controlling terminal of the task's session; null if it has none.
Ref<Terminal> controlling_terminal(Task& task);

}  // namespace casemate::sentry
