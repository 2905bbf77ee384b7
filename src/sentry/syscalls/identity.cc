// User and group ids, capabilities, process groups and sessions.
#include <limits.h>
#include <linux/capability.h>
#include <linux/prctl.h>

#include "sentry/kernel/exec_credentials.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/linux_types.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

constexpr uint32_t kUnchanged = ~0u;

// Capabilities after a change of user ids (capabilities(7), "Effect of user ID changes on capabilities").
void fix_capabilities(const Credentials& before, Credentials& after) {
    if ((after.secure_bits & kSecureNoSetuidFixup) != 0) return;
    bool had_root = before.uid == 0 || before.euid == 0 || before.suid == 0;
    bool has_root = after.uid == 0 || after.euid == 0 || after.suid == 0;
    if (had_root && !has_root) {
        if ((after.secure_bits & kSecureKeepCaps) == 0) after.permitted = after.effective = 0;
        after.ambient = 0;
    }
    if (before.euid == 0 && after.euid != 0) after.effective = 0;
    if (before.euid != 0 && after.euid == 0) after.effective = after.permitted;
}

constexpr CapabilitySet kFileCapabilities = uint64_t{1} << CAP_CHOWN | uint64_t{1} << CAP_DAC_OVERRIDE |
                                            uint64_t{1} << CAP_DAC_READ_SEARCH | uint64_t{1} << CAP_FOWNER |
                                            uint64_t{1} << CAP_FSETID | uint64_t{1} << CAP_LINUX_IMMUTABLE |
                                            uint64_t{1} << CAP_MKNOD | uint64_t{1} << CAP_MAC_OVERRIDE;

SysResult<int64_t> commit(Task& task, Ref<Credentials> after) {
    fix_capabilities(task.credentials(), *after);
    task.set_credentials(std::move(after));
    return 0;
}

SysResult<int64_t> sys_getuid(Task& task, const SyscallArgs&) { return task.credentials().uid; }
SysResult<int64_t> sys_geteuid(Task& task, const SyscallArgs&) { return task.credentials().euid; }
SysResult<int64_t> sys_getgid(Task& task, const SyscallArgs&) { return task.credentials().gid; }
SysResult<int64_t> sys_getegid(Task& task, const SyscallArgs&) { return task.credentials().egid; }

