// Mapping and unmapping: mmap, munmap, mprotect and mremap on the list of VMAs.
#include "sentry/mm/address_space.h"

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {

AddressSpace::AddressSpace(std::unique_ptr<State> state) : state_(std::move(state)) { state_->self_ = this; }

AddressSpace::~AddressSpace() {
    std::deque<Vma> vmas;
    {
        std::unique_lock lock(state_->mutex_);
        vmas.swap(state_->vmas_);
    }
    // The host process lets go of all pages before any is freed for somebody else.
    state_->host_.reset();
    for (FileRange range : state_->batch_frees_) state_->memory_.free(range);
    state_->memory_.free({state_->kept_.memory_offset, state_->kept_.size()});
    for (Vma& vma : vmas) {
        if (vma.object) vma.object->remove_mapping(*this);
        if (vma.backing == Backing::kMemory) state_->memory_.free({vma.memory_offset, vma.size()});
    }
    for (const State::PatchedPage& page : state_->patched_) state_->memory_.free(page.copy);
    // Last: the ranges that were borrowed.
    state_->held_parent_.reset();
}

SysResult<Ref<AddressSpace>> AddressSpace::create(Platform& platform, MemoryFile& memory) {
    auto host = TRY(platform.create_address_space());
    auto state = std::make_unique<State>(platform, memory, std::move(host));
    state->mmap_top_ = state->top_;
    return Ref<AddressSpace>::adopt(new AddressSpace(std::move(state)));
}

HostAddressSpace& AddressSpace::host() { return *state_->host_; }
MemoryFile& AddressSpace::memory() { return state_->memory_; }
GuestAddr AddressSpace::top() const { return state_->top_; }

void AddressSpace::set_mmap_top(GuestAddr top) {
    std::unique_lock lock(state_->mutex_);
    state_->mmap_top_ = std::min(page_down(top), state_->top_);
    state_->searched_to_ = 0;
}

SysResult<GuestAddr> AddressSpace::map(const MapRequest& request) {
    auto rounded = page_up_checked(request.size);
    if (!rounded || request.size == 0) return Errno(request.size == 0 ? EINVAL : ENOMEM);
    uint64_t size = *rounded;
    if (size > state_->top_) return Errno(ENOMEM);
    if (request.object && !checked_add(request.offset, size)) return Errno(EOVERFLOW);
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    if (state_->vmas_.size() >= kMaxVmas) return Errno(ENOMEM);
    GuestAddr start = request.address;
    bool replace = false;
    if (request.fixed || request.fixed_no_replace) {
        if (!page_aligned(start)) return Errno(EINVAL);
        if (!state_->valid_range(start, size)) return Errno(ENOMEM);
        if (start < kMinAddress) return Errno(EPERM);
        if (!state_->range_free(start, start + size)) {
            if (request.fixed_no_replace) return Errno(EEXIST);
            replace = true;
        }
    } else {
        auto gap = state_->find_gap(size, start, request.below_4g, request.object ? request.offset : 0);
        if (!gap) return Errno(ENOMEM);
        start = *gap;
    }

    Vma vma;
    vma.start = start;
    vma.end = start + size;
    vma.protection = request.protection & (PROT_READ | PROT_WRITE | PROT_EXEC);
    vma.max_protection = request.max_protection;
    vma.shared = request.shared;
    vma.locked = request.locked;
    vma.grows_down = request.grows_down;
    vma.stack = !request.object && (request.stack || request.grows_down) && !request.locked && !request.populate;
    vma.object = request.object;
    vma.object_offset = request.offset;
    vma.file = request.file;
    if (!request.name.empty()) vma.name = std::make_shared<const std::string>(request.name);

    // The new backing first: when it fails, what was there stays.
    SysResult<void> backed = state_->back(vma, changes, request.populate);
    if (!backed.ok()) return backed.take_error();
    if (replace) {
        // Where the new pages cover all, MAP_FIXED replaces the old ones in one step; holes need the unmap first.
        GuestAddr covered = start;
        for (const MapOrder& order : changes.orders)
            if (order.kind == MapOrder::Kind::kMap && order.address == covered) covered += order.size;
        Changes removal;
        state_->remove(start, start + size, removal, covered < start + size);
        changes.orders.insert(changes.orders.begin(), removal.orders.begin(), removal.orders.end());
        changes.to_free = std::move(removal.to_free);
        changes.dropped = std::move(removal.dropped);
    } else {
        state_->give_up_kept(start, start + size, changes);
    }
    SysResult<void> done;
    bool at_own_place = !replace && state_->batch_.empty();
    bool within = start >= state_->deferred_start_ && start + size <= state_->deferred_end_;
    // Data is touched at once: what ld.so maps with it becomes zero at its end.
    bool later = request.more_follow && !state_->batching_ && !(vma.protection & PROT_WRITE);
    if (later && (at_own_place || within)) {
        if (at_own_place) {
            state_->deferred_start_ = start;
            state_->deferred_end_ = start + size;
        }
        state_->add_to_batch(changes);
    } else {
        done = state_->commit(changes);
    }
    if (!done.ok()) {
        if (vma.backing == Backing::kMemory) state_->memory_.free({vma.memory_offset, vma.size()});
        return done.take_error();
    }
    if (vma.object) vma.object->add_mapping(*this);
    // What only the host process has is written there by the loader.
    bool at_once = state_->batching_ && vma.backing == Backing::kHostPrivate;
    state_->insert(std::move(vma));
    if (at_once) TRY(state_->flush_batch());
    lock.unlock();
    return start;
}

SysResult<void> AddressSpace::unmap(GuestAddr address, uint64_t size) {
    auto rounded = page_up_checked(size);
    if (!page_aligned(address) || size == 0 || !rounded || !state_->valid_range(address, *rounded))
        return Errno(EINVAL);
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    if (state_->vmas_.size() >= kMaxVmas) return Errno(ENOMEM);
    state_->remove(address, address + *rounded, changes);
    TRY(state_->commit(changes));
    lock.unlock();
    return {};
}

void AddressSpace::begin_batch() {
    std::unique_lock lock(state_->mutex_);
    state_->batching_ = true;
}

SysResult<void> AddressSpace::end_batch() {
    std::unique_lock lock(state_->mutex_);
    state_->batching_ = false;
    return state_->flush_batch();
}

SysResult<void> AddressSpace::unmap_all() {
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    state_->remove(0, state_->top_, changes);
    state_->brk_start_ = state_->brk_end_ = 0;
    TRY(state_->commit(changes));
    lock.unlock();
    return {};
}

SysResult<void> AddressSpace::protect(GuestAddr address, uint64_t size, int protection) {
    if (protection & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_GROWSDOWN | PROT_GROWSUP | 0x8 /* PROT_SEM */))
        return Errno(EINVAL);
    if (!page_aligned(address)) return Errno(EINVAL);
    auto rounded = page_up_checked(size);
    if (!rounded) return Errno(ENOMEM);
    if (*rounded == 0) return {};
    if (!state_->valid_range(address, *rounded)) return Errno(ENOMEM);
    protection &= PROT_READ | PROT_WRITE | PROT_EXEC;
    GuestAddr end = address + *rounded;

    Changes changes;
    std::unique_lock lock(state_->mutex_);
    if (!state_->covered(address, end)) return Errno(ENOMEM);
    for (size_t i = state_->find_index(address); i < state_->vmas_.size() && state_->vmas_[i].start < end; i++)
        if (protection & ~state_->vmas_[i].max_protection) return Errno(EACCES);

    TRY(state_->restore_code(address, end));
    // An anonymous reservation that gets its first access takes one range for all of it, so that pieces opened later
    // (malloc's arenas, Go's heap) continue each other in the memory file.
    size_t first = state_->find_index(address);
    for (size_t i = first; i < state_->vmas_.size() && state_->vmas_[i].start < end; i++) {
        Vma& vma = state_->vmas_[i];
        if (vma.backing != Backing::kReserved || vma.object || vma.stack || protection == PROT_NONE) continue;
        GuestAddr from = std::max(vma.start, address), to = std::min(vma.end, end);
        bool whole = vma.size() <= (uint64_t{64} << 30);
        if (!whole) {
            state_->cut(from);
            state_->cut(to);
            i = state_->find_index(from);
        }
        Vma& part = state_->vmas_[i];
        auto range = TRY(state_->memory_.allocate(part.size(), part.start));
        part.backing = Backing::kMemory;
        part.memory_offset = range.offset;
    }
    state_->cut(address);
    state_->cut(end);
    for (size_t i = state_->find_index(address); i < state_->vmas_.size() && state_->vmas_[i].start < end; i++) {
        Vma& vma = state_->vmas_[i];
        if (vma.protection == protection) continue;
        bool had_none = vma.protection == PROT_NONE;
        bool gains_write = (protection & PROT_WRITE) && !(vma.protection & PROT_WRITE);
        vma.protection = protection;
        if (vma.backing == Backing::kReserved) continue;
        if (vma.backing == Backing::kFile && gains_write) {
            TRY(state_->back(vma, changes, false));
        } else if (vma.backing == Backing::kMemory && had_none) {
            state_->map_memory(vma, changes, false);  // perhaps the first time
            if (vma.size() >= kHugePage)
                changes.orders.push_back({.kind = MapOrder::Kind::kAdvise,
                                          .address = vma.start,
                                          .size = vma.size(),
                                          .advice = MADV_HUGEPAGE});
        } else if (vma.backing == Backing::kMemory || vma.backing == Backing::kBorrowed) {
            changes.orders.push_back(
                {.kind = MapOrder::Kind::kProtect, .address = vma.start, .size = vma.size(), .protection = protection});
        } else {
            // Pages past the object's end are not mapped: protect only what is.
            uint64_t object_end = page_up(vma.object->mappable_size());
            uint64_t there = vma.object_offset >= object_end ? 0 : std::min(vma.size(), object_end - vma.object_offset);
            if (vma.backing == Backing::kHostPrivate) {
                if (there > 0)
                    changes.orders.push_back({.kind = MapOrder::Kind::kProtect,
                                              .address = vma.start,
                                              .size = there,
                                              .protection = protection});
            } else {
                TRY(state_->map_object(vma, vma.start, vma.end, changes));
            }
        }
    }
    TRY(state_->commit(changes));
    state_->join_neighbours(address, end);
    return {};
}

