// System V semaphores: sets whose operations happen all or not at all, and are undone when a process ends (SEM_UNDO).
#pragma once

#include <sys/sem.h>

#include <span>
#include <unordered_map>

#include "sentry/ipc/ipc_object.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class Process;

// How many semaphores a namespace has.
struct SemaphoreCount final : RefCounted {
    std::atomic<size_t> value{0};
};

class SemaphoreSet final : public RefCounted, public IpcObject {
  public:
    static constexpr int kMostValue = 32767;        // SEMVMX
    static constexpr int kMostSemaphores = 32000;   // SEMMSL
    static constexpr size_t kMostOperations = 500;  // SEMOPM

    // `total` counts the semaphores of the namespace, whose number is bounded.
    static SysResult<Ref<SemaphoreSet>> create(size_t count, const Ref<SemaphoreCount>& total);

    size_t count() const { return values_.size(); }
    // semtimedop. EAGAIN, E2BIG, EFBIG, EIDRM, ERANGE, kRestartSys.
    SysResult<void> operate(Task& task, std::span<const sembuf> operations, Deadline deadline);

    struct Semaphore {
        uint16_t value = 0;
        uint32_t waiting_for_more = 0, waiting_for_zero = 0;
        Ref<Pid> last;
    };
    // With mutex held.
    Semaphore& at_locked(size_t index) { return values_[index]; }
    void set_value_locked(Task& task, size_t index, int value);
    void changed() { waiters_.notify(~0u, ~0u); }
    void remove_locked();  // wakes everybody with EIDRM
    void process_ended(Process& process, const Ref<Pid>& pid);

    std::atomic<int64_t> operation_time{0}, change_time{0};

  private:
    SemaphoreSet(size_t count, Ref<SemaphoreCount> total);
    ~SemaphoreSet() override;
    struct Blocked {
        size_t index;
        bool for_zero;
    };
    // Does all operations, or says which one waits. EAGAIN, ERANGE.
    SysResult<std::optional<Blocked>> try_locked(Task& task, std::span<const sembuf> operations);

    const Ref<SemaphoreCount> total_;
    std::vector<Semaphore> values_;                            // guarded by mutex
    std::unordered_map<Process*, std::vector<int16_t>> undo_;  // what to add at a process's end; guarded by mutex
    WaitQueue waiters_;
};

// Undoes what the process did with SEM_UNDO. Called once, on its last thread, when it ends.
void undo_semaphores(Process& process);

}  // namespace casemate::sentry
