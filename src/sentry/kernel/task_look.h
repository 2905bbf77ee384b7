// A look at the registers and the stack of a task from outside (`casemate debug --section stacks`). The task's own
// thread takes the picture when its application stops, and the application goes on as if nothing had been.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/user.h"
#include "sentry/platform/platform.h"

namespace casemate::sentry {

class Task;

class TaskPicture final : public RefCounted {
  public:
    static constexpr size_t kStackBytes = 64 << 10;

    // False: none by then, as of a task that sleeps in a system call which cannot be left without its knowledge.
    bool wait_until(Nanoseconds deadline);
    // Own thread of the task, with registers at hand.
    void take(Task& task);

    // Valid after wait_until().
    Registers registers;
    std::vector<std::byte> stack;  // from the stack pointer on

  private:
    std::mutex mutex_;
    std::condition_variable taken_;
    bool done_ = false;  // guarded by mutex_
};

// Where a task keeps the picture that is wanted of it.
struct WantedPicture {
    std::atomic<bool> wanted{false};
    std::mutex mutex;
    Ref<TaskPicture> picture;  // guarded by mutex
};

// Asks for a picture; an earlier one that was not taken yet never will be.
Ref<TaskPicture> ask_for_picture(Task& task);
// Own thread of the task, with registers at hand: takes the picture if one is wanted.
void take_wanted_picture(Task& task);

// Return addresses, innermost first, from the instruction itself on: along the frame pointers while they lead on, then
// (or, where code keeps none, instead) every word of the stack that lies behind a call instruction. `reads` copies the
// bytes before an address of executable memory, or fails.
using ReadCode = std::function<bool(GuestAddr end, std::byte* into, size_t size)>;
std::vector<GuestAddr> backtrace_of(const TaskPicture& picture, const ReadCode& reads, size_t most);

}  // namespace casemate::sentry
