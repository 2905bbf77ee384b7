// madvise, msync, mincore, mlock.
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {

SysResult<void> AddressSpace::advise(GuestAddr address, uint64_t size, int advice) {
    if (!page_aligned(address)) return Errno(EINVAL);
    auto rounded = page_up_checked(size);
    if (!rounded || !state_->valid_range(address, *rounded)) return Errno(EINVAL);
    switch (advice) {
        case MADV_NORMAL:
        case MADV_RANDOM:
        case MADV_SEQUENTIAL:
        case MADV_WILLNEED:
        case MADV_DONTNEED:
        case MADV_FREE:
        case MADV_REMOVE:
        case MADV_DONTFORK:
        case MADV_DOFORK:
        case MADV_MERGEABLE:
        case MADV_UNMERGEABLE:
        case MADV_HUGEPAGE:
        case MADV_NOHUGEPAGE:
        case MADV_DONTDUMP:
        case MADV_DODUMP:
        case MADV_WIPEONFORK:
        case MADV_KEEPONFORK:
        case MADV_COLD:
        case MADV_PAGEOUT:
        case MADV_POPULATE_READ:
        case MADV_POPULATE_WRITE:
        case 25 /* MADV_COLLAPSE */:
            break;
        default:
            return Errno(EINVAL);
    }
    GuestAddr end = address + *rounded;
    if (address == end) return {};
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    bool hole = !state_->covered(address, end);
    bool splits =
        advice == MADV_DONTFORK || advice == MADV_DOFORK || advice == MADV_WIPEONFORK || advice == MADV_KEEPONFORK;
    if (splits) {
        state_->cut(address);
        state_->cut(end);
    }
    for (size_t i = state_->find_index(address); i < state_->vmas_.size() && state_->vmas_[i].start < end; i++) {
        Vma& vma = state_->vmas_[i];
        GuestAddr from = std::max(address, vma.start), to = std::min(end, vma.end);
        uint64_t delta = from - vma.start;
        switch (advice) {
            case MADV_DONTNEED:
            case MADV_FREE:
                if (vma.locked) return Errno(EINVAL);
                if (advice == MADV_FREE && (vma.object || vma.shared)) return Errno(EINVAL);
                if (vma.backing == Backing::kMemory) {
                    state_->memory_.decommit({vma.memory_offset + delta, to - from});
                    if (vma.object)
                        TRY(state_->read_object(*vma.object, vma.object_offset + delta,
                                                state_->memory_.at(vma.memory_offset + delta, to - from), to - from));
                } else if (vma.backing == Backing::kBorrowed) {
                    // Below the child's own copies lie the parent's pages: zeros of its own instead.
                    state_->cut(from);
                    state_->cut(to);
                    i = state_->find_index(from);
                    TRY(state_->back(state_->vmas_[i], changes, false));
                } else if (vma.backing == Backing::kHostPrivate) {
                    changes.orders.push_back(
                        {.kind = MapOrder::Kind::kAdvise, .address = from, .size = to - from, .advice = MADV_DONTNEED});
                }
                break;
            case MADV_REMOVE:
                if (!vma.shared || !vma.object) return Errno(EINVAL);
                if (!(vma.protection & PROT_WRITE)) return Errno(EACCES);
                TRY(vma.object->punch(vma.object_offset + delta, to - from));
                break;
            case MADV_DONTFORK:
                vma.dont_fork = true;
                break;
            case MADV_DOFORK:
                vma.dont_fork = false;
                break;
            case MADV_WIPEONFORK:
                if (vma.object || vma.shared) return Errno(EINVAL);
                vma.wipe_on_fork = true;
                break;
            case MADV_KEEPONFORK:
                vma.wipe_on_fork = false;
                break;
            case MADV_HUGEPAGE:
            case MADV_NOHUGEPAGE:
                if (vma.backing == Backing::kMemory && vma.protection != PROT_NONE)
                    changes.orders.push_back(
                        {.kind = MapOrder::Kind::kAdvise, .address = from, .size = to - from, .advice = advice});
                break;
            case MADV_POPULATE_READ:
            case MADV_POPULATE_WRITE: {
                int needed = advice == MADV_POPULATE_WRITE ? PROT_WRITE : PROT_READ | PROT_EXEC | PROT_WRITE;
                if (!(vma.protection & needed)) return Errno(EFAULT);
                break;
            }
            default:
                break;  // hints without an effect that could be seen
        }
    }
    TRY(state_->commit(changes));
    if (splits) state_->join_neighbours(address, end);
    if (hole) return Errno(ENOMEM);
    return {};
}

SysResult<void> AddressSpace::sync(GuestAddr address, uint64_t size, int flags) {
    if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) || ((flags & MS_ASYNC) && (flags & MS_SYNC)))
        return Errno(EINVAL);
    if (!page_aligned(address)) return Errno(EINVAL);
    auto rounded = page_up_checked(size);
    if (!rounded || !state_->valid_range(address, *rounded)) return Errno(ENOMEM);
    GuestAddr end = address + *rounded;
    std::vector<Ref<Mappable>> objects;
    {
        std::shared_lock lock(state_->mutex_);
        if (address != end && !state_->covered(address, end)) return Errno(ENOMEM);
        for (size_t i = state_->find_index(address); i < state_->vmas_.size() && state_->vmas_[i].start < end; i++) {
            Vma& vma = state_->vmas_[i];
            if ((flags & MS_INVALIDATE) && vma.locked) return Errno(EBUSY);
            if (vma.shared && vma.object && (flags & MS_SYNC)) objects.push_back(vma.object);
        }
    }
    for (auto& object : objects) {
        auto piece = TRY(object->backing(0, kPageSize, false));
        if (piece.in_memory_file || !piece.lasting || piece.host_fd < 0) continue;
        if (fdatasync(piece.host_fd) != 0) return last_errno();
    }
    return {};
}

