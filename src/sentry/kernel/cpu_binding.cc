#include "sentry/kernel/cpu_binding.h"

namespace casemate::sentry {

std::optional<cpu_set_t> bind_to_this_cpu(pid_t thread) {
    const int cpu = sched_getcpu();
    cpu_set_t had, only;
    if (cpu < 0 || sched_getaffinity(thread, sizeof(had), &had) != 0 || CPU_COUNT(&had) < 2) return std::nullopt;
    CPU_ZERO(&only);
    CPU_SET(static_cast<size_t>(cpu), &only);
    if (sched_setaffinity(thread, sizeof(only), &only) != 0) return std::nullopt;
    return had;
}

void bind_to(pid_t thread, const cpu_set_t& cpus) { sched_setaffinity(thread, sizeof(cpus), &cpus); }

}  // namespace casemate::sentry
