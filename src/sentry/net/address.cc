#include "sentry/net/address.h"

#include <algorithm>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

SysResult<SocketAddress> read_address(Task& task, GuestAddr from, int64_t size) {
    if (size < 0 || size > static_cast<int64_t>(sizeof(sockaddr_storage))) return Errno(EINVAL);
    SocketAddress address;
    if (size == 0) return address;
    TRY(task.memory().copy_in(from, address.bytes, static_cast<size_t>(size)));
    address.size = static_cast<size_t>(size);
    return address;
}

SysResult<void> write_address(Task& task, const SocketAddress& address, GuestAddr into, GuestAddr size_at) {
    auto room = TRY(task.read(UserPtr<int32_t>(size_at)));
    if (room < 0) return Errno(EINVAL);
    size_t part = std::min(static_cast<size_t>(room), address.size);
    if (part > 0) TRY(task.memory().copy_out(into, address.bytes, part));
    return task.write(UserPtr<int32_t>(size_at), static_cast<int32_t>(address.size));
}

}  // namespace casemate::sentry
