// brk. Allocators give the heap's end back and take it again all the time, and each way costs an order to the host
// process. So a little behind the end stays mapped there, and more is mapped than was asked for when a heap grows: it
// belongs to no Vma, so for the sentry and for whatever the application asks it is not there, and what the application
// wrote to it is zeroed before it is the heap's again. Only a program that touches what it gave back gets no SIGSEGV.
#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kMostKept = uint64_t{1} << 20;
constexpr uint64_t kMostAhead = 256 << 10;

const std::shared_ptr<const std::string>& heap_name() {
    static const auto name = std::make_shared<const std::string>("[heap]");
    return name;
}

}  // namespace

void AddressSpace::State::give_up_kept(GuestAddr start, GuestAddr end, Changes& changes) {
    if (kept_.size() == 0 || start >= kept_.end || end <= kept_.start) return;
    changes.orders.insert(changes.orders.begin(),
                          {.kind = MapOrder::Kind::kUnmap, .address = kept_.start, .size = kept_.size()});
    changes.to_free.push_back({kept_.memory_offset, kept_.size()});
    kept_ = {};
}

bool AddressSpace::State::keep_heap(GuestAddr from, GuestAddr to) {
    const Vma* vma = find(from);
    if (vma == nullptr || vma->end != to || vma->backing != Backing::kMemory || vma->object || vma->shared ||
        vma->protection != (PROT_READ | PROT_WRITE) || vma->locked || vma->dont_fork || vma->wipe_on_fork)
        return false;
    const uint64_t offset = vma->memory_offset + (from - vma->start);
    KeptHeap kept{from, to, offset, to};
    if (kept_.size() != 0) {
        if (kept_.start != to || kept_.memory_offset != offset + (to - from)) return false;
        kept.end = kept_.end;
        kept.written_to = std::max(to, kept_.written_to);
    }
    if (kept.size() > kMostKept) return false;
    cut(from);
    vmas_.erase(vmas_.begin() + static_cast<ptrdiff_t>(find_index(from)));
    note_gap(from);
    kept_ = kept;
    return true;
}

SysResult<GuestAddr> AddressSpace::State::take_kept(GuestAddr from, GuestAddr to) {
    if (kept_.size() == 0 || kept_.start != from) return from;
    to = std::min(to, kept_.end);
    const GuestAddr written = std::min(to, kept_.written_to);
    if (written > from && !guarded_zero(memory_.at(kept_.memory_offset, written - from), written - from))
        return Errno(ENOMEM);
    Vma vma;
    vma.start = from;
    vma.end = to;
    vma.protection = PROT_READ | PROT_WRITE;
    vma.name = heap_name();
    vma.backing = Backing::kMemory;
    vma.memory_offset = kept_.memory_offset;
    insert(std::move(vma));
    kept_.memory_offset += to - from;
    kept_.start = to;
    if (kept_.size() == 0) kept_ = {};
    return to;
}

SysResult<void> AddressSpace::State::grow_heap(GuestAddr from, GuestAddr to) {
    if (!range_free(from, to)) return Errno(ENOMEM);
    Vma vma;
    vma.start = from;
    vma.end = to;
    vma.protection = PROT_READ | PROT_WRITE;
    vma.name = heap_name();
    uint64_t ahead = std::min(kMostAhead, page_down((from - page_up(brk_start_)) / 2));
    if (to - from + ahead < kHugePage && valid_range(to, ahead) && range_free(to, to + ahead)) vma.end += ahead;
    Changes changes;
    TRY(back(vma, changes, false));
    auto done = commit(changes);
    if (!done.ok()) {
        memory_.free({vma.memory_offset, vma.size()});
        return done;
    }
    if (vma.end > to) {
        const Vma rest = vma.split(to);
        kept_ = {rest.start, rest.end, rest.memory_offset, rest.start};
    }
    insert(std::move(vma));
    return {};
}

void AddressSpace::set_brk_start(GuestAddr start) {
    std::unique_lock lock(state_->mutex_);
    state_->brk_start_ = state_->brk_end_ = start;
}

GuestAddr AddressSpace::brk(GuestAddr end, uint64_t limit) {
    std::unique_lock lock(state_->mutex_);
    State& s = *state_;
    if (s.brk_start_ == 0 || end < s.brk_start_ || end > s.top_ || end - s.brk_start_ > limit) return s.brk_end_;
    const GuestAddr old_top = page_up(s.brk_end_), new_top = page_up(end);
    if (new_top < old_top && !s.keep_heap(new_top, old_top)) {
        Changes changes;
        s.give_up_kept(old_top, s.top_, changes);
        s.remove(new_top, old_top, changes);
        if (!s.commit(changes).ok()) return s.brk_end_;
    } else if (new_top > old_top) {
        auto taken = s.take_kept(old_top, new_top);
        if (!taken.ok()) return s.brk_end_;
        if (*taken < new_top && !s.grow_heap(*taken, new_top).ok()) {
            if (*taken > old_top) (void)s.keep_heap(old_top, *taken);
            return s.brk_end_;
        }
    }
    s.brk_end_ = end;
    return end;
}

}  // namespace casemate::sentry
