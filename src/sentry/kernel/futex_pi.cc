// Futexes with an owner: priority-inheritance locks (there are no priorities to inherit here; what counts is that the
// kernel hands the lock over and notices when an owner dies), and robust lists.
#include <linux/futex.h>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/futex_sleeper.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {

FutexTable::Sleeper* FutexTable::first_lock_waiter_locked(Bucket& bucket, const Key& key, const Sleeper* behind) {
    for (Sleeper* at = behind != nullptr ? behind->next : bucket.first; at != nullptr; at = at->next)
        if (at->wants_lock && at->key == key) return at;
    return nullptr;
}

SysResult<void> FutexTable::hand_over_locked(Task& by, GuestAddr address, const Key& key, Bucket& bucket, uint32_t died,
                                             WakeList& woken) {
    Sleeper* next = first_lock_waiter_locked(bucket, key);
    // The word as the new owner's memory shows it: the old owner's may be going away.
    Task& through = next != nullptr ? next->task : by;
    GuestAddr at = next != nullptr ? next->address : address;
    uint32_t value = died;
    if (next != nullptr) {
        value |= static_cast<uint32_t>(next->task.tid());
        if (first_lock_waiter_locked(bucket, key, next) != nullptr) value |= FUTEX_WAITERS;
    }
    uint32_t old = TRY(through.memory().load_word(at));
    while (true) {
        uint32_t seen = TRY(through.memory().compare_exchange_word(at, old, value));
        if (seen == old) break;
        old = seen;
    }
    if (next != nullptr) {
        next->granted = true;
        wake_locked(*next, woken);
    }
    return {};
}

SysResult<std::optional<int64_t>> FutexTable::take_or_mark_locked(Task& through, GuestAddr address, const Key& key,
                                                                  Bucket& bucket, Task& taker) {
    uint32_t tid = static_cast<uint32_t>(taker.tid());
    uint32_t word = TRY(through.memory().load_word(address));
    while (true) {
        uint32_t owner = word & FUTEX_TID_MASK;
        if (owner == tid) return Errno(EDEADLK);
        bool free = owner == 0;
        uint32_t value = word | FUTEX_WAITERS;
        if (free) {
            value = tid | (word & FUTEX_OWNER_DIED);
            if (first_lock_waiter_locked(bucket, key) != nullptr) value |= FUTEX_WAITERS;
        }
        uint32_t seen = TRY(through.memory().compare_exchange_word(address, word, value));
        if (seen == word) return free ? std::optional<int64_t>(0) : std::nullopt;
        word = seen;
    }
}

bool FutexTable::owner_is_gone(Task& task, uint32_t word) {
    int tid = static_cast<int>(word & FUTEX_TID_MASK);
    if (tid == 0) return false;
    Ref<Task> owner = task.kernel().tasks().find_task(task.pid_namespace(), tid);
    return !owner || owner->parts().futexes_released.load();
}

// `sleeper` is linked.
SysResult<int64_t> FutexTable::wait_for_lock(Task& task, Sleeper& sleeper, Deadline deadline) {
    // An owner that died before this thread was linked did not see it.
    auto word = task.memory().load_word(sleeper.address);
    SysResult<void> slept = Errno(ESRCH);
    if (word.ok() && !owner_is_gone(task, *word)) slept = sleeper.waiter->sleep(deadline);
    if (!slept.ok()) leave(sleeper);
    if (sleeper.granted) return 0;
    if (slept.ok()) return Errno(EAGAIN);
    if (slept.error() == Errno(kRestartSys)) return Errno(kRestartNoIntr);
    return slept.take_error();
}

SysResult<int64_t> FutexTable::lock_pi(Task& task, GuestAddr address, bool shared, bool only_try, Deadline deadline) {
    Task::ThreadWaiter waiter(task, 0);
    Sleeper sleeper(task, &waiter);
    sleeper.key = TRY(key_of(task, address, shared));
    sleeper.address = address;
    sleeper.wants_lock = true;
    uint32_t word = TRY(task.memory().load_word(address));
    if ((word & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid()) && owner_is_gone(task, word)) return Errno(ESRCH);
    Bucket& bucket = bucket_of(sleeper.key);
    {
        std::lock_guard lock(bucket.mutex);
        if (only_try) {
            uint32_t now = TRY(task.memory().load_word(address));
            if ((now & FUTEX_TID_MASK) != 0)
                return Errno((now & FUTEX_TID_MASK) == static_cast<uint32_t>(task.tid()) ? EDEADLK : EAGAIN);
        }
        auto taken = TRY(take_or_mark_locked(task, address, sleeper.key, bucket, task));
        if (taken) return *taken;
        link_locked(bucket, sleeper);
        pi_waiters_.fetch_add(1);
    }
    auto result = wait_for_lock(task, sleeper, deadline);
    pi_waiters_.fetch_sub(1);
    return result;
}

SysResult<int64_t> FutexTable::unlock_pi(Task& task, GuestAddr address, bool shared) {
    Key key = TRY(key_of(task, address, shared));
    uint32_t word = TRY(task.memory().load_word(address));
    if ((word & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid())) return Errno(EPERM);
    Bucket& bucket = bucket_of(key);
    WakeList woken;
    std::lock_guard lock(bucket.mutex);
    TRY(hand_over_locked(task, address, key, bucket, 0, woken));
    return 0;
}

