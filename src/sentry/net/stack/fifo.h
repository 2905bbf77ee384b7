// Fifo: a queue in one piece of memory, for what thousands of connections have each: nothing while it is empty and has
// never been long, where a std::deque takes 576 bytes. What it holds may move when it grows or is taken from.
#pragma once

#include <cstddef>
#include <vector>

namespace casemate::sentry::stack {

template <typename T>
class Fifo {
  public:
    bool empty() const { return first_ == all_.size(); }
    size_t size() const { return all_.size() - first_; }
    T* begin() { return all_.data() + first_; }
    T* end() { return all_.data() + all_.size(); }
    const T* begin() const { return all_.data() + first_; }
    const T* end() const { return all_.data() + all_.size(); }
    T& front() { return all_[first_]; }
    T& back() { return all_.back(); }

    void push_back(T one) { all_.push_back(std::move(one)); }
    void pop_front() {
        all_[first_++] = T();
        if (empty()) {
            first_ = 0;
            all_.clear();
            if (all_.capacity() > kKeptRoom) std::vector<T>().swap(all_);
        } else if (first_ >= kKeptRoom && first_ >= all_.size() / 2) {
            all_.erase(all_.begin(), all_.begin() + static_cast<std::ptrdiff_t>(first_));
            first_ = 0;
        }
    }
    void clear() {
        first_ = 0;
        std::vector<T>().swap(all_);
    }

  private:
    static constexpr size_t kKeptRoom = 8;
    std::vector<T> all_;  // those before first_ have been taken
    size_t first_ = 0;
};

}  // namespace casemate::sentry::stack
