// Conversions between what applications pass and what the sentry computes with.
#pragma once

#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

#include "base/result.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

// A structure that grows with Linux: `size` is what the application says, `least` the first version's. Bytes beyond
// what is known here must be zero (E2BIG); missing ones are.
SysResult<void> copy_in_struct(Task& task, GuestAddr from, uint64_t size, uint64_t least, void* into, size_t known);

struct rusage to_rusage(const ResourceUse& use);

inline timespec to_timespec(Nanoseconds at) { return {at / kSecond, at % kSecond}; }
inline timeval to_timeval(Nanoseconds at) { return {at / kSecond, at % kSecond / 1000}; }
inline bool valid(const timespec& at) { return at.tv_sec >= 0 && at.tv_nsec >= 0 && at.tv_nsec < kSecond; }
inline bool valid(const timeval& at) { return at.tv_sec >= 0 && at.tv_usec >= 0 && at.tv_usec < 1'000'000; }
// Saturates: a time beyond what fits waits for ever.
Nanoseconds to_nanoseconds(const timespec& at);
Nanoseconds to_nanoseconds(const timeval& at);
Nanoseconds saturating_add(Nanoseconds a, Nanoseconds b);

// A signal set argument of rt_sig*, ppoll...: its size must be 8.
SysResult<SignalSet> read_signal_set(Task& task, GuestAddr address, uint64_t size);

}  // namespace casemate::sentry
