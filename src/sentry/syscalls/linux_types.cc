#include "sentry/syscalls/linux_types.h"

#include <cstring>
#include <vector>

#include "base/checked.h"

namespace casemate::sentry {

SysResult<void> copy_in_struct(Task& task, GuestAddr from, uint64_t size, uint64_t least, void* into, size_t known) {
    if (size < least) return Errno(EINVAL);
    if (size > kPageSize) return Errno(E2BIG);
    std::vector<char> given(size);
    TRY(task.memory().copy_in(from, given.data(), size));
    for (size_t i = known; i < size; ++i)
        if (given[i] != 0) return Errno(E2BIG);
    std::memset(into, 0, known);
    std::memcpy(into, given.data(), size < known ? size : known);
    return {};
}

struct rusage to_rusage(const ResourceUse& use) {
    struct rusage out {};
    out.ru_utime = to_timeval(static_cast<Nanoseconds>(use.user_ns));
    out.ru_stime = to_timeval(static_cast<Nanoseconds>(use.system_ns));
    out.ru_maxrss = static_cast<long>(use.peak_resident / 1024);
    out.ru_minflt = static_cast<long>(use.faults);
    out.ru_nvcsw = static_cast<long>(use.voluntary_switches);
    return out;
}

Nanoseconds saturating_add(Nanoseconds a, Nanoseconds b) {
    Nanoseconds sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

Nanoseconds to_nanoseconds(const timespec& at) {
    if (at.tv_sec > INT64_MAX / kSecond - 1) return INT64_MAX;
    return at.tv_sec * kSecond + at.tv_nsec;
}

Nanoseconds to_nanoseconds(const timeval& at) {
    if (at.tv_sec > INT64_MAX / kSecond - 1) return INT64_MAX;
    return at.tv_sec * kSecond + at.tv_usec * 1000;
}

SysResult<SignalSet> read_signal_set(Task& task, GuestAddr address, uint64_t size) {
    if (size != sizeof(SignalSet)) return Errno(EINVAL);
    return task.read(UserPtr<SignalSet>(address));
}

}  // namespace casemate::sentry
