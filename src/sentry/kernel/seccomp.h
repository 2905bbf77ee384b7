// Seccomp: a task's filter in force, and how it comes into force. The filters themselves: kernel/syscall_filter.h.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "sentry/kernel/syscall_filter.h"
#include "sentry/kernel/task_parts.h"

namespace casemate::sentry {

// Whether a task may always make this call: then it needs no look at its filter, and whoever answers calls without the
// sentry (inside the stub) may do so. Own thread only.
inline bool always_allowed(const Task& task, uint64_t number) {
    const SyscallFilter* filter = task.parts().filter.load(std::memory_order_acquire);
    return filter == nullptr || filter->always_allows(number);
}

// What becomes of a call that is not always allowed.
struct FilterOutcome {
    bool carry_out = true;
    int64_t result = 0;  // if it is not: what the application finds in rax
    // Or the tracer, who wants to be asked, decides: he is told this.
    std::optional<uint32_t> ask_tracer;
};
// Asks the filter and does what it says: signals and the end of the task are requested here. `tracer_agreed`: the
// tracer was asked, and this is the call as he left it.
FilterOutcome apply_filter(Task& task, const SyscallStop& call, bool tracer_agreed = false);

// The flags of SECCOMP_SET_MODE_FILTER that concern whom the filter binds.
struct FilterSync {
    bool all_threads = false;  // SECCOMP_FILTER_FLAG_TSYNC
    bool errno_only = false;   // SECCOMP_FILTER_FLAG_TSYNC_ESRCH
};
// Puts a filter above the caller's own. EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL in strict mode, else as
// SyscallFilter::create. With `sync` the number of a thread that stands in the way (or ESRCH), 0 otherwise.
SysResult<int64_t> add_filter(Task& task, std::vector<sock_filter> program, SyscallFilter::Options options,
                              FilterSync sync);
// SECCOMP_SET_MODE_STRICT. EINVAL with a filter.
SysResult<void> set_strict(Task& task);
// For a task that does not run yet: a container's own filter.
void set_first_filter(Task& task, Ref<SyscallFilter> filter);
// A new task gets its maker's. With the signal_mutex of the maker's process held.
void inherit_filter_locked(Task& maker, Task& made);
// A task that ends gives its filter up: a listener hears of the last one.
void drop_filter(Task& task);

// As prctl(PR_GET_NO_NEW_PRIVS) tells it. From any thread that may read `credentials`.
bool no_new_privileges(const Task& task, const Credentials& credentials);

// The fields of /proc/PID/status.
struct SeccompStatus {
    int mode = 0;  // SECCOMP_MODE_*
    size_t filters = 0;
};
SeccompStatus seccomp_status(Task& task);

}  // namespace casemate::sentry
