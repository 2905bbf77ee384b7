// VMAs as a sorted list: finding, cutting, inserting, removing, and room for new ones.
#include <algorithm>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

// Anonymous neighbours whose ranges continue each other are one (brk, growing heaps).
bool joins(const Vma& a, const Vma& b) {
    return a.end == b.start && a.backing == b.backing && a.protection == b.protection && !a.object && !b.object &&
           a.shared == b.shared && a.name == b.name && a.locked == b.locked && a.dont_fork == b.dont_fork &&
           a.wipe_on_fork == b.wipe_on_fork && a.max_protection == b.max_protection && a.grows_down == b.grows_down &&
           a.stack == b.stack && !a.thunks && !b.thunks &&
           (a.backing == Backing::kReserved ||
            (a.backing == Backing::kMemory && a.memory_offset + a.size() == b.memory_offset));
}

}  // namespace

bool AddressSpace::State::covered(GuestAddr start, GuestAddr end) const {
    for (size_t i = find_index(start); start < end; i++) {
        if (i == vmas_.size() || vmas_[i].start > start) return false;
        start = vmas_[i].end;
    }
    return true;
}

// The highest gap below mmap_top_ that fits; for big mappings at an address congruent to `congruent` modulo 2 MiB.
std::optional<GuestAddr> AddressSpace::State::find_gap(uint64_t size, GuestAddr hint, bool low, uint64_t congruent) {
    hint = page_down(hint);
    if (hint >= kMinAddress && valid_range(hint, size) && range_free(hint, hint + size)) return hint;
    GuestAddr ceiling = low ? GuestAddr{0x80000000} : mmap_top_;
    bool align = size >= kHugePage && !low;
    auto place = [&](GuestAddr floor, GuestAddr end) -> std::optional<GuestAddr> {
        if (end <= floor || end - floor < size) return std::nullopt;
        GuestAddr at = end - size;
        if (align) {
            GuestAddr aligned = (at & ~(kHugePage - 1)) + (congruent & (kHugePage - 1));
            if (aligned > at) aligned -= kHugePage;
            at = aligned;
        }
        if (at < floor || at > end - size) return std::nullopt;
        return at;
    };
    for (int pass = 0; pass < 2; pass++) {
        // Programs with many mappings make the next below the last: what was looked at before need not be again.
        const bool usual = pass == 0 && !low;
        const bool go_on = usual && searched_to_ != 0 && size > largest_above_;
        GuestAddr end = go_on ? searched_to_ : ceiling;
        uint64_t largest = go_on ? largest_above_ : 0;
        size_t i = find_index(end - 1);
        if (i < vmas_.size() && vmas_[i].start < end) i++;
        while (true) {
            GuestAddr floor = i == 0 ? kMinAddress : vmas_[i - 1].end;
            if (auto at = place(std::max(floor, kMinAddress), end)) {
                if (usual) {
                    searched_to_ = end;
                    largest_above_ = largest;
                }
                return at;
            }
            if (end > floor) largest = std::max(largest, end - floor);
            if (i == 0) break;
            i--;
            end = std::min(end, vmas_[i].start);
        }
        if (low) return std::nullopt;
        ceiling = top_;  // second pass: what lies above the usual area
    }
    return std::nullopt;
}

void AddressSpace::State::note_gap(GuestAddr at) {
    const size_t i = find_index(at);
    const GuestAddr floor = i == 0 ? 0 : vmas_[i - 1].end, end = i == vmas_.size() ? top_ : vmas_[i].start;
    if (end > searched_to_) largest_above_ = std::max(largest_above_, end - floor);
}

void AddressSpace::State::cut(GuestAddr at) {
    size_t i = find_index(at);
    if (i == vmas_.size() || vmas_[i].start >= at) return;
    Vma tail = vmas_[i].split(at);
    if (tail.object) tail.object->add_mapping(*self_);
    vmas_.insert(vmas_.begin() + static_cast<ptrdiff_t>(i) + 1, std::move(tail));
}

void AddressSpace::State::insert(Vma vma) {
    size_t i = find_index(vma.start);
    CHECK(i == vmas_.size() || vmas_[i].start >= vma.end);
    if (i > 0 && joins(vmas_[i - 1], vma)) {
        vmas_[i - 1].end = vma.end;
        return;
    }
    vmas_.insert(vmas_.begin() + static_cast<ptrdiff_t>(i), std::move(vma));
}