SysResult<void> AddressSpace::resident(GuestAddr address, uint64_t size, std::span<uint8_t> pages) {
    if (!page_aligned(address)) return Errno(EINVAL);
    auto rounded = page_up_checked(size);
    if (!rounded || !state_->valid_range(address, *rounded) || pages.size() < *rounded / kPageSize)
        return Errno(ENOMEM);
    GuestAddr end = address + *rounded;
    std::shared_lock lock(state_->mutex_);
    if (!state_->covered(address, end)) return Errno(ENOMEM);
    size_t page = 0;
    for (GuestAddr at = address; at < end;) {
        Vma& vma = *state_->find(at);
        uint64_t part = std::min(end, vma.end) - at;
        auto out = pages.subspan(page, part / kPageSize);
        std::fill(out.begin(), out.end(), vma.backing == Backing::kReserved ? 0 : 1);
        if (vma.backing == Backing::kMemory || vma.backing == Backing::kBorrowed)
            mincore(state_->memory_.at(vma.memory_offset + (at - vma.start), part), part, out.data());
        for (uint8_t& one : out) one &= 1;
        page += part / kPageSize;
        at += part;
    }
    return {};
}

SysResult<void> AddressSpace::lock_pages(GuestAddr address, uint64_t size, bool lock_them) {
    auto stop = checked_add(address, size);
    if (!stop) return Errno(EINVAL);
    auto end = page_up_checked(*stop);
    address = page_down(address);
    if (!end || !state_->valid_range(address, *end - address)) return Errno(ENOMEM);
    std::unique_lock lock(state_->mutex_);
    if (address != *end && !state_->covered(address, *end)) return Errno(ENOMEM);
    state_->cut(address);
    state_->cut(*end);
    for (size_t i = state_->find_index(address); i < state_->vmas_.size() && state_->vmas_[i].start < *end; i++)
        state_->vmas_[i].locked = lock_them;
    state_->join_neighbours(address, *end);
    return {};
}

}  // namespace casemate::sentry
