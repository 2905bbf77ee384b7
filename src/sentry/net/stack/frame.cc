#include "sentry/net/stack/frame.h"

#include <mutex>

namespace casemate::sentry::stack {
namespace {

constexpr size_t kMostKept = 96;  // 6 MiB

// Memory of large buffers that are not in use, linked through their first bytes.
struct Shelf {
    std::mutex mutex;
    void* first = nullptr;  // guarded by mutex
    size_t count = 0;       // guarded by mutex
};
Shelf& shelf() {
    static Shelf one;
    return one;
}

}  // namespace

Ref<FrameBuffer> FrameBuffer::create(size_t capacity) {
    void* memory = nullptr;
    // What is nearly large is large, so that it can be kept.
    if (capacity > kLarge / 2 && capacity <= kLarge) {
        capacity = kLarge;
        Shelf& kept = shelf();
        std::lock_guard lock(kept.mutex);
        if (kept.first != nullptr) {
            memory = kept.first;
            memcpy(&kept.first, memory, sizeof(kept.first));
            kept.count--;
        }
    }
    if (memory == nullptr) memory = malloc(sizeof(FrameBuffer) + capacity);
    if (memory == nullptr) return nullptr;
    return Ref<FrameBuffer>::adopt(new (memory) FrameBuffer(capacity));
}

void FrameBuffer::last_ref_dropped() {
    bool large = capacity_ == kLarge;
    this->~FrameBuffer();
    if (large) {
        Shelf& kept = shelf();
        std::lock_guard lock(kept.mutex);
        if (kept.count < kMostKept) {
            memcpy(static_cast<void*>(this), &kept.first, sizeof(kept.first));
            kept.first = this;
            kept.count++;
            return;
        }
    }
    free(this);
}

}  // namespace casemate::sentry::stack
