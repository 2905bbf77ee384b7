// Checked arithmetic for every length and address that a guest, an image or a client chose.
#pragma once

#include <cstdint>
#include <optional>
#include <type_traits>

namespace casemate {

template <typename T>
constexpr std::optional<T> checked_add(T a, std::type_identity_t<T> b) {
    T sum;
    if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
    return sum;
}

template <typename T>
constexpr std::optional<T> checked_mul(T a, std::type_identity_t<T> b) {
    T product;
    if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
    return product;
}

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t page_down(uint64_t x) { return x & ~(kPageSize - 1); }
// Wraps to 0 past the last page: check with page_up_checked where the value is not ours.
constexpr uint64_t page_up(uint64_t x) { return (x + kPageSize - 1) & ~(kPageSize - 1); }
constexpr std::optional<uint64_t> page_up_checked(uint64_t x) {
    auto sum = checked_add(x, kPageSize - 1);
    if (!sum) return std::nullopt;
    return page_down(*sum);
}
constexpr bool page_aligned(uint64_t x) { return (x & (kPageSize - 1)) == 0; }

}  // namespace casemate
