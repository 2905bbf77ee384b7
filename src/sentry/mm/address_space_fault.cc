// Faults of the application that the host could not resolve by itself.
#include <signal.h>

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {

std::optional<FaultSignal> AddressSpace::handle_fault(const FaultStop& fault) {
    constexpr uint64_t kWrite = 2, kFetch = 16;  // bits of the x86 page fault error code
    std::unique_lock lock(state_->mutex_);
    State& s = *state_;
    GuestAddr page = page_down(fault.address);
    Vma* vma = s.find(fault.address);
    if (vma == nullptr) return FaultSignal{SIGSEGV, SEGV_MAPERR};
    int needed = (fault.error_code & kWrite) ? PROT_WRITE : (fault.error_code & kFetch) ? PROT_EXEC : PROT_READ;
    bool allowed = needed == PROT_READ ? vma->protection != PROT_NONE : (vma->protection & needed) != 0;
    if (!allowed) return FaultSignal{SIGSEGV, SEGV_ACCERR};

    if (s.find_unbacked(fault.address) != nullptr) {
        if (!s.back_unbacked(fault.address, 1).ok()) return FaultSignal{SIGKILL, 0};
        return std::nullopt;
    }
    if (!s.batch_.empty()) {
        if (!s.flush_batch().ok()) return FaultSignal{SIGBUS, BUS_ADRERR};
        return std::nullopt;
    }
    if (vma->backing == Backing::kMemory || vma->backing == Backing::kBorrowed) {
        // The page is mapped and may be touched: the memory file has no page to give. The pod is out of memory.
        if (fault.signo == SIGBUS) return FaultSignal{SIGKILL, 0};
    } else if (vma->object) {
        uint64_t offset = vma->object_offset + (page - vma->start);
        if (offset >= page_up(vma->object->mappable_size())) return FaultSignal{SIGBUS, BUS_ADRERR};
        if (fault.signo == SIGBUS && s.memory_.used_up()) return FaultSignal{SIGKILL, 0};
    }
    // The same page again and again: mapping it does not help, so the application must not spin on it.
    if (s.last_fault_ == page && ++s.repeated_faults_ > 8) return FaultSignal{SIGBUS, BUS_ADRERR};
    if (s.last_fault_ != page) {
        s.last_fault_ = page;
        s.repeated_faults_ = 0;
    }
    // An object grew, or a race with a change of the mapping: show what is there now.
    Changes changes;
    if (vma->backing == Backing::kMemory) {
        s.map_memory(*vma, changes, false);
    } else if (vma->object) {
        uint64_t rest = std::min<uint64_t>(vma->end - page, kHugePage);
        (void)s.unpatch(page, page + rest, changes, false);
        if (!s.map_object(*vma, page, page + rest, changes).ok()) return FaultSignal{SIGBUS, BUS_ADRERR};
    }
    if (!s.commit(changes).ok()) return FaultSignal{SIGBUS, BUS_ADRERR};
    return std::nullopt;
}

void AddressSpace::invalidate(Mappable& object, uint64_t offset, uint64_t size) {
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    uint64_t end = checked_add(offset, size).value_or(~uint64_t{0});
    for (const Vma& vma : state_->vmas_) {
        // Of a private mapping that the host copies as it is written, what was copied goes, too: the rest would soon
        // show another owner's pages.
        if (vma.object.get() != &object ||
            (vma.backing != Backing::kShared && vma.backing != Backing::kFile && vma.backing != Backing::kHostPrivate))
            continue;
        uint64_t vma_end = vma.object_offset + vma.size();
        uint64_t from = std::max(offset, vma.object_offset), to = std::min(end, vma_end);
        if (from >= to) continue;
        (void)state_->unpatch(vma.start + (page_down(from) - vma.object_offset),
                              vma.start + (page_up(to) - vma.object_offset), changes, false);
        changes.orders.push_back({.kind = MapOrder::Kind::kUnmap,
                                  .address = vma.start + (page_down(from) - vma.object_offset),
                                  .size = page_up(to) - page_down(from)});
    }
    // A stub that cannot unmap has lost its host process: nothing of the object is left in it.
    if (!state_->commit(changes).ok()) state_->host_->kill();
}

}  // namespace casemate::sentry
