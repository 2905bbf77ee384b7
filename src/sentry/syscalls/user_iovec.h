// The iovec arrays of readv(2) and its relatives: copied in once, checked, then used.
#pragma once

#include <sys/uio.h>

#include <memory>
#include <span>

#include "base/result.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/io_buffer.h"

namespace casemate::sentry {

// No read or write moves more than this (MAX_RW_COUNT).
constexpr size_t kMaxIoSize = 0x7ffff000;
constexpr size_t kMaxIovecs = 1024;

class UserIovec {
  public:
    // EINVAL for counts past 1024 and lengths past what ssize_t holds; the sum is cut at kMaxIoSize. EFAULT.
    static SysResult<UserIovec> copy_in(Task& task, GuestAddr address, uint64_t count);
    std::span<const iovec> pieces() const { return {many_ ? many_.get() : few_, count_}; }
    size_t size() const { return size_; }
    IoBuffer buffer(Task& task) const { return IoBuffer::user(task.memory(), pieces()); }

  private:
    static constexpr size_t kFew = 8;
    UserIovec() = default;
    iovec few_[kFew];
    std::unique_ptr<iovec[]> many_;
    size_t count_ = 0, size_ = 0;
};

// A buffer of one piece; the size is cut at kMaxIoSize. EFAULT for addresses that wrap.
SysResult<IoBuffer> user_buffer(Task& task, GuestAddr address, uint64_t size);

}  // namespace casemate::sentry
