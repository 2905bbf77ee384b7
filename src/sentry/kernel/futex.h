// Futexes: waiting on a word of application memory until another task says so.
//
// Buckets by hash of the key (address space and address, or shared object and offset). A bucket's lock is held while
// the word is looked at: waking takes the same lock, so no wake-up is lost.
#pragma once

#include <array>
#include <mutex>
#include <optional>
#include <span>

#include "base/result.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

class WakeList;
struct FutexSleeper;

class FutexTable {
  public:
    // FUTEX_WAIT_BITSET. EAGAIN if the word is not `expected`, ETIMEDOUT, kRestartSys.
    SysResult<int64_t> wait(Task& task, GuestAddr address, uint32_t expected, uint32_t bitset, bool shared,
                            Deadline deadline);
    // How many were woken. A count below one is one, or, strictly, none.
    enum class Count { kAtLeastOne, kStrict };
    SysResult<int64_t> wake(Task& task, GuestAddr address, int count, uint32_t bitset, bool shared,
                            Count how = Count::kAtLeastOne);
    // FUTEX_REQUEUE and, with `expected`, FUTEX_CMP_REQUEUE.
    SysResult<int64_t> requeue(Task& task, GuestAddr from, GuestAddr to, int wake_count, int move_count,
                               std::optional<uint32_t> expected, bool shared);
    SysResult<int64_t> wake_op(Task& task, GuestAddr first, GuestAddr second, int first_count, int second_count,
                               uint32_t operation, bool shared);

    struct Vector {
        GuestAddr address;
        uint32_t expected;
        bool shared;
    };
    // futex_waitv: the index of one that was woken.
    SysResult<int64_t> wait_many(Task& task, std::span<const Vector> words, Deadline deadline);

    // Priority inheritance: the word holds the owner's tid. Waiters get the lock in the order they came.
    SysResult<int64_t> lock_pi(Task& task, GuestAddr address, bool shared, bool only_try, Deadline deadline);
    SysResult<int64_t> unlock_pi(Task& task, GuestAddr address, bool shared);
    // FUTEX_WAIT_REQUEUE_PI and FUTEX_CMP_REQUEUE_PI: condition variables over such locks.
    SysResult<int64_t> wait_requeue_pi(Task& task, GuestAddr address, uint32_t expected, uint32_t bitset,
                                       GuestAddr lock, bool shared, Deadline deadline);
    SysResult<int64_t> requeue_pi(Task& task, GuestAddr from, GuestAddr lock, int move_count, uint32_t expected,
                                  bool shared);

    // The end of a thread: its robust list, and locks it owned with waiters in here.
    void task_exits(Task& task);

    // Takes the sleeper of a parked call out; if it was woken, the parked call has its result.
    void leave_parked(Task& task);

  private:
    friend struct FutexSleeper;
    using Key = AddressSpace::ShareKey;
    struct Sleeper;
    struct Bucket {
        std::mutex mutex;
        Sleeper* first = nullptr;
        Sleeper* last = nullptr;
    };
    static constexpr size_t kBuckets = 256;

    SysResult<Key> key_of(Task& task, GuestAddr address, bool shared);
    Bucket& bucket_of(const Key& key);
    static void link_locked(Bucket& bucket, Sleeper& sleeper);
    static void unlink_locked(Sleeper& sleeper);
    static void wake_locked(Sleeper& sleeper, WakeList& woken);
    // Unlinks wherever it is by now. Holds no lock.
    static void leave(Sleeper& sleeper);
    static int wake_key_locked(Bucket& bucket, const Key& key, int count, uint32_t bitset, WakeList& woken);

    // futex_pi.cc; the bucket of the key is locked.
    static Sleeper* first_lock_waiter_locked(Bucket& bucket, const Key& key, const Sleeper* behind = nullptr);
    // Gives the lock to the next waiter, or frees the word (through `by`).
    SysResult<void> hand_over_locked(Task& by, GuestAddr address, const Key& key, Bucket& bucket, uint32_t died,
                                     WakeList& woken);
    // The lock for a thread if it is free; nullopt: it has to wait (the word says so now).
    static SysResult<std::optional<int64_t>> take_or_mark_locked(Task& through, GuestAddr address, const Key& key,
                                                                 Bucket& bucket, Task& taker);
    SysResult<int64_t> wait_for_lock(Task& task, Sleeper& sleeper, Deadline deadline);
    bool owner_is_gone(Task& task, uint32_t word);
    void release_owned_locks(Task& task);
    void robust_word_died(Task& task, GuestAddr address, bool pi, bool pending);

    std::array<Bucket, kBuckets> buckets_;
    std::atomic<uint32_t> pi_waiters_{0};
};

}  // namespace casemate::sentry
