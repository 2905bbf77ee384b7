// Waits for a word in shared memory to leave zero, without hanging when the process that should set it dies or lies.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <optional>

namespace casemate::sentry::seccomp {

// The word's value once it is not 0; nothing when `give_up()`, asked every 50 ms, says so first. The word may be
// hostile: one read decides.
template <typename GiveUp>
std::optional<int32_t> await_word(std::atomic<int32_t>& word, GiveUp give_up) {
    for (;;) {
        if (const int32_t value = word.load(std::memory_order_acquire); value != 0) return value;
        const timespec patience{.tv_sec = 0, .tv_nsec = 50'000'000};
        const long result = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &patience, nullptr, 0);
        if (result != 0 && errno == ETIMEDOUT && give_up()) {
            const int32_t value = word.load(std::memory_order_acquire);
            return value != 0 ? std::optional(value) : std::nullopt;
        }
    }
}

inline void wake_word(void* word) { syscall(SYS_futex, word, FUTEX_WAKE, 1, nullptr, nullptr, 0); }

}  // namespace casemate::sentry::seccomp
