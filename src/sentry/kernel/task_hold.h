// A parent that waits until its child has a memory of its own: vfork, and fork with a held parent (AddressSpace::fork).
#pragma once

#include "sentry/kernel/task.h"

namespace casemate::sentry {

// What parent and child of one vfork or held fork share.
class Hold final : public RefCounted {
  public:
    explicit Hold(bool vfork) : vfork_(vfork) {}
    // The parent's side: returns when the child has let go (or, of a held fork, after a bounded time: then it ends the
    // hold itself through `child`), or when the parent must die.
    void wait(Task& parent, AddressSpace& child);
    // The child's side: it has exec'd or ended.
    void child_left();
    // The child is about to sleep: only a held fork cares.
    void child_sleeps(AddressSpace& child);
    bool is_vfork() const { return vfork_; }

  private:
    const bool vfork_;
    std::atomic<bool> done_{false};
    std::atomic<bool> ended_{false};  // the hold was ended by release_held_parent
    WaitQueue waiters_;
};

void release_held_parent(Task& child);

}  // namespace casemate::sentry
