// Guarded<T>: data that carries its lock. The value is reachable only while the lock is held.
//
//   Guarded<std::vector<int>> list;
//   list.lock()->push_back(1);              // one statement
//   auto locked = list.lock();              // a scope
#pragma once

#include <mutex>
#include <utility>

namespace casemate {

template <typename T, typename Mutex = std::mutex>
class Guarded {
  public:
    template <typename... Args>
    explicit Guarded(Args&&... args) : value_(std::forward<Args>(args)...) {}

    class Locked {
      public:
        Locked(T& value, Mutex& mutex) : lock_(mutex), value_(value) {}
        T& operator*() const { return value_; }
        T* operator->() const { return &value_; }
        std::unique_lock<Mutex>& unique_lock() { return lock_; }

      private:
        std::unique_lock<Mutex> lock_;
        T& value_;
    };
    class ConstLocked {
      public:
        ConstLocked(const T& value, Mutex& mutex) : lock_(mutex), value_(value) {}
        const T& operator*() const { return value_; }
        const T* operator->() const { return &value_; }

      private:
        std::unique_lock<Mutex> lock_;
        const T& value_;
    };

    Locked lock() { return Locked(value_, mutex_); }
    ConstLocked lock() const { return ConstLocked(value_, mutex_); }

  private:
    T value_;
    mutable Mutex mutex_;
};

}  // namespace casemate