SysResult<GuestAddr> AddressSpace::remap(GuestAddr old_address, uint64_t old_size, uint64_t new_size, int flags,
                                         GuestAddr target) {
    if (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) return Errno(EINVAL);
    if ((flags & MREMAP_FIXED) && !(flags & MREMAP_MAYMOVE)) return Errno(EINVAL);
    auto new_rounded = page_up_checked(new_size), old_rounded = page_up_checked(old_size);
    if (!page_aligned(old_address) || !new_rounded || !old_rounded || *new_rounded == 0) return Errno(EINVAL);
    uint64_t size = *new_rounded, had = *old_rounded;
    bool leaves = (flags & MREMAP_DONTUNMAP) != 0;
    if (leaves && (!(flags & MREMAP_MAYMOVE) || had != size)) return Errno(EINVAL);
    if (!state_->valid_range(old_address, had) || size > state_->top_) return Errno(EINVAL);
    if (flags & MREMAP_FIXED) {
        if (!page_aligned(target) || !state_->valid_range(target, size) || target < kMinAddress) return Errno(EINVAL);
        if (target < old_address + had && old_address < target + size) return Errno(EINVAL);
    }

    Changes changes;
    std::unique_lock lock(state_->mutex_);
    Vma* source = state_->find(old_address);
    if (source == nullptr) return Errno(EFAULT);
    if (had == 0 && !source->shared) return Errno(EINVAL);
    if (old_address + had > source->end) {
        // One mapping may be several pieces here (it grew): they must continue each other.
        if (!state_->covered(old_address, old_address + had)) return Errno(EFAULT);
        size_t i = state_->find_index(old_address);
        for (; state_->vmas_[i].end < old_address + had; i++)
            if (state_->vmas_[i + 1].object != state_->vmas_[i].object ||
                state_->vmas_[i + 1].protection != state_->vmas_[i].protection)
                return Errno(EFAULT);
    }
    for (size_t i = state_->find_index(old_address);
         i < state_->vmas_.size() && state_->vmas_[i].start < old_address + had; i++)
        if (state_->vmas_[i].thunks) return Errno(EFAULT);
    TRY(state_->restore_code(old_address, old_address + had));
    bool moves = (flags & MREMAP_FIXED) || had == 0 || leaves;
    if (!moves && size <= had) {
        if (size < had) state_->remove(old_address + size, old_address + had, changes);
        TRY(state_->commit(changes));
        return old_address;
    }
    // What the added part looks like: the last piece, continued.
    Vma pattern = *state_->find(old_address + (had > 0 ? had - 1 : 0));
    auto grow = [&](GuestAddr at, uint64_t from, uint64_t to) -> SysResult<void> {
        Vma more = pattern;
        more.start = at + from;
        more.end = at + to;
        if (more.object) more.object_offset = pattern.object_offset + (old_address + from - pattern.start);
        state_->give_up_kept(more.start, more.end, changes);
        TRY(state_->back(more, changes, false));
        if (more.object) more.object->add_mapping(*this);
        state_->insert(std::move(more));
        return {};
    };
    GuestAddr old_end = old_address + had;
    if (!moves && state_->valid_range(old_address, size) && state_->range_free(old_end, old_address + size)) {
        TRY(grow(old_address, had, size));
        TRY(state_->commit(changes));
        return old_address;
    }
    if (!(flags & MREMAP_MAYMOVE)) return Errno(ENOMEM);
    GuestAddr at = target;
    if (!(flags & MREMAP_FIXED)) {
        auto gap = state_->find_gap(size, 0, false, old_address);
        if (!gap) return Errno(ENOMEM);
        at = *gap;
    } else {
        state_->remove(at, at + size, changes);
    }
    state_->give_up_kept(at, at + size, changes);
    if (had == 0) {  // a second mapping of shared pages
        Vma copy = pattern;
        copy.object_offset += old_address - pattern.start;
        copy.start = at;
        copy.end = at + size;
        TRY(state_->back(copy, changes, false));
        if (copy.object) copy.object->add_mapping(*this);
        state_->insert(std::move(copy));
        TRY(state_->commit(changes));
        return at;
    }
    uint64_t keep = std::min(had, size);
    if (keep < had) state_->remove(old_address + keep, old_end, changes);
    state_->cut(old_address);
    state_->cut(old_address + keep);
    std::vector<Vma> moved;
    size_t first = state_->find_index(old_address), last = first;
    while (last < state_->vmas_.size() && state_->vmas_[last].start < old_address + keep)
        moved.push_back(state_->vmas_[last++]);
    for (Vma& vma : moved) {
        if (vma.backing == Backing::kHostPrivate) TRY(state_->own_host_private(vma));
        if (vma.backing == Backing::kBorrowed) TRY(state_->own_borrowed(vma));
    }
    // What MREMAP_DONTUNMAP leaves in its place: the same mappings, with nothing of their own in them.
    std::vector<Vma> left;
    Changes left_behind;
    for (size_t i = 0; leaves && i < moved.size(); ++i) {
        left.push_back(moved[i]);
        auto backed = state_->back(left.back(), left_behind, false);
        if (backed.ok()) continue;
        left.pop_back();
        for (Vma& vma : left)
            if (vma.backing == Backing::kMemory) changes.to_free.push_back({vma.memory_offset, vma.size()});
        TRY(state_->commit(changes));
        return backed.take_error();
    }
    state_->vmas_.erase(state_->vmas_.begin() + static_cast<ptrdiff_t>(first),
                        state_->vmas_.begin() + static_cast<ptrdiff_t>(last));
    state_->note_gap(old_address);
    changes.orders.push_back({.kind = MapOrder::Kind::kUnmap, .address = old_address, .size = keep});
    for (Vma& vma : moved) {
        GuestAddr to = at + (vma.start - old_address);
        vma.end = to + vma.size();
        vma.start = to;
        if (vma.backing == Backing::kMemory)
            state_->map_memory(vma, changes, false);
        else if (vma.object)
            TRY(state_->map_object(vma, vma.start, vma.end, changes));
        state_->insert(std::move(vma));
    }
    changes.orders.insert(changes.orders.end(), left_behind.orders.begin(), left_behind.orders.end());
    for (Vma& vma : left) {
        if (vma.object) vma.object->add_mapping(*this);
        state_->insert(std::move(vma));
    }
    if (size > keep) TRY(grow(at, keep, size));
    TRY(state_->commit(changes));
    return at;
}

}  // namespace casemate::sentry
