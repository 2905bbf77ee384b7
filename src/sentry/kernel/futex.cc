#include "sentry/kernel/futex.h"

#include <linux/futex.h>

#include "sentry/kernel/futex_sleeper.h"
#include "sentry/kernel/kernel.h"

namespace casemate::sentry {
namespace {

// The locks of one or two buckets, in address order.
template <typename Bucket>
class BothLocked {
  public:
    BothLocked(Bucket& a, Bucket& b) : first_(&a < &b ? a : b), second_(&a < &b ? b : a) {
        first_.mutex.lock();
        if (&first_ != &second_) second_.mutex.lock();
    }
    ~BothLocked() {
        if (&first_ != &second_) second_.mutex.unlock();
        first_.mutex.unlock();
    }

  private:
    Bucket& first_;
    Bucket& second_;
};

}  // namespace

SysResult<FutexTable::Key> FutexTable::key_of(Task& task, GuestAddr address, bool shared) {
    if ((address & 3) != 0) return Errno(EINVAL);
    if (address >= task.kernel().platform().max_user_address()) return Errno(EFAULT);
    // A private futex needs no look at the maps: the address is the name.
    if (!shared) return Key{&task.memory(), address};
    return task.memory().share_key(address);
}

FutexTable::Bucket& FutexTable::bucket_of(const Key& key) {
    uint64_t hash = (reinterpret_cast<uint64_t>(key.object) ^ (key.offset * 0x9E3779B97F4A7C15)) * 0xBF58476D1CE4E5B9;
    return buckets_[hash >> 56];
}

void FutexTable::link_locked(Bucket& bucket, Sleeper& sleeper) {
    sleeper.bucket.store(&bucket, std::memory_order_release);
    sleeper.linked = true;
    sleeper.next = nullptr;
    sleeper.previous = bucket.last;
    (bucket.last != nullptr ? bucket.last->next : bucket.first) = &sleeper;
    bucket.last = &sleeper;
}

void FutexTable::unlink_locked(Sleeper& sleeper) {
    if (!sleeper.linked) return;
    Bucket& bucket = *sleeper.bucket.load(std::memory_order_relaxed);
    sleeper.linked = false;
    (sleeper.previous != nullptr ? sleeper.previous->next : bucket.first) = sleeper.next;
    (sleeper.next != nullptr ? sleeper.next->previous : bucket.last) = sleeper.previous;
}

void FutexTable::wake_locked(Sleeper& sleeper, WakeList& woken) {
    unlink_locked(sleeper);
    sleeper.woken = true;
    if (sleeper.waiter == nullptr) {
        sleeper.task.parts().parked_call.finish(0);
        return;
    }
    woken.add(sleeper.task);
    sleeper.waiter->mark();  // the sleeper may be gone from here on
}

void FutexTable::leave(Sleeper& sleeper) {
    while (true) {
        Bucket* bucket = sleeper.bucket.load(std::memory_order_acquire);
        if (bucket == nullptr) return;
        std::lock_guard lock(bucket->mutex);
        if (sleeper.bucket.load(std::memory_order_relaxed) != bucket) continue;
        unlink_locked(sleeper);
        return;
    }
}

int FutexTable::wake_key_locked(Bucket& bucket, const Key& key, int count, uint32_t bitset, WakeList& woken) {
    int done = 0;
    for (Sleeper* at = bucket.first; at != nullptr && done < count;) {
        Sleeper* next = at->next;
        if (at->key == key && (at->bitset & bitset) != 0 && !at->wants_lock && !at->wants_requeue) {
            wake_locked(*at, woken);
            ++done;
        }
        at = next;
    }
    return done;
}

SysResult<int64_t> FutexTable::wait(Task& task, GuestAddr address, uint32_t expected, uint32_t bitset, bool shared,
                                    Deadline deadline) {
    if (bitset == 0) return Errno(EINVAL);
    Key parked_key = TRY(key_of(task, address, shared));
    if (task.begin_park(deadline)) {
        auto parked = std::make_unique<FutexSleeper>(task);
        Sleeper& sleeper = parked->sleeper;
        sleeper.key = parked_key;
        sleeper.address = address;
        sleeper.bitset = bitset;
        Bucket& bucket = bucket_of(parked_key);
        std::lock_guard lock(bucket.mutex);
        auto word = task.memory().load_word(address);
        if (!word.ok() || *word != expected) {
            task.cancel_park();
            return word.ok() ? Errno(EAGAIN) : word.take_error();
        }
        link_locked(bucket, sleeper);
        task.parts().futex_sleeper = std::move(parked);
        return Errno(kParked);
    }
    Task::ThreadWaiter waiter(task, 0);
    Sleeper sleeper(task, &waiter);
    sleeper.key = TRY(key_of(task, address, shared));
    sleeper.address = address;
    sleeper.bitset = bitset;
    Bucket& bucket = bucket_of(sleeper.key);
    {
        std::lock_guard lock(bucket.mutex);
        uint32_t word = TRY(task.memory().load_word(address));
        if (word != expected) return Errno(EAGAIN);
        link_locked(bucket, sleeper);
    }
    auto slept = waiter.sleep(deadline);
    if (slept.ok()) return 0;
    leave(sleeper);
    if (waiter.woken()) return 0;
    return slept.take_error();
}

void FutexTable::leave_parked(Task& task) {
    leave(task.parts().futex_sleeper->sleeper);
    task.parts().futex_sleeper.reset();
}

SysResult<int64_t> FutexTable::wake(Task& task, GuestAddr address, int count, uint32_t bitset, bool shared, Count how) {
    if (bitset == 0) return Errno(EINVAL);
    Key key = TRY(key_of(task, address, shared));
    if (count < 1) {
        if (how == Count::kStrict) return 0;
        count = 1;
    }
    Bucket& bucket = bucket_of(key);
    WakeList woken;
    std::lock_guard lock(bucket.mutex);
    return wake_key_locked(bucket, key, count, bitset, woken);
}

SysResult<int64_t> FutexTable::requeue(Task& task, GuestAddr from, GuestAddr to, int wake_count, int move_count,
                                       std::optional<uint32_t> expected, bool shared) {
    if (wake_count < 0 || move_count < 0) return Errno(EINVAL);
    Key key = TRY(key_of(task, from, shared));
    Key target = TRY(key_of(task, to, shared));
    Bucket& bucket = bucket_of(key);
    Bucket& target_bucket = bucket_of(target);
    WakeList woken;
    BothLocked lock(bucket, target_bucket);
    if (expected) {
        uint32_t word = TRY(task.memory().load_word(from));
        if (word != *expected) return Errno(EAGAIN);
    }
    int done = wake_key_locked(bucket, key, wake_count, ~0u, woken);
    int moved = 0;
    for (Sleeper* at = bucket.first; at != nullptr && moved < move_count;) {
        Sleeper* next = at->next;
        if (at->key == key && !at->wants_lock && !at->wants_requeue) {
            ++moved;
            if (key == target) {
                at = next;
                continue;
            }
            unlink_locked(*at);
            at->key = target;
            link_locked(target_bucket, *at);
        }
        at = next;
    }
    return done + moved;
}

namespace {

SysResult<bool> apply_operation(Task& task, GuestAddr address, uint32_t encoded) {
    uint32_t operation = encoded >> 28 & 7;
    uint32_t compare = encoded >> 24 & 15;
    int32_t argument = static_cast<int32_t>(encoded << 8) >> 20;
    int32_t compared = static_cast<int32_t>(encoded << 20) >> 20;
    if ((encoded >> 28 & 8) != 0) argument = static_cast<int32_t>(1u << (argument & 31));
    uint32_t operand = static_cast<uint32_t>(argument);
    uint32_t old = TRY(task.memory().load_word(address));
    while (true) {
        uint32_t now;
        switch (operation) {
            case FUTEX_OP_SET:
                now = operand;
                break;
            case FUTEX_OP_ADD:
                now = old + operand;
                break;
            case FUTEX_OP_OR:
                now = old | operand;
                break;
            case FUTEX_OP_ANDN:
                now = old & ~operand;
                break;
            case FUTEX_OP_XOR:
                now = old ^ operand;
                break;
            default:
                return Errno(ENOSYS);
        }
        uint32_t seen = TRY(task.memory().compare_exchange_word(address, old, now));
        if (seen == old) break;
        old = seen;
    }
    int32_t value = static_cast<int32_t>(old);
    switch (compare) {
        case FUTEX_OP_CMP_EQ:
            return value == compared;
        case FUTEX_OP_CMP_NE:
            return value != compared;
        case FUTEX_OP_CMP_LT:
            return value < compared;
        case FUTEX_OP_CMP_LE:
            return value <= compared;
        case FUTEX_OP_CMP_GT:
            return value > compared;
        case FUTEX_OP_CMP_GE:
            return value >= compared;
        default:
            return Errno(ENOSYS);
    }
}

}  // namespace

SysResult<int64_t> FutexTable::wake_op(Task& task, GuestAddr first, GuestAddr second, int first_count, int second_count,
                                       uint32_t operation, bool shared) {
    Key key = TRY(key_of(task, first, shared));
    Key second_key = TRY(key_of(task, second, shared));
    Bucket& bucket = bucket_of(key);
    Bucket& second_bucket = bucket_of(second_key);
    WakeList woken;
    BothLocked lock(bucket, second_bucket);
    bool also = TRY(apply_operation(task, second, operation));
    int done = wake_key_locked(bucket, key, first_count, ~0u, woken);
    if (also) done += wake_key_locked(second_bucket, second_key, second_count, ~0u, woken);
    return done;
}

SysResult<int64_t> FutexTable::wait_many(Task& task, std::span<const Vector> words, Deadline deadline) {
    Task::ThreadWaiter waiter(task, 0);
    std::vector<std::unique_ptr<Sleeper>> sleepers;
    auto leave_all = [&]() -> int64_t {
        int64_t index = -1;
        for (size_t i = 0; i < sleepers.size(); ++i) {
            leave(*sleepers[i]);
            if (sleepers[i]->woken) index = static_cast<int64_t>(i);
        }
        return index;
    };
    for (const Vector& word : words) {
        auto sleeper = std::make_unique<Sleeper>(task, &waiter);
        auto key = key_of(task, word.address, word.shared);
        SysResult<uint32_t> value = Errno(EFAULT);
        if (key.ok()) {
            sleeper->key = *key;
            sleeper->address = word.address;
            Bucket& bucket = bucket_of(*key);
            std::lock_guard lock(bucket.mutex);
            value = task.memory().load_word(word.address);
            if (value.ok() && *value == word.expected) {
                link_locked(bucket, *sleeper);
                sleepers.push_back(std::move(sleeper));
                continue;
            }
        }
        Errno failure = !key.ok() ? key.take_error() : !value.ok() ? value.take_error() : Errno(EAGAIN);
        int64_t woken = leave_all();
        if (woken >= 0) return woken;
        return failure;
    }
    auto slept = waiter.sleep(deadline);
    int64_t woken = leave_all();
    if (woken >= 0) return woken;
    if (slept.ok()) return Errno(EAGAIN);
    return slept.take_error();
}

}  // namespace casemate::sentry
