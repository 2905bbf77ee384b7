// A seccomp listener: the sentry's end of one stub thread's notifications.
#pragma once

#include <linux/seccomp.h>

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::sentry::seccomp {

class Listener {
  public:
    // Takes descriptor `remote_fd` out of the process behind `pidfd`. Fails if there is none.
    static SysResult<Listener> take(int pidfd, int remote_fd);

    // Waits for the next notification. False: the thread is dead.
    bool receive(seccomp_notif& into);
    // Waits until there is a notification to receive (true) or `deadline` (of CLOCK_MONOTONIC) is less than a
    // millisecond away: poll counts those only.
    bool wait_until(int64_t deadline);
    // Whether who is woken by an answer goes on on the waking CPU. It does at first.
    void set_same_cpu(bool same);
    // Answers notification `id`. False: the thread is dead, or being killed.
    bool answer(uint64_t id, int64_t value);

  private:
    explicit Listener(UniqueFd fd) : fd_(std::move(fd)) {}
    bool thread_is_gone();

    UniqueFd fd_;
};

// What create() finds the kernel to lack, or nothing.
Result<void> check_kernel();

}  // namespace casemate::sentry::seccomp
