#include "sentry/ipc/semaphores.h"

#include <sys/epoll.h>

#include <algorithm>

#include "sentry/kernel/process.h"

namespace casemate::sentry {
namespace {

constexpr size_t kMostInNamespace = 1'024'000;  // a thousandth of Linux's SEMMNS: they are the sentry's memory

// Which sets a process has something to undo in.
struct UndoBook {
    std::mutex mutex;
    std::unordered_map<Process*, std::vector<Ref<SemaphoreSet>>> sets;  // guarded by mutex
    std::atomic<size_t> processes{0};
};
UndoBook& undo_book() {
    static UndoBook book;
    return book;
}

void note_undo(Process& process, SemaphoreSet& set) {
    UndoBook& book = undo_book();
    std::lock_guard lock(book.mutex);
    auto& sets = book.sets[&process];
    for (auto& known : sets)
        if (known.get() == &set) return;
    sets.push_back(Ref<SemaphoreSet>(&set));
    book.processes = book.sets.size();
}

}  // namespace

void undo_semaphores(Process& process) {
    UndoBook& book = undo_book();
    if (book.processes.load(std::memory_order_acquire) == 0) return;
    std::vector<Ref<SemaphoreSet>> sets;
    {
        std::lock_guard lock(book.mutex);
        auto it = book.sets.find(&process);
        if (it == book.sets.end()) return;
        sets = std::move(it->second);
        book.sets.erase(it);
        book.processes = book.sets.size();
    }
    for (auto& set : sets) set->process_ended(process, process.pid);
}

SemaphoreSet::SemaphoreSet(size_t count, Ref<SemaphoreCount> total) : total_(std::move(total)), values_(count) {
    change_time = realtime_now() / kSecond;
}
SemaphoreSet::~SemaphoreSet() { total_->value.fetch_sub(values_.size()); }

SysResult<Ref<SemaphoreSet>> SemaphoreSet::create(size_t count, const Ref<SemaphoreCount>& total) {
    if (total->value.fetch_add(count) + count > kMostInNamespace) {
        total->value.fetch_sub(count);
        return Errno(ENOSPC);
    }
    return Ref<SemaphoreSet>::adopt(new SemaphoreSet(count, total));
}

SysResult<std::optional<SemaphoreSet::Blocked>> SemaphoreSet::try_locked(Task& task,
                                                                         std::span<const sembuf> operations) {
    Process& process = task.process();
    size_t done = 0;
    std::optional<Errno> failure;
    std::optional<Blocked> blocked;
    std::vector<int16_t>* undo = nullptr;
    if (auto it = undo_.find(&process); it != undo_.end()) undo = &it->second;
    for (; done < operations.size(); done++) {
        const sembuf& one = operations[done];
        Semaphore& semaphore = values_[one.sem_num];
        int value = semaphore.value;
        if (one.sem_op == 0 ? value != 0 : value + one.sem_op < 0) {
            if (one.sem_flg & IPC_NOWAIT)
                failure = Errno(EAGAIN);
            else
                blocked = Blocked{one.sem_num, one.sem_op == 0};
            break;
        }
        if (value + one.sem_op > kMostValue) {
            failure = Errno(ERANGE);
            break;
        }
        if ((one.sem_flg & SEM_UNDO) && one.sem_op != 0) {
            if (undo == nullptr) undo = &undo_.try_emplace(&process, values_.size()).first->second;
            int adjust = (*undo)[one.sem_num] - one.sem_op;
            if (adjust < -kMostValue - 1 || adjust > kMostValue) {
                failure = Errno(ERANGE);
                break;
            }
            (*undo)[one.sem_num] = static_cast<int16_t>(adjust);
        }
        semaphore.value = static_cast<uint16_t>(value + one.sem_op);
    }
    if (!failure && !blocked) {
        bool undone = false;
        for (const sembuf& one : operations) {
            values_[one.sem_num].last = process.pid;
            undone = undone || ((one.sem_flg & SEM_UNDO) && one.sem_op != 0);
        }
        if (undone) note_undo(process, *this);
        operation_time = realtime_now() / kSecond;
        return std::optional<Blocked>();
    }
    // Back to what it was.
    while (done-- > 0) {
        const sembuf& one = operations[done];
        values_[one.sem_num].value = static_cast<uint16_t>(values_[one.sem_num].value - one.sem_op);
        if ((one.sem_flg & SEM_UNDO) && one.sem_op != 0)
            (*undo)[one.sem_num] = static_cast<int16_t>((*undo)[one.sem_num] + one.sem_op);
    }
    if (failure) return *failure;
    return blocked;
}

SysResult<void> SemaphoreSet::operate(Task& task, std::span<const sembuf> operations, Deadline deadline) {
    bool alters = false;
    for (const sembuf& one : operations) {
        if (one.sem_num >= values_.size()) return Errno(EFBIG);
        alters = alters || one.sem_op != 0;
    }
    std::optional<Blocked> counted;  // where this call is counted as waiting
    auto uncount_locked = [&] {
        if (!counted) return;
        Semaphore& semaphore = values_[counted->index];
        (counted->for_zero ? semaphore.waiting_for_zero : semaphore.waiting_for_more)--;
        counted.reset();
    };
    auto result = task.wait_on(waiters_, ~0u, deadline, [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex);
        uncount_locked();
        if (removed) return SysResult<void>(Errno(EIDRM));
        if (auto allowed = check_access_locked(task.credentials(), alters ? kIpcWrite : kIpcRead); !allowed.ok())
            return SysResult<void>(allowed.take_error());
        auto tried = try_locked(task, operations);
        if (!tried.ok()) return SysResult<void>(tried.take_error());
        if (!*tried) return SysResult<void>();
        counted = **tried;
        Semaphore& semaphore = values_[counted->index];
        (counted->for_zero ? semaphore.waiting_for_zero : semaphore.waiting_for_more)++;
        return std::nullopt;
    });
    {
        std::lock_guard lock(mutex);
        uncount_locked();
    }
    if (!result.ok()) {
        int error = result.error().value;
        // Interrupted calls are not restarted (signal(7)).
        return Errno(error == kRestartSys ? EINTR : error == ETIMEDOUT ? EAGAIN : error);
    }
    if (alters) changed();
    return {};
}

void SemaphoreSet::set_value_locked(Task& task, size_t index, int value) {
    values_[index].value = static_cast<uint16_t>(value);
    values_[index].last = task.process().pid;
    for (auto& [process, undo] : undo_) undo[index] = 0;
    change_time = realtime_now() / kSecond;
}

void SemaphoreSet::remove_locked() {
    removed = true;
    undo_.clear();
}

void SemaphoreSet::process_ended(Process& process, const Ref<Pid>& pid) {
    {
        std::lock_guard lock(mutex);
        auto it = undo_.find(&process);
        if (it == undo_.end()) return;
        for (size_t i = 0; i < values_.size() && !removed; i++) {
            if (it->second[i] == 0) continue;
            int value = std::clamp(values_[i].value + it->second[i], 0, kMostValue);
            values_[i].value = static_cast<uint16_t>(value);
            values_[i].last = pid;
        }
        undo_.erase(it);
        operation_time = realtime_now() / kSecond;
    }
    changed();
}

}  // namespace casemate::sentry
