#include "sentry/kernel/host_memory.h"

#include <sys/sysinfo.h>

namespace casemate::sentry {

uint64_t host_memory() {
    static const uint64_t bytes = [] {
        struct sysinfo info {};
        return sysinfo(&info) == 0 ? info.totalram * info.mem_unit : uint64_t{1} << 30;
    }();
    return bytes;
}

}  // namespace casemate::sentry
