// Looking at the bytes of x86-64 code. Offsets are the caller's to keep inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>

namespace casemate::sentry::machine_code {

inline uint8_t at(std::span<const std::byte> code, size_t offset) { return static_cast<uint8_t>(code[offset]); }

inline uint32_t word_at(std::span<const std::byte> code, size_t offset) {
    uint32_t value;
    std::memcpy(&value, code.data() + offset, sizeof(value));
    return value;
}

inline bool matches(std::span<const std::byte> code, size_t offset, std::initializer_list<uint8_t> bytes) {
    for (uint8_t byte : bytes)
        if (at(code, offset++) != byte) return false;
    return true;
}

}  // namespace casemate::sentry::machine_code
