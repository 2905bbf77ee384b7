// Container: the processes that one OCI container started, whatever they forked since: what is paused, killed, counted
// and limited together. Every process belongs to one; a child to its parent's.
#pragma once

#include <atomic>
#include <string>

#include "base/ref.h"
#include "sentry/kernel/pid.h"

namespace casemate::sentry {

class Container final : public RefCounted {
  public:
    explicit Container(std::string id) : id_(std::move(id)) {}
    const std::string& id() const { return id_; }

    // Set and cleared by TaskSet::freeze; tasks look at it at the edge to application code.
    bool frozen() const { return frozen_.load(std::memory_order_acquire); }
    std::atomic<uint64_t> task_limit{0};  // pids.max; 0: none
    std::atomic<uint64_t> tasks{0};       // threads alive

    std::atomic<uint64_t> memory_limit{0};  // bytes, set by ContainerMemory; 0: none but the pod's
    std::atomic<uint64_t> oom_kills{0};     // processes that the OOM killer took

    // CPU time of processes that are gone, in nanoseconds.
    std::atomic<uint64_t> past_user_ns{0}, past_system_ns{0};

  private:
    friend class TaskSet;
    const std::string id_;
    std::atomic<bool> frozen_{false};
};

}  // namespace casemate::sentry
