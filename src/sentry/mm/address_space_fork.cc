// fork: no copy-on-write in the sentry. Private pages are copied at once; the rest is shared or mapped again.
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

// Copies the pages of a sparse range that exist; the host tells which (a range below 2 MiB lies in a touched arena and
// is copied whole).
bool copy_present(MemoryFile& memory, FileRange from, uint64_t to) {
    if (from.size < kHugePage)
        return guarded_copy(memory.at(to, from.size), memory.at(from.offset, from.size), from.size);
    auto position = static_cast<off_t>(from.offset);
    auto end = static_cast<off_t>(from.offset + from.size);
    while (position < end) {
        off_t data = lseek(memory.fd(), position, SEEK_DATA);
        if (data < 0 || data >= end) break;
        off_t hole = std::min(lseek(memory.fd(), data, SEEK_HOLE), end);
        if (hole <= data) break;
        auto delta = static_cast<uint64_t>(data) - from.offset;
        auto size = static_cast<uint64_t>(hole - data);
        if (!guarded_copy(memory.at(to + delta, size), memory.at(from.offset + delta, size), size)) return false;
        position = hole;
    }
    return true;
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

SysResult<AddressSpace::ForkResult> AddressSpace::fork() {
    Ref<AddressSpace> child = TRY(create(state_->platform_, state_->memory_));
    State& from = *state_;
    State& to = *child->state_;
    Changes changes;
    std::unique_lock lock(from.mutex_);
    std::unique_lock child_lock(to.mutex_);
    to.vmas_.reserve(from.vmas_.size());
    for (const Vma& original : from.vmas_) {
        if (original.dont_fork) continue;
        Vma vma = original;
        vma.locked = false;
        switch (vma.backing) {
            case Backing::kReserved:
                break;
            case Backing::kMemory: {
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
    child_lock.unlock();
    return ForkResult{std::move(child), false};
}

void AddressSpace::release_held_parent() {
    std::unique_lock lock(state_->mutex_);
    state_->held_parent_.reset();
}

}  // namespace casemate::sentry
