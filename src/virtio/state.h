// The saved state of devices: numbers and byte strings in a row, little-endian. A state file may come from anybody, so
// reading checks every length; what a number means is checked by who uses it.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/result.h"

namespace casemate::virtio {

class StateWriter {
  public:
    template <typename T>
    requires std::is_integral_v<T>
    void number(T value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value)); }
    void text(std::string_view text) {
        number(static_cast<uint32_t>(text.size()));
        bytes_.append(text);
    }
    std::string take() { return std::move(bytes_); }

  private:
    std::string bytes_;
};

class StateReader {
  public:
    explicit StateReader(std::string_view bytes) : bytes_(bytes) {}
    // EBADMSG past the end.
    template <typename T>
    requires std::is_integral_v<T> SysResult<T> number() {
        T value;
        if (bytes_.size() < sizeof(value)) return Errno(EBADMSG);
        std::memcpy(&value, bytes_.data(), sizeof(value));
        bytes_.remove_prefix(sizeof(value));
        return value;
    }
    SysResult<std::string_view> text() {
        uint32_t size = TRY(number<uint32_t>());
        if (bytes_.size() < size) return Errno(EBADMSG);
        std::string_view text = bytes_.substr(0, size);
        bytes_.remove_prefix(size);
        return text;
    }
    bool at_end() const { return bytes_.empty(); }

  private:
    std::string_view bytes_;
};

}  // namespace casemate::virtio
