// SmallMutex: a mutex of four bytes, for objects of which there are tens of thousands (a dentry has two; std::mutex
// takes 40 bytes). Not recursive; held for short stretches or over a file operation, never over a guest's wait.
#pragma once

#include <atomic>
#include <cstdint>

namespace casemate::sentry {

class SmallMutex {
  public:
    SmallMutex() = default;
    SmallMutex(const SmallMutex&) = delete;
    SmallMutex& operator=(const SmallMutex&) = delete;

    void lock() {
        uint32_t expected = 0;
        if (state_.compare_exchange_strong(expected, 1, std::memory_order_acquire)) [[likely]]
            return;
        // 2: held, and somebody may be waiting.
        while (state_.exchange(2, std::memory_order_acquire) != 0) state_.wait(2, std::memory_order_relaxed);
    }
    bool try_lock() {
        uint32_t expected = 0;
        return state_.compare_exchange_strong(expected, 1, std::memory_order_acquire);
    }
    void unlock() {
        if (state_.exchange(0, std::memory_order_release) == 2) state_.notify_one();
    }

  private:
    std::atomic<uint32_t> state_{0};
};

}  // namespace casemate::sentry
