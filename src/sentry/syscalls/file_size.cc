#include "sentry/syscalls/file_size.h"

#include <signal.h>
#include <sys/resource.h>

#include "sentry/kernel/task.h"

namespace casemate::sentry {

SysResult<void> check_file_size(Task& task, int64_t size) {
    uint64_t limit = task.limit(RLIMIT_FSIZE);
    if (limit == RLIM_INFINITY || static_cast<uint64_t>(size) <= limit) [[likely]]
        return {};
    task.send_signal(SIGXFSZ);
    return Errno(EFBIG);
}

}  // namespace casemate::sentry
