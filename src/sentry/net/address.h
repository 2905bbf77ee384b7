// Socket addresses as applications pass them: bounded bytes that start with a family. Hostile: each family checks what
// it takes out of them.
#pragma once

#include <sys/socket.h>

#include <cstring>
#include <span>
#include <type_traits>

#include "base/result.h"
#include "sentry/kernel/user.h"

namespace casemate::sentry {

class Task;

struct SocketAddress {
    size_t size = 0;  // bytes that count; 0: no address at all
    alignas(8) std::byte bytes[sizeof(sockaddr_storage)];

    SocketAddress() = default;
    // An address of nothing but its family ("unnamed" for Unix sockets).
    explicit SocketAddress(sa_family_t family) { assign(&family, sizeof(family)); }
    template <typename T>
    static SocketAddress of(const T& address) {
        SocketAddress result;
        result.assign(&address, sizeof(T));
        return result;
    }
    void assign(const void* from, size_t length) {
        size = length < sizeof(bytes) ? length : sizeof(bytes);
        memcpy(bytes, from, size);
    }
    // AF_UNSPEC if it is too short to have one.
    sa_family_t family() const {
        sa_family_t value = AF_UNSPEC;
        if (size >= sizeof(value)) memcpy(&value, bytes, sizeof(value));
        return value;
    }
    // The bytes as a T, zeros behind the end.
    template <typename T>
    T as() const {
        static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(bytes));
        T value{};
        memcpy(&value, bytes, size < sizeof(T) ? size : sizeof(T));
        return value;
    }
};

// EINVAL for a size below 0 or above sockaddr_storage's; EFAULT.
SysResult<SocketAddress> read_address(Task& task, GuestAddr from, int64_t size);
// As accept(2) and getsockname(2): `size_at` holds the room at `into`, and the true size afterwards.
SysResult<void> write_address(Task& task, const SocketAddress& address, GuestAddr into, GuestAddr size_at);

}  // namespace casemate::sentry
