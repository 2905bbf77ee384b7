#include "sentry/syscalls/user_iovec.h"

#include <algorithm>
#include <cstdint>

namespace casemate::sentry {

SysResult<UserIovec> UserIovec::copy_in(Task& task, GuestAddr address, uint64_t count) {
    if (count > kMaxIovecs) return Errno(EINVAL);
    UserIovec result;
    result.count_ = count;
    if (count > kFew) result.many_ = std::make_unique<iovec[]>(count);
    iovec* pieces = result.many_ ? result.many_.get() : result.few_;
    if (count != 0) TRY(task.memory().copy_in(address, pieces, count * sizeof(iovec)));
    for (size_t i = 0; i < count; ++i) {
        if (static_cast<int64_t>(pieces[i].iov_len) < 0) return Errno(EINVAL);
        GuestAddr base = reinterpret_cast<GuestAddr>(pieces[i].iov_base);
        if (base > INT64_MAX - pieces[i].iov_len) return Errno(EFAULT);
        pieces[i].iov_len = std::min(pieces[i].iov_len, kMaxIoSize - result.size_);
        result.size_ += pieces[i].iov_len;
    }
    return result;
}

SysResult<IoBuffer> user_buffer(Task& task, GuestAddr address, uint64_t size) {
    if (static_cast<int64_t>(size) < 0) return Errno(EINVAL);
    if (address > INT64_MAX - size) return Errno(EFAULT);
    return IoBuffer::user(task.memory(), address, std::min<size_t>(size, kMaxIoSize));
}

}  // namespace casemate::sentry
