// An owned mapping of the host's address space.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <span>
#include <utility>

#include "base/result.h"

namespace casemate {

class UniqueMap {
  public:
    UniqueMap() = default;
    UniqueMap(void* address, size_t size) : address_(address), size_(size) {}
    UniqueMap(UniqueMap&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    UniqueMap& operator=(UniqueMap&& other) noexcept {
        if (this != &other) {
            reset();
            address_ = std::exchange(other.address_, nullptr);
            size_ = std::exchange(other.size_, 0);
        }
        return *this;
    }
    ~UniqueMap() { reset(); }

    // mmap(2) with the kernel choosing the address; `size` in bytes. The descriptor is borrowed.
    static SysResult<UniqueMap> create(size_t size, int protection, int flags, int fd = -1, off_t offset = 0) {
        void* address = ::mmap(nullptr, size, protection, flags, fd, offset);
        if (address == MAP_FAILED) return last_errno();
        return UniqueMap(address, size);
    }

    char* data() const { return static_cast<char*>(address_); }
    size_t size() const { return size_; }
    explicit operator bool() const { return address_ != nullptr; }
    template <typename T>
    T* as(size_t offset = 0) const {
        return reinterpret_cast<T*>(data() + offset);
    }
    void reset() {
        if (address_ != nullptr) ::munmap(address_, size_);
        address_ = nullptr;
        size_ = 0;
    }
    [[nodiscard]] void* release() {
        size_ = 0;
        return std::exchange(address_, nullptr);
    }

  private:
    void* address_ = nullptr;
    size_t size_ = 0;
};

}  // namespace casemate
