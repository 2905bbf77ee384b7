// Calls that are answered without a stop: the platform's poller asks for their results while the application waits for
// them in its own code (platform/seccomp/call_poller.h).
//
// The task's own thread waits for a stop meanwhile, so who asks has all that belongs to "own thread only". What a call
// must be to be answered so: it cannot wait, end or stop the task, change its memory map or registers, or be half done
// when it turns out to block. Everything else is refused and comes as a stop.
#pragma once

#include <cstdint>

#include "sentry/platform/platform.h"

namespace casemate::sentry {

class Task;

// Whether a call of `task` may be tried at once.
bool is_quick(Task& task, const SyscallStop& call);

class TaskQuickCalls final : public QuickCalls {
  public:
    void set_task(Task& task) { task_ = &task; }
    std::optional<QuickAnswer> answer_now(const SyscallStop& call) override;
    void parked() override;
    void answered() override;

  private:
    Task* task_ = nullptr;
};

}  // namespace casemate::sentry