SysResult<int64_t> sys_setuid(Task& task, const SyscallArgs& args) {
    uint32_t uid = args.u32(0);
    if (uid == kUnchanged) return Errno(EINVAL);
    const Credentials& now = task.credentials();
    Ref<Credentials> after = now.clone();
    if (now.has(CAP_SETUID)) {
        after->uid = after->suid = uid;
    } else if (uid != now.uid && uid != now.suid) {
        return Errno(EPERM);
    }
    after->euid = after->fsuid = uid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_setgid(Task& task, const SyscallArgs& args) {
    uint32_t gid = args.u32(0);
    if (gid == kUnchanged) return Errno(EINVAL);
    const Credentials& now = task.credentials();
    Ref<Credentials> after = now.clone();
    if (now.has(CAP_SETGID)) {
        after->gid = after->sgid = gid;
    } else if (gid != now.gid && gid != now.sgid) {
        return Errno(EPERM);
    }
    after->egid = after->fsgid = gid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_setreuid(Task& task, const SyscallArgs& args) {
    uint32_t real = args.u32(0), effective = args.u32(1);
    const Credentials& now = task.credentials();
    bool privileged = now.has(CAP_SETUID);
    if (!privileged) {
        if (real != kUnchanged && real != now.uid && real != now.euid) return Errno(EPERM);
        if (effective != kUnchanged && effective != now.uid && effective != now.euid && effective != now.suid)
            return Errno(EPERM);
    }
    Ref<Credentials> after = now.clone();
    if (real != kUnchanged) after->uid = real;
    if (effective != kUnchanged) after->euid = effective;
    if (real != kUnchanged || (effective != kUnchanged && effective != now.uid)) after->suid = after->euid;
    after->fsuid = after->euid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_setregid(Task& task, const SyscallArgs& args) {
    uint32_t real = args.u32(0), effective = args.u32(1);
    const Credentials& now = task.credentials();
    if (!now.has(CAP_SETGID)) {
        if (real != kUnchanged && real != now.gid && real != now.egid) return Errno(EPERM);
        if (effective != kUnchanged && effective != now.gid && effective != now.egid && effective != now.sgid)
            return Errno(EPERM);
    }
    Ref<Credentials> after = now.clone();
    if (real != kUnchanged) after->gid = real;
    if (effective != kUnchanged) after->egid = effective;
    if (real != kUnchanged || (effective != kUnchanged && effective != now.gid)) after->sgid = after->egid;
    after->fsgid = after->egid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_setresuid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    Ref<Credentials> after = now.clone();
    uint32_t* fields[] = {&after->uid, &after->euid, &after->suid};
    for (int i = 0; i < 3; ++i) {
        uint32_t wanted = args.u32(i);
        if (wanted == kUnchanged) continue;
        if (!now.has(CAP_SETUID) && wanted != now.uid && wanted != now.euid && wanted != now.suid) return Errno(EPERM);
        *fields[i] = wanted;
    }
    after->fsuid = after->euid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_setresgid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    Ref<Credentials> after = now.clone();
    uint32_t* fields[] = {&after->gid, &after->egid, &after->sgid};
    for (int i = 0; i < 3; ++i) {
        uint32_t wanted = args.u32(i);
        if (wanted == kUnchanged) continue;
        if (!now.has(CAP_SETGID) && wanted != now.gid && wanted != now.egid && wanted != now.sgid) return Errno(EPERM);
        *fields[i] = wanted;
    }
    after->fsgid = after->egid;
    return commit(task, std::move(after));
}

SysResult<int64_t> sys_getresuid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    TRY(task.write(UserPtr<uint32_t>(args.u64(0)), now.uid));
    TRY(task.write(UserPtr<uint32_t>(args.u64(1)), now.euid));
    TRY(task.write(UserPtr<uint32_t>(args.u64(2)), now.suid));
    return 0;
}

SysResult<int64_t> sys_getresgid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    TRY(task.write(UserPtr<uint32_t>(args.u64(0)), now.gid));
    TRY(task.write(UserPtr<uint32_t>(args.u64(1)), now.egid));
    TRY(task.write(UserPtr<uint32_t>(args.u64(2)), now.sgid));
    return 0;
}

SysResult<int64_t> sys_setfsuid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    uint32_t old = now.fsuid, wanted = args.u32(0);
    if (wanted == kUnchanged || wanted == old) return old;
    if (wanted != now.uid && wanted != now.euid && wanted != now.suid && !now.has(CAP_SETUID)) return old;
    Ref<Credentials> after = now.clone();
    after->fsuid = wanted;
    if ((now.secure_bits & kSecureNoSetuidFixup) == 0) {
        if (old == 0 && wanted != 0) after->effective &= ~kFileCapabilities;
        if (old != 0 && wanted == 0) after->effective |= after->permitted & kFileCapabilities;
    }
    task.set_credentials(std::move(after));
    return old;
}

SysResult<int64_t> sys_setfsgid(Task& task, const SyscallArgs& args) {
    const Credentials& now = task.credentials();
    uint32_t old = now.fsgid, wanted = args.u32(0);
    if (wanted == kUnchanged || wanted == old) return old;
    if (wanted != now.gid && wanted != now.egid && wanted != now.sgid && !now.has(CAP_SETGID)) return old;
    Ref<Credentials> after = now.clone();
    after->fsgid = wanted;
    task.set_credentials(std::move(after));
    return old;
}

SysResult<int64_t> sys_getgroups(Task& task, const SyscallArgs& args) {
    const std::vector<uint32_t>& groups = task.credentials().groups;
    int size = args.i32(0);
    if (size < 0) return Errno(EINVAL);
    if (size == 0) return static_cast<int64_t>(groups.size());
    if (static_cast<size_t>(size) < groups.size()) return Errno(EINVAL);
    TRY(task.memory().copy_out(args.u64(1), groups.data(), groups.size() * sizeof(uint32_t)));
    return static_cast<int64_t>(groups.size());
}

SysResult<int64_t> sys_setgroups(Task& task, const SyscallArgs& args) {
    if (!task.has_capability(CAP_SETGID)) return Errno(EPERM);
    uint32_t size = args.u32(0);
    if (size > NGROUPS_MAX) return Errno(EINVAL);
    Ref<Credentials> after = task.credentials().clone();
    after->groups.resize(size);
    TRY(task.memory().copy_in(args.u64(1), after->groups.data(), size * sizeof(uint32_t)));
    task.set_credentials(std::move(after));
    return 0;
}