SysResult<int64_t> FutexTable::wait_requeue_pi(Task& task, GuestAddr address, uint32_t expected, uint32_t bitset,
                                               GuestAddr lock_address, bool shared, Deadline deadline) {
    if (address == lock_address || bitset == 0) return Errno(EINVAL);
    Task::ThreadWaiter waiter(task, 0);
    Sleeper sleeper(task, &waiter);
    sleeper.key = TRY(key_of(task, address, shared));
    TRY(key_of(task, lock_address, shared));
    sleeper.address = lock_address;
    sleeper.bitset = bitset;
    sleeper.wants_requeue = true;
    Bucket& bucket = bucket_of(sleeper.key);
    {
        std::lock_guard lock(bucket.mutex);
        uint32_t word = TRY(task.memory().load_word(address));
        if (word != expected) return Errno(EAGAIN);
        link_locked(bucket, sleeper);
        pi_waiters_.fetch_add(1);
    }
    auto slept = waiter.sleep(deadline);
    leave(sleeper);
    pi_waiters_.fetch_sub(1);
    if (sleeper.granted) return 0;
    if (slept.ok()) return Errno(EAGAIN);
    if (slept.error() == Errno(kRestartSys)) return Errno(sleeper.wants_lock ? EAGAIN : kRestartNoIntr);
    return slept.take_error();
}

SysResult<int64_t> FutexTable::requeue_pi(Task& task, GuestAddr from, GuestAddr lock_address, int move_count,
                                          uint32_t expected, bool shared) {
    if (move_count < 0 || from == lock_address) return Errno(EINVAL);
    Key key = TRY(key_of(task, from, shared));
    Key target = TRY(key_of(task, lock_address, shared));
    Bucket& bucket = bucket_of(key);
    Bucket& target_bucket = bucket_of(target);
    WakeList woken;
    std::unique_lock first(&bucket < &target_bucket ? bucket.mutex : target_bucket.mutex);
    std::unique_lock<std::mutex> second;
    if (&bucket != &target_bucket)
        second = std::unique_lock(&bucket < &target_bucket ? target_bucket.mutex : bucket.mutex);
    uint32_t word = TRY(task.memory().load_word(from));
    if (word != expected) return Errno(EAGAIN);
    int done = 0;
    for (Sleeper* at = bucket.first; at != nullptr && done < move_count + 1;) {
        Sleeper* next = at->next;
        if (at->key == key && at->wants_requeue) {
            auto taken = TRY(take_or_mark_locked(task, lock_address, target, target_bucket, at->task));
            ++done;
            if (taken) {
                at->granted = true;
                wake_locked(*at, woken);
            } else {
                unlink_locked(*at);
                at->key = target;
                at->wants_requeue = false;
                at->wants_lock = true;
                link_locked(target_bucket, *at);
            }
        }
        at = next;
    }
    return done;
}

// ------------------------------------------------------------------------------------------- death of owners

void FutexTable::release_owned_locks(Task& task) {
    if (pi_waiters_.load() == 0) return;
    for (Bucket& bucket : buckets_) {
        WakeList woken;
        std::lock_guard lock(bucket.mutex);
        for (Sleeper* at = bucket.first; at != nullptr;) {
            Sleeper* next = at->next;
            if (at->wants_lock && &at->task.pid_namespace() == &task.pid_namespace()) {
                auto word = at->task.memory().load_word(at->address);
                if (word.ok() && (*word & FUTEX_TID_MASK) == static_cast<uint32_t>(task.tid())) {
                    Key key = at->key;
                    if (hand_over_locked(at->task, at->address, key, bucket, FUTEX_OWNER_DIED, woken).ok())
                        next = bucket.first;  // the list has changed; this lock has another owner now
                }
            }
            at = next;
        }
    }
}

void FutexTable::robust_word_died(Task& task, GuestAddr address, bool pi, bool pending) {
    if ((address & 3) != 0) return;
    AddressSpace& memory = task.memory();
    auto loaded = memory.load_word(address);
    if (!loaded.ok()) return;
    uint32_t word = *loaded;
    while (true) {
        if (pending && !pi && word == 0) {
            static_cast<void>(wake(task, address, 1, ~0u, true));
            return;
        }
        if ((word & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid())) return;
        auto seen = memory.compare_exchange_word(address, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED);
        if (!seen.ok()) return;
        if (*seen == word) break;
        word = *seen;
    }
    if (pi || (word & FUTEX_WAITERS) == 0) return;
    // The waiter may have called with or without FUTEX_PRIVATE_FLAG.
    auto woken = wake(task, address, 1, ~0u, true);
    if (!woken.ok() || *woken == 0) static_cast<void>(wake(task, address, 1, ~0u, false));
}

void FutexTable::task_exits(Task& task) {
    Task::Parts& parts = task.parts();
    parts.futexes_released.store(true);
    release_owned_locks(task);
    if (parts.robust_list == 0) return;
    constexpr int kLimit = 2048;  // as Linux: a list may be a ring
    struct Head {
        uint64_t next;
        int64_t offset;
        uint64_t pending;
    };
    auto head = task.read(UserPtr<Head>(parts.robust_list));
    if (!head.ok()) return;
    auto word_of = [&](uint64_t entry) { return (entry & ~uint64_t{1}) + static_cast<uint64_t>(head->offset); };
    uint64_t at = head->next;
    uint64_t pending = head->pending & ~uint64_t{1};
    for (int i = 0; i < kLimit && (at & ~uint64_t{1}) != parts.robust_list; ++i) {
        auto next = task.read(UserPtr<uint64_t>(at & ~uint64_t{1}));
        if ((at & ~uint64_t{1}) != pending) robust_word_died(task, word_of(at), (at & 1) != 0, false);
        if (!next.ok()) break;
        at = *next;
    }
    if (pending != 0) robust_word_died(task, word_of(head->pending), (head->pending & 1) != 0, true);
}

}  // namespace casemate::sentry
