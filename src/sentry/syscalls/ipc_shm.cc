// shmget, shmat, shmdt, shmctl.
#include <fmt/format.h>
#include <sys/shm.h>

#include "base/checked.h"
#include "sentry/ipc/ipc_state.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/process.h"
#include "sentry/syscalls/ipc.h"

namespace casemate::sentry {
namespace {

// The kernel's struct shmid64_ds.
struct SegmentStatus {
    IpcPermissions permissions;
    uint64_t size;
    int64_t attach_time, detach_time, change_time;
    int32_t creator, last_user;
    uint64_t attached, unused[2];
};
static_assert(sizeof(SegmentStatus) == 112);

constexpr int kHugePages = 04000;        // SHM_HUGETLB
constexpr uint32_t kMarkedMode = 01000;  // SHM_DEST

int number_of(Task& task, const Ref<Pid>& pid) { return pid ? pid->number_in(task.pid_namespace()) : 0; }

SysResult<int64_t> sys_shmget(Task& task, const SyscallArgs& args) {
    uint64_t size = args.u64(1);
    int flags = args.i32(2);
    if (flags & kHugePages) return Errno(ENOMEM);  // none are set aside
    Ref<IpcState> ipc = ipc_of(task);
    return TRY(ipc->segments->table.get(
        task, args.i32(0), flags,
        [&](SharedSegment& segment) -> SysResult<void> {
            if (segment.size() < size) return Errno(EINVAL);
            return {};
        },
        [&]() -> SysResult<Ref<SharedSegment>> {
            if (size == 0 || size > ipc->segments->most_size || !page_up_checked(size)) return Errno(EINVAL);
            uint64_t pages = page_up(size) / kPageSize;
            for (auto& other : ipc->segments->table.all()) pages += page_up(other->size()) / kPageSize;
            if (pages > ipc->segments->most_pages) return Errno(ENOSPC);
            uint64_t limit = task.kernel().memory().limit();
            if (limit != 0 && size > limit) return Errno(ENOMEM);
            return SharedSegment::create(task, ipc->segments, size);
        }));
}

SysResult<int64_t> sys_shmat(Task& task, const SyscallArgs& args) {
    GuestAddr address = args.u64(1);
    int flags = args.i32(2);
    if (args.i32(0) < 0) return Errno(EINVAL);
    MapRequest request;
    if (address != 0) {
        if (!page_aligned(address)) {
            if (!(flags & SHM_RND)) return Errno(EINVAL);
            address = page_down(address);
            if (address == 0 && (flags & SHM_REMAP)) return Errno(EINVAL);
        }
        request.address = address;
        request.fixed = flags & SHM_REMAP;
        request.fixed_no_replace = !(flags & SHM_REMAP);
    } else if (flags & SHM_REMAP) {
        return Errno(EINVAL);
    }
    Ref<IpcState> ipc = ipc_of(task);
    Ref<SharedSegment> segment = ipc->segments->table.find(args.i32(0));
    if (!segment) return Errno(EINVAL);
    {
        std::lock_guard lock(segment->mutex);
        TRY(segment->check_access_locked(task.credentials(), flags & SHM_RDONLY ? kIpcRead : kIpcRead | kIpcWrite));
        request.name = fmt::format("/SYSV{:08x} (deleted)", static_cast<uint32_t>(segment->permissions_locked().key));
    }
    request.size = page_up(segment->size());
    request.protection = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
    request.shared = true;
    if (flags & SHM_RDONLY) request.max_protection = PROT_READ | PROT_EXEC;
    request.object = Ref<Mappable>(segment);
    segment->set_last_user(task);
    auto mapped = task.memory().map(request);
    if (!mapped.ok()) return Errno(mapped.error().value == EEXIST ? EINVAL : mapped.error().value);
    return static_cast<int64_t>(*mapped);
}

SysResult<int64_t> sys_shmdt(Task& task, const SyscallArgs& args) {
    GuestAddr address = args.u64(0);
    if (!page_aligned(address)) return Errno(EINVAL);
    Ref<IpcState> ipc = ipc_of(task);
    std::vector<Ref<SharedSegment>> segments = ipc->segments->table.all();
    Ref<SharedSegment> found;
    GuestAddr end = 0;
    // All pieces of one attachment; the first tells which segment it is.
    for (auto& vma : task.memory().snapshot()) {
        if (!found) {
            if (vma.start < address || vma.object == nullptr || !vma.shared) continue;
            if (vma.start - address != vma.offset) continue;
            for (auto& segment : segments)
                if (static_cast<const Mappable*>(segment.get()) == vma.object) found = segment;
            if (!found) continue;
            end = address + page_up(found->size());
        }
        if (vma.start >= end) break;
        if (vma.object != static_cast<const Mappable*>(found.get()) || vma.offset != vma.start - address) continue;
        TRY(task.memory().unmap(vma.start, vma.end - vma.start));
    }
    if (!found) return Errno(EINVAL);
    found->set_last_user(task);
    return 0;
}

SegmentStatus status_of(Task& task, SharedSegment& segment) {
    SegmentStatus status{};
    status.permissions = segment.permissions_locked();
    if (segment.marked()) status.permissions.mode |= kMarkedMode;
    status.size = segment.size();
    status.attach_time = segment.attach_time;
    status.detach_time = segment.detach_time;
    status.change_time = segment.change_time;
    status.creator = number_of(task, segment.creator);
    status.last_user = number_of(task, segment.last_user());
    status.attached = segment.attached();
    return status;
}

SysResult<int64_t> shm_info(Task& task, IpcState& ipc, int command, GuestAddr into) {
    int last = ipc.segments->table.last_index();
    if (command == IPC_INFO) {
        shminfo info{};
        info.shmmax = ipc.segments->most_size;
        info.shmmin = 1;
        info.shmmni = info.shmseg = ipc.segments->table.most();
        info.shmall = ipc.segments->most_pages;
        TRY(task.write(UserPtr<shminfo>(into), info));
        return last;
    }
    struct shm_info info {};
    for (auto& segment : ipc.segments->table.all()) {
        info.used_ids++;
        info.shm_tot += page_up(segment->size()) / kPageSize;
    }
    TRY(task.write(UserPtr<struct shm_info>(into), info));
    return last;
}

SysResult<int64_t> sys_shmctl(Task& task, const SyscallArgs& args) {
    int id = args.i32(0), command = args.i32(1) & ~0x100;  // IPC_64: the only form here
    GuestAddr into = args.u64(2);
    Ref<IpcState> ipc = ipc_of(task);
    if (id < 0 || command < 0) return Errno(EINVAL);
    if (command == IPC_INFO || command == SHM_INFO) return shm_info(task, *ipc, command, into);
    bool by_index = command == SHM_STAT || command == SHM_STAT_ANY;
    Ref<SharedSegment> segment = by_index ? ipc->segments->table.at(id) : ipc->segments->table.find(id);
    if (!segment) return Errno(EINVAL);
    const Credentials& credentials = task.credentials();
    switch (command) {
        case IPC_STAT:
        case SHM_STAT:
        case SHM_STAT_ANY: {
            SegmentStatus status;
            {
                std::lock_guard lock(segment->mutex);
                if (command != SHM_STAT_ANY) TRY(segment->check_access_locked(credentials, kIpcRead));
                status = status_of(task, *segment);
            }
            TRY(task.write(UserPtr<SegmentStatus>(into), status));
            return by_index ? segment->id() : 0;
        }
        case IPC_SET: {
            auto wanted = TRY(task.read(UserPtr<SegmentStatus>(into)));
            std::lock_guard lock(segment->mutex);
            TRY(segment->check_owner_locked(credentials));
            TRY(segment->set_owner_locked(wanted.permissions));
            segment->change_time = realtime_now() / kSecond;
            return 0;
        }
        case IPC_RMID: {
            {
                std::lock_guard lock(segment->mutex);
                TRY(segment->check_owner_locked(credentials));
            }
            segment->remove();
            return 0;
        }
        case SHM_LOCK:
        case SHM_UNLOCK: {
            std::lock_guard lock(segment->mutex);
            TRY(segment->check_owner_locked(credentials));
            return 0;  // guest memory is not swapped by the guest
        }
        default:
            return Errno(EINVAL);
    }
}

constexpr SyscallRow kRows[] = {
    {29, "shmget", sys_shmget, Support::kPartial, "no huge pages by SHM_HUGETLB"},
    {30, "shmat", sys_shmat, Support::kFull},
    {31, "shmctl", sys_shmctl, Support::kFull},
    {67, "shmdt", sys_shmdt, Support::kFull},
};

}  // namespace

std::span<const SyscallRow> shm_syscalls() { return kRows; }

}  // namespace casemate::sentry
