// KVM's structures in a snapshot, each with its size; inside this folder only.
#pragma once

#include <cerrno>
#include <cstring>
#include <type_traits>

#include "base/result.h"
#include "virtio/state.h"

namespace casemate::vmm {

template <typename T>
void put(virtio::StateWriter& writer, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    // SAFETY: the bytes of a trivially copyable value.
    writer.text({reinterpret_cast<const char*>(&value), sizeof value});
}

template <typename T>
Result<T> take(virtio::StateReader& reader) {
    auto bytes = reader.text();
    T value = {};
    if (!bytes.ok() || bytes->size() != sizeof value) return Error("the snapshot is not whole", EBADMSG);
    std::memcpy(&value, bytes->data(), sizeof value);
    return value;
}

}  // namespace casemate::vmm
