// fork: no copy-on-write in the sentry. Little memory is copied at once. Of much, the child gets the parent's ranges
// mapped copy-on-write by the host while the parent is held, which most children (exec, exit) never outlive; one that
// does gets copies then.
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kBorrowFrom = 128 << 10;  // smaller pieces are copied: cheaper than faults
constexpr uint64_t kHoldFrom = 1 << 20;      // less memory than this is worth no hold

// Calls f(offset, size) for what exists of a range; the host tells which of a sparse one (a range below 2 MiB lies in a
// touched arena and counts whole). Stops when f says false.
template <typename F>
bool for_each_present(MemoryFile& memory, FileRange range, F f) {
    if (range.size < kHugePage) return f(range.offset, range.size);
    auto position = static_cast<off_t>(range.offset);
    auto end = static_cast<off_t>(range.offset + range.size);
    while (position < end) {
        off_t data = lseek(memory.fd(), position, SEEK_DATA);
        if (data < 0 || data >= end) break;
        off_t hole = std::min(lseek(memory.fd(), data, SEEK_HOLE), end);
        if (hole <= data) break;
        if (!f(static_cast<uint64_t>(data), static_cast<uint64_t>(hole - data))) return false;
        position = hole;
    }
    return true;
}

bool copy_present(MemoryFile& memory, FileRange from, uint64_t to) {
    return for_each_present(memory, from, [&](uint64_t offset, uint64_t size) {
        return guarded_copy(memory.at(to + (offset - from.offset), size), memory.at(offset, size), size);
    });
}

bool may_borrow(const Vma& vma) {
    return vma.backing == Backing::kMemory && vma.size() >= kBorrowFrom && vma.protection != PROT_NONE &&
           !vma.wipe_on_fork && !vma.dont_fork && !vma.object;
}

}  // namespace

SysResult<void> AddressSpace::State::own_host_private(Vma& vma) {
    auto range = TRY(memory_.allocate(vma.size(), vma.start));
    uint64_t object_end = page_up(vma.object->mappable_size());
    uint64_t there = vma.object_offset >= object_end ? 0 : std::min(vma.size(), object_end - vma.object_offset);
    std::byte* into = memory_.at(range.offset, range.size);
    for (uint64_t done = 0; done < there;) {
        auto got = host_->read_memory(vma.start + done, std::span<std::byte>(into + done, there - done));
        if (!got.ok() || *got == 0) {
            memory_.free(range);
            return Errno(EFAULT);
        }
        done += *got;
    }
    vma.backing = Backing::kMemory;
    vma.memory_offset = range.offset;
    return {};
}

SysResult<void> AddressSpace::State::own_borrowed(Vma& vma) {
    auto range = TRY(memory_.allocate(vma.size(), vma.start));
    // The host reads only what the application may read.
    MapOrder readable{
        .kind = MapOrder::Kind::kProtect, .address = vma.start, .size = vma.size(), .protection = PROT_READ};
    SysResult<void> done;
    if (!(vma.protection & PROT_READ)) done = host_->apply({&readable, 1});
    // A page that the child touched first is there by now, in the parent's range too (as zeros).
    bool copied =
        done.ok() && for_each_present(memory_, {vma.memory_offset, vma.size()}, [&](uint64_t at, uint64_t size) {
            uint64_t delta = at - vma.memory_offset;
            std::byte* into = memory_.at(range.offset + delta, size);
            for (uint64_t moved = 0; moved < size;) {
                auto got =
                    host_->read_memory(vma.start + delta + moved, std::span<std::byte>(into + moved, size - moved));
                if (!got.ok() || *got == 0) return false;
                moved += *got;
            }
            return true;
        });
    if (!copied) {
        memory_.free(range);
        return Errno(ENOMEM);
    }
    vma.backing = Backing::kMemory;
    vma.memory_offset = range.offset;
    return {};
}

SysResult<void> AddressSpace::State::own_all_borrowed() {
    Changes changes;
    for (Vma& vma : vmas_) {
        if (vma.backing != Backing::kBorrowed) continue;
        TRY(own_borrowed(vma));
        if (vma.protection != PROT_NONE)
            map_memory(vma, changes, false);
        else
            changes.orders.push_back({.kind = MapOrder::Kind::kUnmap, .address = vma.start, .size = vma.size()});
    }
    return commit(changes);
}

SysResult<AddressSpace::ForkResult> AddressSpace::fork(bool may_hold) {
    release_held_parent();
    Ref<AddressSpace> child = TRY(create(state_->platform_, state_->memory_));
    State& from = *state_;
    State& to = *child->state_;
    Changes changes;
    std::unique_lock lock(from.mutex_);
    std::unique_lock child_lock(to.mutex_);
    bool hold = false;
    if (may_hold) {
        uint64_t sum = 0;
        for (const Vma& vma : from.vmas_) {
            if (!may_borrow(vma)) continue;
            for_each_present(from.memory_, {vma.memory_offset, vma.size()}, [&](uint64_t, uint64_t size) {
                sum += size;
                return sum < kHoldFrom;
            });
            if (sum >= kHoldFrom) break;
        }
        hold = sum >= kHoldFrom;
    }
    for (const Vma& original : from.vmas_) {
        if (original.dont_fork) continue;
        Vma vma = original;
        vma.locked = false;
        switch (vma.backing) {
            case Backing::kReserved:
            case Backing::kBorrowed:
                break;
            case Backing::kMemory: {
                if (hold && may_borrow(vma)) {
                    vma.backing = Backing::kBorrowed;
                    changes.orders.push_back({.kind = MapOrder::Kind::kMap,
                                              .address = vma.start,
                                              .size = vma.size(),
                                              .protection = vma.protection,
                                              .flags = MAP_PRIVATE | MAP_NORESERVE,
                                              .fd = MapOrder::kMemoryFile,
                                              .offset = vma.memory_offset});
                    break;
                }
                auto range = TRY(from.memory_.allocate(vma.size(), vma.start));
                vma.memory_offset = range.offset;
                bool copied = vma.wipe_on_fork ||
                              copy_present(from.memory_, {original.memory_offset, original.size()}, range.offset);
                to.vmas_.push_back(vma);  // owned from here on, freed with the child on failure
                if (!copied) return Errno(ENOMEM);
                if (vma.object) vma.object->add_mapping(*child);
                if (vma.protection != PROT_NONE) to.map_memory(vma, changes, false);
                continue;
            }
            case Backing::kShared:
            case Backing::kFile:
                TRY(to.map_object(vma, vma.start, vma.end, changes));
                break;
            case Backing::kHostPrivate:
                TRY(from.own_host_private(vma));
                to.map_memory(vma, changes, false);
                break;
        }
        if (vma.object) vma.object->add_mapping(*child);
        to.vmas_.push_back(std::move(vma));
    }
    to.mmap_top_ = from.mmap_top_;
    to.brk_start_ = from.brk_start_;
    to.brk_end_ = from.brk_end_;
    to.layout_ = from.layout_;
    lock.unlock();
    TRY(to.commit(changes));
    if (hold) to.held_parent_ = Ref<AddressSpace>(this);
    child_lock.unlock();
    return ForkResult{std::move(child), hold};
}

void AddressSpace::release_held_parent() {
    Ref<AddressSpace> parent;  // goes behind the lock
    std::unique_lock lock(state_->mutex_);
    if (!state_->held_parent_) return;
    // A child without its pages must not run on.
    if (!state_->own_all_borrowed().ok()) state_->host_->kill();
    parent = std::move(state_->held_parent_);
}

}  // namespace casemate::sentry
