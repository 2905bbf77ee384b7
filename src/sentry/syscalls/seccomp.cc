#include "sentry/syscalls/seccomp.h"

#include <linux/capability.h>

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/kernel/filter_notices.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"

// Linux 5.7, 5.19.
#ifndef SECCOMP_FILTER_FLAG_TSYNC_ESRCH
#define SECCOMP_FILTER_FLAG_TSYNC_ESRCH (1UL << 4)
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace casemate::sentry {
namespace {

// The kernel's sock_fprog.
struct Program {
    uint16_t length;
    uint16_t padding[3];
    uint64_t instructions;
};

SysResult<int64_t> set_filter(Task& task, uint64_t flags, GuestAddr address) {
    constexpr uint64_t kSync = SECCOMP_FILTER_FLAG_TSYNC, kEsrch = SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
                       kListener = SECCOMP_FILTER_FLAG_NEW_LISTENER, kKillable = SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    constexpr uint64_t kKnown =
        kSync | kEsrch | kListener | kKillable | SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    if ((flags & ~kKnown) != 0) return Errno(EINVAL);
    // Both answer with a number: one of them only, unless threads in the way are told by ESRCH.
    if ((flags & kSync) != 0 && (flags & kListener) != 0 && (flags & kEsrch) == 0) return Errno(EINVAL);
    if ((flags & kKillable) != 0 && (flags & kListener) == 0) return Errno(EINVAL);
    auto given = TRY(task.read(UserPtr<Program>(address)));
    if (given.length == 0 || given.length > BPF_MAXINSNS) return Errno(EINVAL);
    if (!no_new_privileges(task, task.credentials()) && !task.has_capability(CAP_SYS_ADMIN)) return Errno(EACCES);
    std::vector<sock_filter> program(given.length);
    TRY(task.memory().copy_in(given.instructions, program.data(), program.size() * sizeof(sock_filter)));

    SyscallFilter::Options options;
    options.log = (flags & SECCOMP_FILTER_FLAG_LOG) != 0;
    options.wait_killable = (flags & kKillable) != 0;
    FilterSync sync{(flags & kSync) != 0, (flags & kEsrch) != 0};
    if ((flags & kListener) == 0) return add_filter(task, std::move(program), std::move(options), sync);

    options.notices = make_ref<FilterNotices>();
    Path place = anonymous_place(task.kernel(), task.credentials(), 0600, "anon_inode:seccomp notify");
    Ref<File> listener = make_listener(std::move(place), options.notices);
    int fd = TRY(task.files().insert(std::move(listener), true, task.limit(RLIMIT_NOFILE)));
    auto added = add_filter(task, std::move(program), std::move(options), sync);
    if (!added.ok() || *added != 0) {
        static_cast<void>(task.files().remove(fd));
        return added;
    }
    return fd;
}

SysResult<int64_t> action_available(Task& task, uint64_t flags, GuestAddr address) {
    if (flags != 0) return Errno(EINVAL);
    switch (TRY(task.read(UserPtr<uint32_t>(address)))) {
        case SECCOMP_RET_KILL_PROCESS:
        case SECCOMP_RET_KILL_THREAD:
        case SECCOMP_RET_TRAP:
        case SECCOMP_RET_ERRNO:
        case SECCOMP_RET_USER_NOTIF:
        case SECCOMP_RET_TRACE:
        case SECCOMP_RET_LOG:
        case SECCOMP_RET_ALLOW:
            return 0;
        default:
            return Errno(EOPNOTSUPP);
    }
}

}  // namespace

SysResult<int64_t> sys_seccomp(Task& task, const SyscallArgs& args) {
    uint64_t flags = args.u32(1);
    GuestAddr address = args.u64(2);
    switch (args.u32(0)) {
        case SECCOMP_SET_MODE_STRICT:
            if (flags != 0 || address != 0) return Errno(EINVAL);
            TRY(set_strict(task));
            return 0;
        case SECCOMP_SET_MODE_FILTER:
            return set_filter(task, flags, address);
        case SECCOMP_GET_ACTION_AVAIL:
            return action_available(task, flags, address);
        case SECCOMP_GET_NOTIF_SIZES: {
            if (flags != 0) return Errno(EINVAL);
            seccomp_notif_sizes sizes{sizeof(seccomp_notif), sizeof(seccomp_notif_resp), sizeof(seccomp_data)};
            TRY(task.write(UserPtr<seccomp_notif_sizes>(address), sizes));
            return 0;
        }
        default:
            return Errno(EINVAL);
    }
}

SysResult<int64_t> prctl_set_seccomp(Task& task, uint64_t mode, GuestAddr program) {
    if (mode == SECCOMP_MODE_FILTER) return set_filter(task, 0, program);
    if (mode != SECCOMP_MODE_STRICT) return Errno(EINVAL);
    TRY(set_strict(task));
    return 0;
}

int64_t prctl_get_seccomp(Task& task) { return seccomp_status(task).mode; }

}  // namespace casemate::sentry
