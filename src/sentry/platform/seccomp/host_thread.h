// One host thread of a stub process that runs application code, and the state it stopped in.
//
// The hot path is send() and wait(): one SEND and one RECV, no locks, no allocations.
#pragma once

#include <linux/seccomp.h>
#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/control_area.h"
#include "sentry/platform/seccomp/listener.h"
#include "sentry/platform/seccomp/signal_frame.h"

namespace casemate::sentry::seccomp {

class HostThread {
  public:
    // `area` is our view of the thread's area, `stub_area` its address in the stub. The thread is about to make, or has
    // made, its first notification.
    HostThread(Listener listener, int pidfd, pid_t process, const FrameLayout& layout, std::byte* area,
               uint64_t stub_area);

    // Waits for the first notification. False: that was not the stub's code; kill the stub.
    bool start();
    // Brings a thread of an earlier owner into the state of a new one. False: it cannot be used again.
    bool renew();

    Stop resume();
    Stop complete_syscall(int64_t result);
    Stop complete_and_stop(int64_t result);
    // The halves of the three: see AppThread.
    void go_on();
    void answer(int64_t result, WakeOn where);
    void answer_and_stop(int64_t result);
    // kTimeout comes up to a millisecond early.
    Stop wait(std::optional<int64_t> deadline = std::nullopt);
    Registers& registers() { return registers_; }
    std::span<std::byte> fp_state();
    void interrupt() const;
    pid_t thread_id() const { return thread_id_; }

  private:
    enum class State { kDead, kAtFrame, kAtSyscall };

    void send(int64_t answer);
    void take_stop(const seccomp_notif& notification, Stop& stop);
    void take_frame(int signo, const seccomp_notif& notification, Stop& stop);
    void clear();
    // The application did what its stub's code never does: ends the whole stub.
    void condemn(Stop& stop);
    std::span<std::byte> fp_image();

    State state_ = State::kDead;
    std::atomic<bool> unanswerable_{false};  // the thread was found gone when it was to be answered
    bool fp_is_here_ = false;                // fp_image_ is newer than the frame
    uint64_t notification_ = 0;
    Listener listener_;
    const FrameLayout& layout_;
    std::byte* area_;
    uint64_t stub_area_;
    Registers registers_;
    std::unique_ptr<std::byte[]> fp_image_;  // allocated when first asked for
    int pidfd_;                              // borrowed from the stub
    pid_t process_;
    pid_t thread_id_ = 0;
};

}  // namespace casemate::sentry::seccomp
