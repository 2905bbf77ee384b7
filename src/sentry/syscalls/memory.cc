// mmap and its family: arguments to AddressSpace operations.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>

#include "base/checked.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/shared_memory.h"
#include "sentry/syscalls/table.h"

namespace casemate::sentry {
namespace {

SysResult<int64_t> sys_mmap(Task& task, const SyscallArgs& args) {
    int flags = args.i32(3);
    uint64_t offset = args.u64(5);
    if (!page_aligned(offset)) return Errno(EINVAL);
    MapRequest request;
    request.address = args.u64(0);
    request.size = args.u64(1);
    request.protection = args.i32(2) & (PROT_READ | PROT_WRITE | PROT_EXEC);
    request.offset = offset;
    request.fixed = flags & MAP_FIXED;
    request.fixed_no_replace = flags & MAP_FIXED_NOREPLACE;
    request.grows_down = flags & MAP_GROWSDOWN;
    request.stack = flags & MAP_STACK;
    request.populate = (flags & MAP_POPULATE) && !(flags & MAP_NONBLOCK);
    request.below_4g = flags & MAP_32BIT;
    request.locked = flags & MAP_LOCKED;
    request.no_reserve = flags & MAP_NORESERVE;
    int type = flags & MAP_TYPE;
    if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_SHARED_VALIDATE) return Errno(EINVAL);
    request.shared = type != MAP_PRIVATE;
    if (request.size == 0) return Errno(EINVAL);