// ------------------------------------------------------------------------------------------------ capabilities

struct CapabilityHeader {
    uint32_t version;
    int32_t pid;
};
struct CapabilityData {
    uint32_t effective, permitted, inheritable;
};

// How many words a version has; EINVAL (and the header corrected) for unknown ones.
SysResult<size_t> capability_words(Task& task, GuestAddr at, CapabilityHeader& header) {
    header = TRY(task.read(UserPtr<CapabilityHeader>(at)));
    switch (header.version) {
        case _LINUX_CAPABILITY_VERSION_1:
            return size_t{1};
        case _LINUX_CAPABILITY_VERSION_2:
        case _LINUX_CAPABILITY_VERSION_3:
            return size_t{2};
        default:
            break;
    }
    TRY(task.write(UserPtr<uint32_t>(at), uint32_t{_LINUX_CAPABILITY_VERSION_3}));
    return Errno(EINVAL);
}

SysResult<int64_t> sys_capget(Task& task, const SyscallArgs& args) {
    CapabilityHeader header{};
    auto words = capability_words(task, args.u64(0), header);
    if (!words.ok()) {
        // Asking for the version only.
        if (args.u64(1) == 0 && words.error() == Errno(EINVAL)) return 0;
        return words.take_error();
    }
    if (header.pid < 0) return Errno(EINVAL);
    Ref<Credentials> of;
    if (header.pid == 0) {
        of = task.credentials_of();
    } else if (Ref<Task> target = task.kernel().tasks().find_task(task.pid_namespace(), header.pid)) {
        of = target->credentials_of();
    }
    if (!of) return Errno(ESRCH);
    if (args.u64(1) == 0) return 0;
    CapabilityData data[2] = {};
    for (int i = 0; i < 2; ++i) {
        data[i].effective = static_cast<uint32_t>(of->effective >> (32 * i));
        data[i].permitted = static_cast<uint32_t>(of->permitted >> (32 * i));
        data[i].inheritable = static_cast<uint32_t>(of->inheritable >> (32 * i));
    }
    TRY(task.memory().copy_out(args.u64(1), data, *words * sizeof(CapabilityData)));
    return 0;
}

SysResult<int64_t> sys_capset(Task& task, const SyscallArgs& args) {
    CapabilityHeader header{};
    size_t words = TRY(capability_words(task, args.u64(0), header));
    if (header.pid != 0 && header.pid != task.tid()) return Errno(EPERM);
    CapabilityData data[2] = {};
    TRY(task.memory().copy_in(args.u64(1), data, words * sizeof(CapabilityData)));
    auto set = [&](uint32_t CapabilityData::*field) {
        return (data[0].*field | uint64_t{data[1].*field} << 32) & kAllCapabilities;
    };
    CapabilitySet effective = set(&CapabilityData::effective), permitted = set(&CapabilityData::permitted),
                  inheritable = set(&CapabilityData::inheritable);
    const Credentials& now = task.credentials();
    if (!now.has(CAP_SETPCAP) && (inheritable & ~(now.inheritable | now.permitted)) != 0) return Errno(EPERM);
    if ((inheritable & ~(now.inheritable | now.bounding)) != 0) return Errno(EPERM);
    if ((permitted & ~now.permitted) != 0) return Errno(EPERM);
    if ((effective & ~permitted) != 0) return Errno(EPERM);
    Ref<Credentials> after = now.clone();
    after->effective = effective;
    after->permitted = permitted;
    after->inheritable = inheritable;
    after->ambient &= permitted & inheritable;
    task.set_credentials(std::move(after));
    return 0;
}

// -------------------------------------------------------------------------------------- groups and sessions

// The process `number` names (0: the caller's); with TaskSet::mutex held.
SysResult<Process*> process_locked(Task& task, int number) {
    if (number == 0) return &task.process();
    Pid* pid = task.kernel().tasks().find_pid_locked(task.pid_namespace(), number);
    if (pid == nullptr || pid->task == nullptr) return Errno(ESRCH);
    return &pid->task->process();
}

