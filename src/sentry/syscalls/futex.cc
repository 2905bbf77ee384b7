// futex in all forms, robust lists, membarrier.
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/kernel/futex.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/permissions.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

// An absolute time on CLOCK_REALTIME or CLOCK_MONOTONIC as a deadline.
Nanoseconds on_monotonic(Nanoseconds at, bool realtime) {
    return realtime ? saturating_add(at - realtime_now(), monotonic_now()) : at;
}

SysResult<Deadline> read_deadline(Task& task, GuestAddr address, bool absolute, bool realtime) {
    if (address == 0) return Deadline();
    timespec given = TRY(task.read(UserPtr<timespec>(address)));
    if (!valid(given)) return Errno(EINVAL);
    Nanoseconds at = to_nanoseconds(given);
    return Deadline(absolute ? on_monotonic(at, realtime) : saturating_add(monotonic_now(), at));
}

SysResult<int64_t> wait_restartable(Task& task, GuestAddr address, uint32_t expected, uint32_t bitset, bool shared,
                                    Deadline deadline) {
    auto result = task.kernel().futexes().wait(task, address, expected, bitset, shared, deadline);
    if (!result.ok() && deadline && result.error() == Errno(kRestartSys)) {
        task.set_restart(
            [=](Task& self) { return wait_restartable(self, address, expected, bitset, shared, deadline); });
        return Errno(kRestartBlock);
    }
    return result;
}

SysResult<int64_t> sys_futex(Task& task, const SyscallArgs& args) {
    FutexTable& futexes = task.kernel().futexes();
    int operation = args.i32(1);
    int command = operation & FUTEX_CMD_MASK;
    bool shared = (operation & FUTEX_PRIVATE_FLAG) == 0;
    bool realtime = (operation & FUTEX_CLOCK_REALTIME) != 0;
    GuestAddr address = args.u64(0), second = args.u64(4);
    uint32_t value = args.u32(2), third = args.u32(5);
    if (realtime && command != FUTEX_WAIT_BITSET && command != FUTEX_WAIT_REQUEUE_PI && command != FUTEX_LOCK_PI2 &&
        command != FUTEX_WAIT)
        return Errno(ENOSYS);
    switch (command) {
        case FUTEX_WAIT: {
            Deadline deadline = TRY(read_deadline(task, args.u64(3), false, false));
            deadline = task.deadline_of_call(deadline);
            return wait_restartable(task, address, value, FUTEX_BITSET_MATCH_ANY, shared, deadline);
        }
        case FUTEX_WAIT_BITSET: {
            Deadline deadline = TRY(read_deadline(task, args.u64(3), true, realtime));
            return wait_restartable(task, address, value, third, shared, deadline);
        }
        case FUTEX_WAKE:
            return futexes.wake(task, address, args.i32(2), FUTEX_BITSET_MATCH_ANY, shared);
        case FUTEX_WAKE_BITSET:
            return futexes.wake(task, address, args.i32(2), third, shared);
        case FUTEX_REQUEUE:
            return futexes.requeue(task, address, second, args.i32(2), args.i32(3), std::nullopt, shared);
        case FUTEX_CMP_REQUEUE:
            return futexes.requeue(task, address, second, args.i32(2), args.i32(3), third, shared);
        case FUTEX_WAKE_OP:
            return futexes.wake_op(task, address, second, args.i32(2), args.i32(3), third, shared);
        case FUTEX_LOCK_PI:
        case FUTEX_LOCK_PI2: {
            Deadline deadline = TRY(read_deadline(task, args.u64(3), true, command == FUTEX_LOCK_PI || realtime));
            return futexes.lock_pi(task, address, shared, false, deadline);
        }
        case FUTEX_TRYLOCK_PI:
            return futexes.lock_pi(task, address, shared, true, std::nullopt);
        case FUTEX_UNLOCK_PI:
            return futexes.unlock_pi(task, address, shared);
        case FUTEX_WAIT_REQUEUE_PI: {
            Deadline deadline = TRY(read_deadline(task, args.u64(3), true, realtime));
            return futexes.wait_requeue_pi(task, address, value, FUTEX_BITSET_MATCH_ANY, second, shared, deadline);
        }
        case FUTEX_CMP_REQUEUE_PI:
            if (args.i32(2) != 1) return Errno(EINVAL);
            return futexes.requeue_pi(task, address, second, args.i32(3), third, shared);
        default:
            return Errno(ENOSYS);
    }
}

// What futex_waitv and the futex_* calls of Linux 6.7 say of a word: its size, of which there is one, and who shares
// it.
constexpr uint32_t kSize32 = 2, kPrivate = 128;
bool valid_word(uint32_t flags, uint64_t value) { return (flags & ~kPrivate) == kSize32 && value <= UINT32_MAX; }
bool is_shared(uint32_t flags) { return (flags & kPrivate) == 0; }

SysResult<Deadline> read_deadline_of(Task& task, GuestAddr address, int clock) {
    if (address != 0 && clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME) return Errno(EINVAL);
    return read_deadline(task, address, true, clock == CLOCK_REALTIME);
}

