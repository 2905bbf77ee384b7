// Sleeping and waking of the sentry's own threads on a word of its own memory.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "sentry/kernel/clock.h"

namespace casemate::sentry {

// Sleeps while `word` is `expected`; 0, EAGAIN (it was not), ETIMEDOUT, EINTR.
inline int host_futex_wait(std::atomic<uint32_t>& word, uint32_t expected, Deadline deadline) {
    timespec until{};
    if (deadline) {
        Nanoseconds at = *deadline < 0 ? 0 : *deadline;
        until.tv_sec = at / kSecond;
        until.tv_nsec = at % kSecond;
    }
    long result = ::syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                            deadline ? &until : nullptr, nullptr, FUTEX_BITSET_MATCH_ANY);
    return result == 0 ? 0 : errno;
}

inline void host_futex_wake(std::atomic<uint32_t>& word, int count = 1) {
    ::syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, nullptr, nullptr, 0);
}

}  // namespace casemate::sentry
