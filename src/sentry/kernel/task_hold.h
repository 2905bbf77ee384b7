// A parent that waits until its child has a memory of its own: vfork, and fork with a held parent (AddressSpace::fork).
#pragma once

#include "sentry/kernel/task.h"

namespace casemate::sentry {

// What parent and child of one vfork or held fork share.
class Hold final : public RefCounted {
  public:
    explicit Hold(bool vfork) : vfork_(vfork) {}
    // The parent's side: returns when the child has let go (of a held fork it is asked to after a bounded time), or
    // when the parent must die.
    void wait(Task& parent, Task& child);
    // The child's side: it has exec'd or ended.
    void child_left();
    // The child is about to sleep: only a held fork cares.
    void child_sleeps(AddressSpace& child);
    bool is_vfork() const { return vfork_; }
    // The parent has waited long enough: the child ends the hold when it is stopped next.
    bool overdue() const { return overdue_.load(std::memory_order_acquire); }

  private:
    const bool vfork_;
    std::atomic<bool> done_{false}, overdue_{false};
    WaitQueue waiters_;
};

// Called by the child's thread while its application is stopped: the parent of a held fork goes on.
void release_held_parent(Task& child);

}  // namespace casemate::sentry