SysResult<int64_t> sys_getpgid(Task& task, const SyscallArgs& args) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    Process* process = TRY(process_locked(task, args.i32(0)));
    if (!process->group) return Errno(ESRCH);
    return process->group->number_in(task.pid_namespace());
}

SysResult<int64_t> sys_getpgrp(Task& task, const SyscallArgs&) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    return task.process().group->number_in(task.pid_namespace());
}

SysResult<int64_t> sys_getsid(Task& task, const SyscallArgs& args) {
    std::lock_guard lock(task.kernel().tasks().mutex);
    Process* process = TRY(process_locked(task, args.i32(0)));
    if (!process->session) return Errno(ESRCH);
    return process->session->id->number_in(task.pid_namespace());
}

SysResult<int64_t> sys_setsid(Task& task, const SyscallArgs&) {
    TaskSet& tasks = task.kernel().tasks();
    Ref<Session> old_session;  // dropped behind the lock
    Ref<Pid> old_group;
    std::lock_guard lock(tasks.mutex);
    Process& process = task.process();
    // Not if a group of this number exists already, led by the caller or not.
    if (!process.pid->group_members.empty()) return Errno(EPERM);
    old_session = process.session;
    old_group = process.group;
    auto session = make_ref<Session>(process.pid);
    session->leader = &process;
    tasks.join_group_locked(process, process.pid);
    tasks.join_session_locked(process, std::move(session));
    return process.pid->number_in(task.pid_namespace());
}

SysResult<int64_t> sys_setpgid(Task& task, const SyscallArgs& args) {
    int number = args.i32(0), wanted = args.i32(1);
    if (wanted < 0) return Errno(EINVAL);
    TaskSet& tasks = task.kernel().tasks();
    Ref<Pid> old_group;
    std::lock_guard lock(tasks.mutex);
    Process& caller = task.process();
    Process* process = TRY(process_locked(task, number));
    if (process != &caller) {
        if (process->parent != &caller) return Errno(ESRCH);
        if (process->session != caller.session) return Errno(EPERM);
        if (process->has_executed) return Errno(EACCES);
    }
    if (process->session->id == process->pid) return Errno(EPERM);  // a session leader stays
    Pid* group = process->pid.get();
    if (wanted != 0 && wanted != process->pid->number_in(task.pid_namespace())) {
        group = tasks.find_pid_locked(task.pid_namespace(), wanted);
        bool in_session = false;
        if (group != nullptr)
            for (Process* member : group->group_members) in_session = in_session || member->session == caller.session;
        if (!in_session) return Errno(EPERM);
    }
    old_group = process->group;
    if (group != old_group.get()) tasks.join_group_locked(*process, Ref<Pid>(group));
    return 0;
}

constexpr SyscallRow kRows[] = {
    {102, "getuid", sys_getuid, Support::kFull},       {104, "getgid", sys_getgid, Support::kFull},
    {105, "setuid", sys_setuid, Support::kFull},       {106, "setgid", sys_setgid, Support::kFull},
    {107, "geteuid", sys_geteuid, Support::kFull},     {108, "getegid", sys_getegid, Support::kFull},
    {109, "setpgid", sys_setpgid, Support::kFull},     {111, "getpgrp", sys_getpgrp, Support::kFull},
    {112, "setsid", sys_setsid, Support::kFull},       {113, "setreuid", sys_setreuid, Support::kFull},
    {114, "setregid", sys_setregid, Support::kFull},   {115, "getgroups", sys_getgroups, Support::kFull},
    {116, "setgroups", sys_setgroups, Support::kFull}, {117, "setresuid", sys_setresuid, Support::kFull},
    {118, "getresuid", sys_getresuid, Support::kFull}, {119, "setresgid", sys_setresgid, Support::kFull},
    {120, "getresgid", sys_getresgid, Support::kFull}, {121, "getpgid", sys_getpgid, Support::kFull},
    {122, "setfsuid", sys_setfsuid, Support::kFull},   {123, "setfsgid", sys_setfsgid, Support::kFull},
    {124, "getsid", sys_getsid, Support::kFull},       {125, "capget", sys_capget, Support::kFull},
    {126, "capset", sys_capset, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> identity_syscalls() { return kRows; }

}  // namespace casemate::sentry