SysResult<std::vector<FutexTable::Vector>> read_words(Task& task, GuestAddr address, uint32_t count) {
    struct Entry {
        uint64_t value, address;
        uint32_t flags, reserved;
    };
    std::vector<Entry> entries(count);
    TRY(task.memory().copy_in(address, entries.data(), count * sizeof(Entry)));
    std::vector<FutexTable::Vector> words;
    for (const Entry& entry : entries) {
        if (entry.reserved != 0 || !valid_word(entry.flags, entry.value)) return Errno(EINVAL);
        words.push_back({entry.address, static_cast<uint32_t>(entry.value), is_shared(entry.flags)});
    }
    return words;
}

SysResult<int64_t> sys_futex_waitv(Task& task, const SyscallArgs& args) {
    uint32_t count = args.u32(1);
    if (args.u32(2) != 0 || count == 0 || count > FUTEX_WAITV_MAX) return Errno(EINVAL);
    Deadline deadline = TRY(read_deadline_of(task, args.u64(3), args.i32(4)));
    return task.kernel().futexes().wait_many(task, TRY(read_words(task, args.u64(0), count)), deadline);
}

SysResult<int64_t> sys_futex_wake(Task& task, const SyscallArgs& args) {
    uint64_t mask = args.u64(1);
    if (!valid_word(args.u32(3), mask)) return Errno(EINVAL);
    return task.kernel().futexes().wake(task, args.u64(0), args.i32(2), static_cast<uint32_t>(mask),
                                        is_shared(args.u32(3)), FutexTable::Count::kStrict);
}

SysResult<int64_t> sys_futex_wait(Task& task, const SyscallArgs& args) {
    uint64_t value = args.u64(1), mask = args.u64(2);
    if (!valid_word(args.u32(3), value) || !valid_word(args.u32(3), mask)) return Errno(EINVAL);
    Deadline deadline = TRY(read_deadline_of(task, args.u64(4), args.i32(5)));
    return task.kernel().futexes().wait(task, args.u64(0), static_cast<uint32_t>(value), static_cast<uint32_t>(mask),
                                        is_shared(args.u32(3)), deadline);
}

SysResult<int64_t> sys_futex_requeue(Task& task, const SyscallArgs& args) {
    if (args.u32(1) != 0 || args.u64(0) == 0) return Errno(EINVAL);
    std::vector<FutexTable::Vector> words = TRY(read_words(task, args.u64(0), 2));
    if (words[0].shared != words[1].shared) return Errno(EINVAL);
    return task.kernel().futexes().requeue(task, words[0].address, words[1].address, args.i32(2), args.i32(3),
                                           words[0].expected, words[0].shared);
}

SysResult<int64_t> sys_set_robust_list(Task& task, const SyscallArgs& args) {
    if (args.u64(1) != 24) return Errno(EINVAL);
    task.parts().robust_list = args.u64(0);
    return 0;
}

SysResult<int64_t> sys_get_robust_list(Task& task, const SyscallArgs& args) {
    Ref<Task> target(&task);
    if (args.i32(0) != 0) target = task.kernel().tasks().find_task(task.pid_namespace(), args.i32(0));
    if (!target) return Errno(ESRCH);
    if (!may_inspect(task, *target)) return Errno(EPERM);
    TRY(task.write(UserPtr<uint64_t>(args.u64(2)), uint64_t{24}));
    TRY(task.write(UserPtr<uint64_t>(args.u64(1)), uint64_t{target->parts().robust_list}));
    return 0;
}

// The host's barrier over all of its processes covers the application threads, wherever they run.
SysResult<int64_t> sys_membarrier(Task&, const SyscallArgs& args) {
    if (args.u32(1) != 0) return Errno(EINVAL);
    constexpr int kOffered = MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED |
                             MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED |
                             MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
    switch (args.i32(0)) {
        case MEMBARRIER_CMD_QUERY:
            return kOffered;
        case MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED:
        case MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED:
            return 0;
        case MEMBARRIER_CMD_GLOBAL:
        case MEMBARRIER_CMD_GLOBAL_EXPEDITED:
        case MEMBARRIER_CMD_PRIVATE_EXPEDITED:
            if (::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) != 0) return last_errno();
            return 0;
        default:
            return Errno(EINVAL);
    }
}

constexpr SyscallRow kRows[] = {
    {202, "futex", sys_futex, Support::kFull},
    {273, "set_robust_list", sys_set_robust_list, Support::kFull},
    {274, "get_robust_list", sys_get_robust_list, Support::kFull},
    {324, "membarrier", sys_membarrier, Support::kPartial, "no SYNC_CORE and RSEQ commands"},
    {334, "rseq", nullptr, Support::kNone,
     "application threads are moved between processors without the sentry's knowledge; C libraries work without",
     ENOSYS},
    {449, "futex_waitv", sys_futex_waitv, Support::kFull},
    {454, "futex_wake", sys_futex_wake, Support::kFull},
    {455, "futex_wait", sys_futex_wait, Support::kFull},
    {456, "futex_requeue", sys_futex_requeue, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> futex_syscalls() { return kRows; }

}  // namespace casemate::sentry
