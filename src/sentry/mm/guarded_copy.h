// Copies that may fault: guest memory can lack pages (the pod's memory limit, a truncated file) at any moment.
//
// A SIGSEGV or SIGBUS inside these functions ends the copy instead of the process. install_fault_guard() must have been
// called once per process, before the first application runs; other faults still kill the sentry: they are bugs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace casemate::sentry {

void install_fault_guard();

// False if a page was not there; then any part may have been copied.
[[nodiscard]] bool guarded_copy(void* into, const void* from, size_t size);
bool guarded_zero(void* into, size_t size);
// Atomic 32-bit accesses; `word` is aligned.
[[nodiscard]] bool guarded_load(const uint32_t* word, uint32_t& value);
// Leaves in `value` what was there; stores `desired` if that was `expected`.
[[nodiscard]] bool guarded_compare_exchange(uint32_t* word, uint32_t expected, uint32_t desired, uint32_t& value);

}  // namespace casemate::sentry
