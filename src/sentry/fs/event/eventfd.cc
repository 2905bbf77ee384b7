#include "sentry/fs/event/eventfd.h"

#include <fmt/core.h>
#include <sys/epoll.h>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

EventFile::EventFile(Path path, int flags, uint64_t initial, bool semaphore)
    : File(std::move(path), flags), semaphore_(semaphore), count_(initial) {}

uint32_t EventFile::poll_events(Task*) {
    std::lock_guard lock(mutex_);
    return (count_ > 0 ? EPOLLIN : 0u) | (count_ < ~uint64_t{0} - 1 ? EPOLLOUT : 0u);
}

std::string EventFile::fdinfo(Task& task) {
    std::lock_guard lock(mutex_);
    return File::fdinfo(task) + fmt::format("eventfd-count: {:16x}\n", count_);
}

SysResult<size_t> EventFile::read_at(Task& task, IoBuffer& into, int64_t) {
    if (into.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
    uint64_t value = TRY(task.wait_or_park(Ref<RefCounted>(this), waiters_, EPOLLIN, std::nullopt,
                                           [&]() -> std::optional<SysResult<uint64_t>> {
                                               std::lock_guard lock(mutex_);
                                               if (count_ == 0) {
                                                   if (nonblocking()) return SysResult<uint64_t>(Errno(EAGAIN));
                                                   return std::nullopt;
                                               }
                                               uint64_t taken = semaphore_ ? 1 : count_;
                                               count_ -= taken;
                                               return SysResult<uint64_t>(taken);
                                           }));
    waiters_.notify(EPOLLOUT);
    return into.copy_to(&value, sizeof(value));
}

SysResult<size_t> EventFile::write_at(Task& task, IoBuffer& from, int64_t&, bool) {
    uint64_t value = 0;
    if (from.remaining() < sizeof(value)) return Errno(EINVAL);
    if (TRY(from.copy_from(&value, sizeof(value))) != sizeof(value)) return Errno(EFAULT);
    if (value == ~uint64_t{0}) return Errno(EINVAL);
    TRY(task.wait_on(waiters_, EPOLLOUT, std::nullopt, [&]() -> std::optional<SysResult<void>> {
        std::lock_guard lock(mutex_);
        if (value > ~uint64_t{0} - 1 - count_) {
            if (nonblocking()) return SysResult<void>(Errno(EAGAIN));
            return std::nullopt;
        }
        count_ += value;
        return SysResult<void>();
    }));
    waiters_.notify(EPOLLIN);
    return sizeof(value);
}

}  // namespace casemate::sentry
