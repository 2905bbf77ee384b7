// semget, semop, semtimedop, semctl; and the families of IPC put together.
#include <sys/sem.h>

#include <vector>

#include "sentry/ipc/ipc_state.h"
#include "sentry/kernel/process.h"
#include "sentry/syscalls/ipc.h"

namespace casemate::sentry {
namespace {

// The kernel's struct semid64_ds of x86-64.
struct SetStatus {
    IpcPermissions permissions;
    int64_t operation_time;
    uint64_t unused1;
    int64_t change_time;
    uint64_t unused2;
    uint64_t semaphores, unused3, unused4;
};
static_assert(sizeof(SetStatus) == 104);

SysResult<int64_t> sys_semget(Task& task, const SyscallArgs& args) {
    int count = args.i32(1);
    if (count < 0 || count > SemaphoreSet::kMostSemaphores) return Errno(EINVAL);
    Ref<IpcState> ipc = ipc_of(task);
    return TRY(ipc->semaphores.get(
        task, args.i32(0), args.i32(2),
        [&](SemaphoreSet& set) -> SysResult<void> {
            if (static_cast<size_t>(count) > set.count()) return Errno(EINVAL);
            return {};
        },
        [&]() -> SysResult<Ref<SemaphoreSet>> {
            if (count == 0) return Errno(EINVAL);
            return SemaphoreSet::create(static_cast<size_t>(count), ipc->semaphore_total);
        }));
}

SysResult<int64_t> do_semop(Task& task, int id, GuestAddr from, uint64_t count, Deadline deadline) {
    if (count == 0 || id < 0) return Errno(EINVAL);
    if (count > SemaphoreSet::kMostOperations) return Errno(E2BIG);
    std::vector<sembuf> operations(count);
    TRY(task.memory().copy_in(from, operations.data(), count * sizeof(sembuf)));
    Ref<SemaphoreSet> set = ipc_of(task)->semaphores.find(id);
    if (!set) return Errno(EINVAL);
    TRY(set->operate(task, operations, deadline));
    return 0;
}
SysResult<int64_t> sys_semop(Task& task, const SyscallArgs& args) {
    return do_semop(task, args.i32(0), args.u64(1), args.u32(2), std::nullopt);
}
SysResult<int64_t> sys_semtimedop(Task& task, const SyscallArgs& args) {
    Deadline deadline;
    if (args.u64(3) != 0) {
        auto timeout = TRY(task.read(UserPtr<timespec>(args.u64(3))));
        if (timeout.tv_sec < 0 || timeout.tv_nsec < 0 || timeout.tv_nsec >= kSecond) return Errno(EINVAL);
        Nanoseconds total;
        if (!__builtin_mul_overflow(timeout.tv_sec, kSecond, &total) &&
            !__builtin_add_overflow(total, timeout.tv_nsec + monotonic_now(), &total))
            deadline = total;
    }
    return do_semop(task, args.i32(0), args.u64(1), args.u32(2), deadline);
}

SysResult<int64_t> sem_info(Task& task, IpcState& ipc, int command, GuestAddr into) {
    seminfo info{};
    info.semmni = IpcState::kMostSets;
    info.semmns = info.semmnu = info.semmap = 1'024'000;
    info.semmsl = info.semume = SemaphoreSet::kMostSemaphores;
    info.semopm = SemaphoreSet::kMostOperations;
    info.semvmx = info.semaem = SemaphoreSet::kMostValue;
    info.semusz = 20;
    if (command == SEM_INFO) {
        info.semusz = static_cast<int>(ipc.semaphores.count());
        info.semaem = static_cast<int>(ipc.semaphore_total->value.load());
    }
    TRY(task.write(UserPtr<seminfo>(into), info));
    return ipc.semaphores.last_index();
}

// GETVAL and its like: one semaphore.
SysResult<int64_t> one_semaphore(Task& task, SemaphoreSet& set, int index, int command, int value) {
    {
        std::lock_guard lock(set.mutex);
        if (set.removed) return Errno(EIDRM);
        if (index < 0 || static_cast<size_t>(index) >= set.count()) return Errno(EINVAL);
        auto at = static_cast<size_t>(index);
        SemaphoreSet::Semaphore& semaphore = set.at_locked(at);
        TRY(set.check_access_locked(task.credentials(), command == SETVAL ? kIpcWrite : kIpcRead));
        switch (command) {
            case GETVAL:
                return semaphore.value;
            case GETPID:
                return semaphore.last ? semaphore.last->number_in(task.pid_namespace()) : 0;
            case GETNCNT:
                return semaphore.waiting_for_more;
            case GETZCNT:
                return semaphore.waiting_for_zero;
            default:
                if (value < 0 || value > SemaphoreSet::kMostValue) return Errno(ERANGE);
                set.set_value_locked(task, at, value);
        }
    }
    set.changed();
    return 0;
}

SysResult<int64_t> all_values(Task& task, SemaphoreSet& set, int command, GuestAddr where) {
    std::vector<uint16_t> values(set.count());
    if (command == GETALL) {
        {
            std::lock_guard lock(set.mutex);
            if (set.removed) return Errno(EIDRM);
            TRY(set.check_access_locked(task.credentials(), kIpcRead));
            for (size_t i = 0; i < values.size(); i++) values[i] = set.at_locked(i).value;
        }
        TRY(task.memory().copy_out(where, values.data(), values.size() * sizeof(uint16_t)));
        return 0;
    }
    TRY(task.memory().copy_in(where, values.data(), values.size() * sizeof(uint16_t)));
    {
        std::lock_guard lock(set.mutex);
        if (set.removed) return Errno(EIDRM);
        TRY(set.check_access_locked(task.credentials(), kIpcWrite));
        for (uint16_t value : values)
            if (value > SemaphoreSet::kMostValue) return Errno(ERANGE);
        for (size_t i = 0; i < values.size(); i++) set.set_value_locked(task, i, values[i]);
    }
    set.changed();
    return 0;
}

SysResult<int64_t> sys_semctl(Task& task, const SyscallArgs& args) {
    int id = args.i32(0), command = args.i32(2) & ~0x100;  // IPC_64: the only form here
    GuestAddr argument = args.u64(3);
    Ref<IpcState> ipc = ipc_of(task);
    if (id < 0) return Errno(EINVAL);
    if (command == IPC_INFO || command == SEM_INFO) return sem_info(task, *ipc, command, argument);
    bool by_index = command == SEM_STAT || command == SEM_STAT_ANY;
    Ref<SemaphoreSet> set = by_index ? ipc->semaphores.at(id) : ipc->semaphores.find(id);
    if (!set) return Errno(EINVAL);
    const Credentials& credentials = task.credentials();
    switch (command) {
        case GETVAL:
        case GETPID:
        case GETNCNT:
        case GETZCNT:
        case SETVAL:
            return one_semaphore(task, *set, args.i32(1), command, static_cast<int>(argument));
        case GETALL:
        case SETALL:
            return all_values(task, *set, command, argument);
        case IPC_STAT:
        case SEM_STAT:
        case SEM_STAT_ANY: {
            SetStatus status{};
            {
                std::lock_guard lock(set->mutex);
                if (set->removed) return Errno(EIDRM);
                if (command != SEM_STAT_ANY) TRY(set->check_access_locked(credentials, kIpcRead));
                status.permissions = set->permissions_locked();
                status.operation_time = set->operation_time;
                status.change_time = set->change_time;
                status.semaphores = set->count();
            }
            TRY(task.write(UserPtr<SetStatus>(argument), status));
            return by_index ? set->id() : 0;
        }
        case IPC_SET: {
            auto wanted = TRY(task.read(UserPtr<SetStatus>(argument)));
            std::lock_guard lock(set->mutex);
            TRY(set->check_owner_locked(credentials));
            TRY(set->set_owner_locked(wanted.permissions));
            set->change_time = realtime_now() / kSecond;
            return 0;
        }
        case IPC_RMID: {
            {
                std::lock_guard lock(set->mutex);
                TRY(set->check_owner_locked(credentials));
                set->remove_locked();
            }
            ipc->semaphores.remove(*set);
            set->changed();
            return 0;
        }
        default:
            return Errno(EINVAL);
    }
}

constexpr SyscallRow kRows[] = {
    {64, "semget", sys_semget, Support::kFull},
    {65, "semop", sys_semop, Support::kFull},
    {66, "semctl", sys_semctl, Support::kFull},
    {220, "semtimedop", sys_semtimedop, Support::kFull},
};

std::vector<SyscallRow> joined_rows() {
    std::vector<SyscallRow> rows(std::begin(kRows), std::end(kRows));
    for (auto part : {shm_syscalls(), msg_syscalls(), mqueue_syscalls()})
        rows.insert(rows.end(), part.begin(), part.end());
    return rows;
}

}  // namespace

std::span<const SyscallRow> sem_syscalls() { return kRows; }

std::span<const SyscallRow> ipc_syscalls() {
    static const std::vector<SyscallRow> rows = joined_rows();
    return rows;
}

}  // namespace casemate::sentry