    if (flags & MAP_ANONYMOUS) {
        if (flags & MAP_HUGETLB) return Errno(ENOMEM);  // no huge page pool, as on a host without one
        request.offset = 0;
        if (request.shared) {
            request.object = TRY(SharedMemory::create(task.kernel().memory(), request.size));
            request.name = "/dev/zero (deleted)";
        }
    } else {
        Ref<File> file = TRY(task.files().get(args.fd(4)));
        if (type == MAP_SHARED_VALIDATE && (flags & MAP_SYNC)) return Errno(EOPNOTSUPP);
        if (!file->readable()) return Errno(EACCES);
        if (request.shared && (request.protection & PROT_WRITE) && !file->writable()) return Errno(EACCES);
        if (request.shared && !file->writable()) request.max_protection &= ~PROT_WRITE;
        const Path& path = file->path();
        if (path.mount && (path.mount->flags() & MS_NOEXEC)) {
            if (request.protection & PROT_EXEC) return Errno(EPERM);
            request.max_protection &= ~PROT_EXEC;
        }
        request.file = file;
        request.more_follow = !request.shared && !request.populate && (flags & MAP_DENYWRITE) != 0;
        TRY(file->prepare_map(task, request));
    }
    if (task.memory().usage_exceeds(request.size, task.limit(RLIMIT_AS))) return Errno(ENOMEM);
    return static_cast<int64_t>(TRY(task.memory().map(request)));
}

SysResult<int64_t> sys_munmap(Task& task, const SyscallArgs& args) {
    TRY(task.memory().unmap(args.u64(0), args.u64(1)));
    return 0;
}

SysResult<int64_t> sys_mprotect(Task& task, const SyscallArgs& args) {
    TRY(task.memory().protect(args.u64(0), args.u64(1), args.i32(2)));
    return 0;
}

SysResult<int64_t> sys_pkey_mprotect(Task& task, const SyscallArgs& args) {
    if (args.i32(3) != -1) return Errno(EINVAL);  // no keys are ever allocated
    return sys_mprotect(task, args);
}

SysResult<int64_t> sys_mremap(Task& task, const SyscallArgs& args) {
    uint64_t growth = args.u64(2) > args.u64(1) ? args.u64(2) - args.u64(1) : 0;
    if (growth != 0 && task.memory().usage_exceeds(growth, task.limit(RLIMIT_AS))) return Errno(ENOMEM);
    return static_cast<int64_t>(
        TRY(task.memory().remap(args.u64(0), args.u64(1), args.u64(2), args.i32(3), args.u64(4))));
}

SysResult<int64_t> sys_madvise(Task& task, const SyscallArgs& args) {
    TRY(task.memory().advise(args.u64(0), args.u64(1), args.i32(2)));
    return 0;
}

SysResult<int64_t> sys_brk(Task& task, const SyscallArgs& args) {
    return static_cast<int64_t>(task.memory().brk(args.u64(0), task.limit(RLIMIT_DATA)));
}

SysResult<int64_t> sys_msync(Task& task, const SyscallArgs& args) {
    TRY(task.memory().sync(args.u64(0), args.u64(1), args.i32(2)));
    return 0;
}

SysResult<int64_t> sys_mincore(Task& task, const SyscallArgs& args) {
    uint64_t address = args.u64(0);
    if (!page_aligned(address)) return Errno(EINVAL);
    auto size = page_up_checked(args.u64(1));
    if (!size) return Errno(ENOMEM);
    uint8_t pages[512];
    uint64_t out = args.u64(2);
    for (uint64_t done = 0; done < *size;) {
        uint64_t part = std::min<uint64_t>(*size - done, sizeof(pages) * kPageSize);
        TRY(task.memory().resident(address + done, part, pages));
        TRY(task.memory().copy_out(out + done / kPageSize, pages, part / kPageSize));
        done += part;
    }
    return 0;
}

SysResult<int64_t> lock_range(Task& task, uint64_t address, uint64_t size, bool lock) {
    if (lock && !task.has_capability(CAP_IPC_LOCK)) {
        uint64_t limit = task.limit(RLIMIT_MEMLOCK);
        if (limit == 0) return Errno(EPERM);
        auto pages = page_up_checked(size);
        if (!pages || task.memory().usage().locked_bytes + *pages > limit) return Errno(ENOMEM);
    }
    TRY(task.memory().lock_pages(address, size, lock));
    return 0;
}

SysResult<int64_t> sys_mlock(Task& task, const SyscallArgs& args) {
    return lock_range(task, args.u64(0), args.u64(1), true);
}
SysResult<int64_t> sys_mlock2(Task& task, const SyscallArgs& args) {
    if (args.u32(2) & ~1u) return Errno(EINVAL);  // MLOCK_ONFAULT
    return lock_range(task, args.u64(0), args.u64(1), true);
}
SysResult<int64_t> sys_munlock(Task& task, const SyscallArgs& args) {
    return lock_range(task, args.u64(0), args.u64(1), false);
}

SysResult<int64_t> lock_all(Task& task, bool lock) {
    for (const auto& vma : task.memory().snapshot()) {
        // A mapping that went away since the snapshot needs no lock.
        auto locked = task.memory().lock_pages(vma.start, vma.end - vma.start, lock);
        if (!locked.ok() && locked.error().value != ENOMEM) return locked.take_error();
    }
    return 0;
}
SysResult<int64_t> sys_mlockall(Task& task, const SyscallArgs& args) {
    int flags = args.i32(0);
    if (flags == 0 || (flags & ~(MCL_CURRENT | MCL_FUTURE | 4 /* MCL_ONFAULT */)) || flags == 4) return Errno(EINVAL);
    if (!task.has_capability(CAP_IPC_LOCK)) {
        uint64_t limit = task.limit(RLIMIT_MEMLOCK);
        if (limit == 0) return Errno(EPERM);
        if ((flags & MCL_CURRENT) && task.memory().usage().virtual_bytes > limit) return Errno(ENOMEM);
    }
    return (flags & MCL_CURRENT) ? lock_all(task, true) : SysResult<int64_t>(0);
}
SysResult<int64_t> sys_munlockall(Task& task, const SyscallArgs&) { return lock_all(task, false); }

// One node, every policy is the same; what glibc's and numactl's callers probe for.
SysResult<int64_t> sys_mbind(Task&, const SyscallArgs& args) {
    if (!page_aligned(args.u64(0)) || (args.u64(2) & 0xff) > 6) return Errno(EINVAL);
    return 0;
}
SysResult<int64_t> sys_set_mempolicy(Task&, const SyscallArgs& args) {
    if ((args.u64(0) & 0xff) > 6) return Errno(EINVAL);
    return 0;
}
SysResult<int64_t> sys_get_mempolicy(Task& task, const SyscallArgs& args) {
    if (args.u64(4) & ~uint64_t{7}) return Errno(EINVAL);
    if (args.u64(0) != 0) TRY(task.write(UserPtr<int32_t>(args.u64(0)), int32_t{0}));
    if (args.u64(1) != 0) {
        if (args.u64(2) < 64) return Errno(EINVAL);
        TRY(task.write(UserPtr<uint64_t>(args.u64(1)), uint64_t{(args.u64(4) & 4) ? 1u : 0u}));
    }
    return 0;
}

constexpr SyscallRow kRows[] = {
    {9, "mmap", sys_mmap, Support::kFull},
    {10, "mprotect", sys_mprotect, Support::kFull},
    {11, "munmap", sys_munmap, Support::kFull},
    {12, "brk", sys_brk, Support::kFull},
    {25, "mremap", sys_mremap, Support::kFull},
    {26, "msync", sys_msync, Support::kFull},
    {27, "mincore", sys_mincore, Support::kFull},
    {28, "madvise", sys_madvise, Support::kPartial, "no MADV_GUARD_*, HWPOISON, SOFT_OFFLINE"},
    {149, "mlock", sys_mlock, Support::kPartial, "accounted; the host decides what stays in memory"},
    {150, "munlock", sys_munlock, Support::kFull},
    {151, "mlockall", sys_mlockall, Support::kPartial, "MCL_FUTURE is accepted for present mappings only"},
    {152, "munlockall", sys_munlockall, Support::kFull},
    {216, "remap_file_pages", nullptr, Support::kNone, "removed from use by Linux 4.0; mmap does it", ENOSYS},
    {237, "mbind", sys_mbind, Support::kPartial, "one NUMA node"},
    {238, "set_mempolicy", sys_set_mempolicy, Support::kPartial, "one NUMA node"},
    {239, "get_mempolicy", sys_get_mempolicy, Support::kPartial, "one NUMA node"},
    {256, "migrate_pages", nullptr, Support::kNone, "one NUMA node", EPERM},
    {279, "move_pages", nullptr, Support::kNone, "one NUMA node", ENODEV},
    {323, "userfaultfd", nullptr, Support::kNone, "as a kernel without CONFIG_USERFAULTFD", ENOSYS},
    {325, "mlock2", sys_mlock2, Support::kPartial, "accounted; the host decides what stays in memory"},
    {329, "pkey_mprotect", sys_pkey_mprotect, Support::kPartial, "only without a key"},
    {330, "pkey_alloc", nullptr, Support::kNone, "as a CPU without protection keys", ENOSPC},
    {331, "pkey_free", nullptr, Support::kNone, "as a CPU without protection keys", EINVAL},
    {450, "set_mempolicy_home_node", nullptr, Support::kNone, "one NUMA node", ENOSYS},
    {447, "memfd_secret", nullptr, Support::kNone, "as a kernel without CONFIG_SECRETMEM", ENOSYS},
    {453, "map_shadow_stack", nullptr, Support::kNone, "as a CPU without shadow stacks", EOPNOTSUPP},
};

}  // namespace

std::span<const SyscallRow> memory_syscalls() { return kRows; }

}  // namespace casemate::sentry
