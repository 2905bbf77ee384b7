// prctl(2): what programs set and ask about themselves.
#include <linux/capability.h>
#include <linux/prctl.h>

#include "sentry/kernel/exec_credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/seccomp.h"
#include "sentry/kernel/task_parts.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/prctl.h"
#include "sentry/syscalls/seccomp.h"

namespace casemate::sentry {
namespace {

SysResult<int64_t> capability_ambient(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    uint64_t capability = args.u64(2);
    if (args.u64(3) != 0 || args.u64(4) != 0) return Errno(EINVAL);
    if (args.u64(1) == PR_CAP_AMBIENT_CLEAR_ALL) {
        if (capability != 0) return Errno(EINVAL);
        Ref<Credentials> after = now.clone();
        after->ambient = 0;
        task.set_credentials(std::move(after));
        return 0;
    }
    if (capability > CAP_LAST_CAP) return Errno(EINVAL);
    CapabilitySet bit = uint64_t{1} << capability;
    Ref<Credentials> after = now.clone();
    switch (args.u64(1)) {
        case PR_CAP_AMBIENT_IS_SET:
            return (now.ambient & bit) != 0;
        case PR_CAP_AMBIENT_RAISE:
            if ((now.permitted & now.inheritable & bit) == 0 || (now.secure_bits & kSecureNoAmbientRaise) != 0)
                return Errno(EPERM);
            after->ambient |= bit;
            break;
        case PR_CAP_AMBIENT_LOWER:
            after->ambient &= ~bit;
            break;
        default:
            return Errno(EINVAL);
    }
    task.set_credentials(std::move(after));
    return 0;
}

SysResult<int64_t> set_secure_bits(Task& task, uint32_t wanted) {
    constexpr uint32_t kAll = 0xff, kLocks = 0xaa;
    const Credentials& now = task.credentials();
    // A locked bit stays, with its lock.
    uint32_t locked = (now.secure_bits & kLocks) >> 1;
    if (((now.secure_bits ^ wanted) & locked) != 0 || (now.secure_bits & kLocks & ~wanted) != 0 ||
        (wanted & ~kAll) != 0 || !now.has(CAP_SETPCAP))
        return Errno(EPERM);
    Ref<Credentials> after = now.clone();
    after->secure_bits = wanted;
    task.set_credentials(std::move(after));
    return 0;
}

SysResult<int64_t> set_memory_layout(Task& task, const SyscallArgs& args) {
    if (args.u64(1) == PR_SET_MM_MAP || args.u64(1) == PR_SET_MM_MAP_SIZE) return Errno(EINVAL);
    if (!task.has_capability(CAP_SYS_RESOURCE)) return Errno(EPERM);
    AddressSpace::Layout layout = task.memory().layout();
    uint64_t at = args.u64(2);
    switch (args.u64(1)) {
        case PR_SET_MM_START_CODE:
            layout.code_start = at;
            break;
        case PR_SET_MM_END_CODE:
            layout.code_end = at;
            break;
        case PR_SET_MM_START_DATA:
            layout.data_start = at;
            break;
        case PR_SET_MM_END_DATA:
            layout.data_end = at;
            break;
        case PR_SET_MM_START_STACK:
            layout.stack_start = at;
            break;
        case PR_SET_MM_ARG_START:
            layout.arg_start = at;
            break;
        case PR_SET_MM_ARG_END:
            layout.arg_end = at;
            break;
        case PR_SET_MM_ENV_START:
            layout.env_start = at;
            break;
        case PR_SET_MM_ENV_END:
            layout.env_end = at;
            break;
        default:
            return Errno(EINVAL);
    }
    task.memory().set_layout(std::move(layout));
    return 0;
}

}  // namespace

SysResult<int64_t> sys_prctl(Task& task, const SyscallArgs& args) {
    Process& process = task.process();
    TaskSet& tasks = task.kernel().tasks();
    Task::Parts& parts = task.parts();
    uint64_t argument = args.u64(1);
    bool rest_zero = args.u64(2) == 0 && args.u64(3) == 0 && args.u64(4) == 0;
    switch (args.i32(0)) {
        case PR_SET_NAME: {
            auto name = task.memory().copy_in_string(argument, 16);
            if (name.ok()) {
                task.set_name(*name);
                return 0;
            }
            if (errno_of(name.error()) != ENAMETOOLONG) return name.take_error();
            char cut[15];
            TRY(task.memory().copy_in(argument, cut, sizeof(cut)));
            task.set_name(std::string_view(cut, sizeof(cut)));
            return 0;
        }
        case PR_GET_NAME: {
            char name[16] = {};
            task.name().copy(name, 15);
            TRY(task.memory().copy_out(argument, name, sizeof(name)));
            return 0;
        }
        case PR_SET_PDEATHSIG: {
            if (argument > kSignalCount) return Errno(EINVAL);
            std::lock_guard lock(tasks.mutex);
            process.parent_death_signal = static_cast<int>(argument);
            return 0;
        }
        case PR_GET_PDEATHSIG: {
            int signo;
            {
                std::lock_guard lock(tasks.mutex);
                signo = process.parent_death_signal;
            }
            TRY(task.write(UserPtr<int>(argument), signo));
            return 0;
        }
        case PR_SET_CHILD_SUBREAPER: {
            std::lock_guard lock(tasks.mutex);
            process.child_subreaper = argument != 0;
            return 0;
        }
        case PR_GET_CHILD_SUBREAPER: {
            int set;
            {
                std::lock_guard lock(tasks.mutex);
                set = process.child_subreaper ? 1 : 0;
            }
            TRY(task.write(UserPtr<int>(argument), set));
            return 0;
        }
        case PR_GET_DUMPABLE:
            return process.dumpable.load();
        case PR_SET_DUMPABLE:
            if (argument > 1) return Errno(EINVAL);
            process.dumpable.store(static_cast<int>(argument));
            return 0;
        case PR_GET_KEEPCAPS:
            return (task.credentials().secure_bits & kSecureKeepCaps) != 0;
        case PR_SET_KEEPCAPS: {
            if (argument > 1) return Errno(EINVAL);
            const Credentials& now = task.credentials();
            if ((now.secure_bits & kSecureKeepCaps << 1) != 0) return Errno(EPERM);
            Ref<Credentials> after = now.clone();
            after->secure_bits = (after->secure_bits & ~kSecureKeepCaps) | (argument != 0 ? kSecureKeepCaps : 0);
            task.set_credentials(std::move(after));
            return 0;
        }
        case PR_CAPBSET_READ:
            if (argument > CAP_LAST_CAP) return Errno(EINVAL);
            return static_cast<int64_t>(task.credentials().bounding >> argument & 1);
        case PR_CAPBSET_DROP: {
            if (!task.has_capability(CAP_SETPCAP)) return Errno(EPERM);
            if (argument > CAP_LAST_CAP) return Errno(EINVAL);
            Ref<Credentials> after = task.credentials().clone();
            after->bounding &= ~(uint64_t{1} << argument);
            task.set_credentials(std::move(after));
            return 0;
        }
        case PR_CAP_AMBIENT:
            return capability_ambient(task, args);
        case PR_GET_SECUREBITS:
            return task.credentials().secure_bits;
        case PR_SET_SECUREBITS:
            return set_secure_bits(task, args.u32(1));
        case PR_SET_NO_NEW_PRIVS: {
            if (argument != 1 || !rest_zero) return Errno(EINVAL);
            Ref<Credentials> after = task.credentials().clone();
            after->no_new_privileges = true;
            task.set_credentials(std::move(after));
            return 0;
        }
        case PR_GET_NO_NEW_PRIVS:
            if (argument != 0 || !rest_zero) return Errno(EINVAL);
            return no_new_privileges(task, task.credentials());
        case PR_GET_SECCOMP:
            return prctl_get_seccomp(task);
        case PR_SET_SECCOMP:
            return prctl_set_seccomp(task, argument, args.u64(2));
        case PR_GET_TIMERSLACK:
            return static_cast<int64_t>(parts.timer_slack_ns.load());
        case PR_SET_TIMERSLACK:
            parts.timer_slack_ns.store(argument == 0 ? 50'000 : argument);
            return 0;
        case PR_GET_TIMING:
            return PR_TIMING_STATISTICAL;
        case PR_SET_TIMING:
            return argument == PR_TIMING_STATISTICAL ? SysResult<int64_t>(0) : Errno(EINVAL);
        case PR_GET_TSC:
            TRY(task.write(UserPtr<int>(argument), int{PR_TSC_ENABLE}));
            return 0;
        case PR_SET_TSC:
            return argument == PR_TSC_ENABLE ? SysResult<int64_t>(0) : Errno(EINVAL);
        case PR_GET_TID_ADDRESS:
            TRY(task.write(UserPtr<uint64_t>(argument), uint64_t{parts.clear_child_tid}));
            return 0;
        case PR_SET_MM:
            return set_memory_layout(task, args);
        case PR_SET_THP_DISABLE:
            return 0;  // huge pages of the memory file are not visible to the application
        case PR_GET_THP_DISABLE:
            return 0;
        case PR_MCE_KILL_GET:
            return PR_MCE_KILL_DEFAULT;
        case PR_GET_SPECULATION_CTRL:
            if (argument > 2 || args.u64(2) != 0) return argument > 2 ? Errno(ENODEV) : Errno(EINVAL);
            return 0;  // PR_SPEC_NOT_AFFECTED
        case PR_SET_SPECULATION_CTRL:
            return Errno(ENXIO);
        case PR_SET_PTRACER:
            return 0;  // nothing can attach without the capability anyhow
        case PR_SET_VMA:
            // Names of anonymous memory: as a kernel without CONFIG_ANON_VMA_NAME.
            return Errno(EINVAL);
        case PR_SET_IO_FLUSHER:
            return Errno(EPERM);
        default:
            return Errno(EINVAL);
    }
}

}  // namespace casemate::sentry
