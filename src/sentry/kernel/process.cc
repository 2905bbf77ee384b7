#include "sentry/kernel/process.h"

#include "sentry/kernel/interval_timers.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task_set.h"

namespace casemate::sentry {

ResourceLimits default_limits() {
    ResourceLimits limits;
    limits[RLIMIT_STACK] = {8 << 20, RLIM_INFINITY};
    limits[RLIMIT_CORE] = {0, RLIM_INFINITY};
    limits[RLIMIT_NOFILE] = {1024, 1 << 20};
    limits[RLIMIT_MEMLOCK] = {8 << 20, 8 << 20};
    limits[RLIMIT_SIGPENDING] = {32768, 32768};
    limits[RLIMIT_NPROC] = {32768, 32768};
    limits[RLIMIT_MSGQUEUE] = {819200, 819200};
    limits[RLIMIT_NICE] = {0, 0};
    limits[RLIMIT_RTPRIO] = {0, 0};
    return limits;
}

Process::Process(Kernel& of, Ref<Container> in)
    : kernel(of),
      container(std::move(in)),
      started(monotonic_now()),
      handlers(make_ref<SignalHandlers>()),
      interval_timers(std::make_unique<IntervalTimers>(*this)),
      posix_timers(std::make_unique<PosixTimers>(*this)),
      limits_(default_limits()) {}

Process::~Process() = default;

ResourceLimit Process::limit(int resource) {
    std::lock_guard lock(limits_mutex_);
    return limits_[static_cast<size_t>(resource)];
}

ResourceLimit Process::set_limit(int resource, const ResourceLimit* now) {
    std::lock_guard lock(limits_mutex_);
    ResourceLimit old = limits_[static_cast<size_t>(resource)];
    if (now != nullptr) limits_[static_cast<size_t>(resource)] = *now;
    return old;
}

ResourceLimits Process::limits() {
    std::lock_guard lock(limits_mutex_);
    return limits_;
}

void Process::set_limits(const ResourceLimits& limits) {
    std::lock_guard lock(limits_mutex_);
    limits_ = limits;
}

}  // namespace casemate::sentry
