// Intrusive shared ownership, for objects of the sentry that several owners really share (an open file in two
// descriptor tables, an inode under two mounts). Everything else has one owner: use unique_ptr and references.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace casemate {

// Base of shared objects. The last Ref deletes the object; `last_ref_dropped` may be overridden to do more.
class RefCounted {
  public:
    RefCounted() = default;
    RefCounted(const RefCounted&) = delete;
    RefCounted& operator=(const RefCounted&) = delete;

    void ref() const { count_.fetch_add(1, std::memory_order_relaxed); }
    void unref() const {
        if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) const_cast<RefCounted*>(this)->last_ref_dropped();
    }
    // Takes a reference unless the last one is gone: for lookups in tables that do not own what they list.
    bool try_ref() const {
        uint32_t count = count_.load(std::memory_order_relaxed);
        while (count != 0)
            if (count_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel)) return true;
        return false;
    }
    uint32_t ref_count() const { return count_.load(std::memory_order_relaxed); }

  protected:
    virtual ~RefCounted() = default;
    virtual void last_ref_dropped() { delete this; }

  private:
    mutable std::atomic<uint32_t> count_{1};
};

template <typename T>
class Ref {
  public:
    Ref() = default;
    Ref(std::nullptr_t) {}
    // Shares: takes a reference of its own.
    explicit Ref(T* object) : object_(object) {
        if (object_ != nullptr) object_->ref();
    }
    Ref(const Ref& other) : Ref(other.object_) {}
    Ref(Ref&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    template <typename U>
    requires std::is_convertible_v<U*, T*> Ref(const Ref<U>& other) : Ref(other.get()) {}
    template <typename U>
    requires std::is_convertible_v<U*, T*> Ref(Ref<U>&& other)
    noexcept : object_(other.release()) {}
    Ref& operator=(Ref other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Ref() {
        if (object_ != nullptr) object_->unref();
    }

    // Takes over the reference that the caller owns (that of a new object, or of try_ref).
    static Ref adopt(T* object) {
        Ref ref;
        ref.object_ = object;
        return ref;
    }

    T* get() const { return object_; }
    T* operator->() const { return object_; }
    T& operator*() const { return *object_; }
    explicit operator bool() const { return object_ != nullptr; }
    [[nodiscard]] T* release() { return std::exchange(object_, nullptr); }
    void reset() { *this = Ref(); }
    friend bool operator==(const Ref& a, const Ref& b) { return a.object_ == b.object_; }

  private:
    T* object_ = nullptr;
};

template <typename T, typename... Args>
Ref<T> make_ref(Args&&... args) {
    return Ref<T>::adopt(new T(std::forward<Args>(args)...));
}

}  // namespace casemate