void AddressSpace::State::join_neighbours(GuestAddr start, GuestAddr end) {
    size_t i = find_index(start);
    if (i > 0) i--;
    while (i + 1 < vmas_.size() && vmas_[i].start < end) {
        if (!joins(vmas_[i], vmas_[i + 1])) {
            i++;
            continue;
        }
        vmas_[i].end = vmas_[i + 1].end;
        vmas_.erase(vmas_.begin() + static_cast<ptrdiff_t>(i) + 1);
    }
}

void AddressSpace::State::remove(GuestAddr start, GuestAddr end, Changes& changes, bool unmap_host) {
    cut(start);
    cut(end);
    size_t first = find_index(start), last = first;
    bool mapped = false;
    give_up_kept(start, end, changes);
    if (!patched_.empty()) {
        (void)unpatch(start, end, changes, false);  // unmapping does not fail
        for (size_t i = first; i < vmas_.size() && vmas_[i].start < end; ++i)
            if (vmas_[i].thunks) drop_thunks(vmas_[i], changes);
    }
    while (last < vmas_.size() && vmas_[last].start < end) {
        Vma& vma = vmas_[last++];
        if (vma.backing != Backing::kReserved) mapped = true;
        if (vma.backing == Backing::kMemory) changes.to_free.push_back({vma.memory_offset, vma.size()});
        if (vma.object) vma.object->remove_mapping(*self_);
        changes.dropped.push_back(std::move(vma));
    }
    vmas_.erase(vmas_.begin() + static_cast<ptrdiff_t>(first), vmas_.begin() + static_cast<ptrdiff_t>(last));
    note_gap(start);
    if (mapped && unmap_host)
        changes.orders.push_back({.kind = MapOrder::Kind::kUnmap, .address = start, .size = end - start});
}

Vma* AddressSpace::State::find_unbacked(GuestAddr address) {
    Vma* vma = find(address);
    bool unbacked = vma != nullptr && vma->stack && vma->backing == Backing::kReserved && vma->protection != PROT_NONE;
    return unbacked ? vma : nullptr;
}

SysResult<void> AddressSpace::State::back_unbacked(GuestAddr address, uint64_t size) {
    constexpr uint64_t kLargestPiece = uint64_t{1} << 20;
    Changes changes;
    GuestAddr end = checked_add(address, size).value_or(top_);
    while (address < end) {
        Vma* vma = find_unbacked(address);
        if (vma == nullptr) break;
        // Downwards from the touched place, and as much again as is there above.
        GuestAddr to = std::min(vma->end, (address / kStackPiece + 1) * kStackPiece);
        uint64_t piece = kStackPiece;
        if (to == vma->end) {
            GuestAddr above = to;
            for (size_t i = find_index(to); i < vmas_.size() && vmas_[i].stack && vmas_[i].start == above; i++)
                above = vmas_[i].end;
            piece = std::clamp(above - to, kStackPiece, kLargestPiece);
        }
        GuestAddr from = std::max(vma->start, to > piece ? to - piece : 0);
        auto range = TRY(memory_.allocate(to - from, from));
        cut(from);
        cut(to);
        Vma& part = *find(from);
        part.backing = Backing::kMemory;
        part.memory_offset = range.offset;
        map_memory(part, changes, false);
        address = to;
    }
    return commit(changes);
}

void AddressSpace::State::add_to_batch(Changes& changes) {
    batch_.insert(batch_.end(), changes.orders.begin(), changes.orders.end());
    batch_frees_.insert(batch_frees_.end(), changes.to_free.begin(), changes.to_free.end());
    std::move(changes.dropped.begin(), changes.dropped.end(), std::back_inserter(batch_dropped_));
    changes.dropped.clear();
}

SysResult<void> AddressSpace::State::flush_batch() {
    std::vector<MapOrder> orders = std::move(batch_);
    std::vector<FileRange> frees = std::move(batch_frees_);
    std::vector<Vma> dropped = std::move(batch_dropped_);
    batch_.clear();
    batch_frees_.clear();
    batch_dropped_.clear();
    deferred_start_ = deferred_end_ = 0;
    auto applied = host_->apply(orders);
    for (FileRange range : frees) memory_.free(range);
    return applied;
}

SysResult<void> AddressSpace::State::commit(Changes& changes) {
    if (batching_ || !batch_.empty()) {
        add_to_batch(changes);
        return batching_ ? SysResult<void>() : flush_batch();
    }
    if (!changes.orders.empty()) TRY(host_->apply(changes.orders));
    for (FileRange range : changes.to_free) memory_.free(range);
    return {};
}

}  // namespace casemate::sentry
