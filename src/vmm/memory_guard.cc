#include "vmm/memory_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <utility>

namespace casemate::vmm {

namespace {

// A handler can only look at what is global. A range is free, being filled in (1), or begins at an address.
struct Range {
    std::atomic<uintptr_t> begin{0};
    size_t size = 0;
    size_t page = 0;
    int event = -1;
};
constexpr uintptr_t kTaken = 1;
std::array<Range, 64> g_ranges;

// SAFETY: a synchronous signal of the thread that touched the page; only atomics and system calls.
void on_bus_error(int, siginfo_t* info, void*) {
    int saved = errno;
    auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    for (const Range& range : g_ranges) {
        uintptr_t begin = range.begin.load(std::memory_order_acquire);
        if (begin <= kTaken || at < begin || at - begin >= range.size) continue;
        void* page = reinterpret_cast<void*>(at & ~(range.page - 1));
        if (::mmap(page, range.page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
            break;
        uint64_t one = 1;
        (void)!::write(range.event, &one, sizeof one);
        errno = saved;
        return;
    }
    ::abort();
}

}  // namespace

Result<MemoryGuard> MemoryGuard::create(void* begin, size_t size, size_t page, int event) {
    struct sigaction action = {};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    if (::sigaction(SIGBUS, &action, nullptr) < 0) return Error("SIGBUS cannot be handled", errno);
    for (size_t slot = 0; slot < g_ranges.size(); ++slot) {
        Range& range = g_ranges[slot];
        uintptr_t free = 0;
        if (!range.begin.compare_exchange_strong(free, kTaken)) continue;
        range.size = size;
        range.page = page;
        range.event = event;
        range.begin.store(reinterpret_cast<uintptr_t>(begin), std::memory_order_release);
        return MemoryGuard(static_cast<int>(slot));
    }
    return Error("too many machines in one process", ENOSPC);
}

MemoryGuard::MemoryGuard(MemoryGuard&& other) noexcept : slot_(std::exchange(other.slot_, -1)) {}

MemoryGuard& MemoryGuard::operator=(MemoryGuard&& other) noexcept {
    std::swap(slot_, other.slot_);
    return *this;
}

MemoryGuard::~MemoryGuard() {
    if (slot_ >= 0) g_ranges[static_cast<size_t>(slot_)].begin.store(0, std::memory_order_release);
}

}  // namespace casemate::vmm
