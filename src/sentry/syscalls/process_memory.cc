// process_vm_readv and process_vm_writev: copies between address spaces, through a bounded buffer.
#include <linux/capability.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/kernel/task_set.h"
#include "sentry/syscalls/process_memory.h"
#include "sentry/syscalls/user_iovec.h"

namespace casemate::sentry {
namespace {

// ptrace's rule (PTRACE_MODE_ATTACH_REALCREDS): the same user throughout and no capabilities beyond the caller's.
bool may_access(Task& task, Task& other) {
    if (&task.process() == &other.process()) return true;
    if (task.has_capability(CAP_SYS_PTRACE)) return true;
    Ref<Credentials> theirs = other.credentials_of();
    if (!theirs) return false;
    const Credentials& mine = task.credentials();
    bool users = mine.uid == theirs->uid && mine.uid == theirs->euid && mine.uid == theirs->suid;
    bool groups = mine.gid == theirs->gid && mine.gid == theirs->egid && mine.gid == theirs->sgid;
    return users && groups && (theirs->permitted & ~mine.permitted) == 0;
}

SysResult<int64_t> transfer(Task& task, const SyscallArgs& args, bool write) {
    if (args.u64(5) != 0) return Errno(EINVAL);
    auto local = TRY(UserIovec::copy_in(task, args.u64(1), args.u64(2)));
    auto remote = TRY(UserIovec::copy_in(task, args.u64(3), args.u64(4)));
    if (local.size() == 0 || remote.size() == 0) return 0;
    Ref<Task> other = task.kernel().tasks().find_task(task.pid_namespace(), args.i32(0));
    if (!other) return Errno(ESRCH);
    if (!may_access(task, *other)) return Errno(EPERM);
    Ref<AddressSpace> space = other->memory_of();
    if (!space) return Errno(ESRCH);
    IoBuffer mine = local.buffer(task);
    IoBuffer theirs = IoBuffer::user(*space, remote.pieces());
    IoBuffer& from = write ? mine : theirs;
    IoBuffer& into = write ? theirs : mine;
    auto buffer = std::make_unique<std::byte[]>(64 << 10);
    int64_t total = 0;
    while (from.remaining() > 0 && into.remaining() > 0) {
        size_t part = std::min<size_t>({from.remaining(), into.remaining(), 64 << 10});
        auto read = from.copy_from(buffer.get(), part);
        if (!read.ok()) break;
        auto written = into.copy_to(buffer.get(), *read);
        if (!written.ok()) break;
        total += static_cast<int64_t>(*written);
        if (*read < part || *written < *read || task.dying()) break;
    }
    if (total == 0) return Errno(EFAULT);
    return total;
}

SysResult<int64_t> sys_process_vm_readv(Task& task, const SyscallArgs& args) { return transfer(task, args, false); }
SysResult<int64_t> sys_process_vm_writev(Task& task, const SyscallArgs& args) { return transfer(task, args, true); }

constexpr SyscallRow kRows[] = {
    {310, "process_vm_readv", sys_process_vm_readv, Support::kFull},
    {311, "process_vm_writev", sys_process_vm_writev, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> process_memory_syscalls() { return kRows; }

}  // namespace casemate::sentry
