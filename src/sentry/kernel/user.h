// Addresses in application memory: types that do not dereference. The application may change what lies there at any
// moment, so a value is copied in once and then used.
#pragma once

#include <cstdint>

namespace casemate::sentry {

using GuestAddr = uint64_t;

// A pointer that a syscall got from the application. Use Task::read/write (kernel/task.h) to copy its value.
template <typename T>
struct UserPtr {
    GuestAddr address = 0;
    UserPtr() = default;
    explicit UserPtr(GuestAddr a) : address(a) {}
    explicit operator bool() const { return address != 0; }
    UserPtr<T> operator+(int64_t n) const { return UserPtr<T>(address + static_cast<uint64_t>(n) * sizeof(T)); }
};

}  // namespace casemate::sentry
