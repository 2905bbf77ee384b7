// Patched call sites: pages of program code of which the host process has a copy with jumps in it (the platform writes
// those), and small pages of thunks that the jumps go to.
//
// Only code that nobody may write is patched: private mappings of files that are readable and executable. The copy
// replaces the page in the host process by one mapping order, which other threads see as one step. It is this address
// space's alone: files, the memory of forked children and what the sentry itself reads (process_vm_readv,
// /proc/PID/mem, core dumps) have the original; loads by the application show the jump. Whatever changes the mapping
// puts the original back first.
#include <algorithm>
#include <mutex>

#include "base/log.h"
#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

constexpr ptrdiff_t kMaxThunkPages = 8;
constexpr uint64_t kStackRoom = uint64_t{256} << 20;
constexpr std::byte kBreakpoint{0xcc}, kInterrupt{0xcd};  // int3; int $3 is two bytes
constexpr size_t kMaxPatchedPages = 256;

bool may_patch(const Vma& vma) {
    return vma.backing == Backing::kFile && !vma.shared && vma.object && vma.protection == (PROT_READ | PROT_EXEC);
}

}  // namespace

void AddressSpace::State::unpatch_shown(GuestAddr start, GuestAddr end, Changes& changes) {
    auto within = [&](const PatchedPage& page) { return page.address >= start && page.address < end; };
    if (std::ranges::none_of(patched_, [&](auto& page) { return page.shown && within(page); })) return;
    std::erase_if(patched_, [&](const PatchedPage& page) {
        if (!page.shown || within(page)) return false;
        Vma* vma = find(page.address);
        CHECK(vma != nullptr);
        // A jump to what is gone would lead nowhere.
        if (!map_object(*vma, page.address, page.address + kPageSize, changes).ok()) host_->kill();
        changes.to_free.push_back(page.copy);
        return true;
    });
}

SysResult<void> AddressSpace::State::unpatch(GuestAddr start, GuestAddr end, Changes& changes, bool restore) {
    unpatch_shown(start, end, changes);
    for (size_t i = 0; i < patched_.size();) {
        const PatchedPage page = patched_[i];
        if (page.address < start || page.address >= end) {
            ++i;
            continue;
        }
        if (restore) {
            Vma* vma = find(page.address);
            if (vma != nullptr && vma->backing == Backing::kFile)
                TRY(map_object(*vma, page.address, page.address + kPageSize, changes));
        }
        changes.to_free.push_back(page.copy);
        patched_[i] = patched_.back();
        patched_.pop_back();
    }
    return {};
}

SysResult<void> AddressSpace::State::restore_code(GuestAddr start, GuestAddr end) {
    if (patched_.empty()) return {};
    Changes changes;
    TRY(unpatch(start, end, changes, true));
    return changes.orders.empty() ? SysResult<void>() : commit(changes);
}

void AddressSpace::State::drop_thunks(const Vma& vma, Changes& changes) {
    // A code page that cannot be had back would lead nowhere.
    if (!unpatch(0, top_, changes, true).ok()) host_->kill();
    host_->forget_thunks(vma.start);
}

GuestAddr AddressSpace::State::find_thunks_gap(GuestAddr near, const ThunkPlaces& places) const {
    if (places.count == 1) {
        // Directly below some mapping, not to divide what is free.
        for (size_t i = find_index(near); i < vmas_.size(); --i) {
            const Vma& above = vmas_[i];
            const GuestAddr floor = i == 0 ? kMinAddress : vmas_[i - 1].end;
            if (above.start < places.first + kPageSize) break;
            if (above.start > floor + kPageSize && above.start >= kMinAddress + kPageSize && !above.grows_down)
                return above.start - kPageSize;
        }
        return 0;
    }
    // As far away as possible, out of the way of what grows.
    auto fits = [&](uint64_t number) -> GuestAddr {
        const GuestAddr at = page_up(places.first + number * places.step);
        if (at < kMinAddress + kPageSize || !valid_range(at, 2 * kPageSize)) return 0;
        if (!range_free(at - kPageSize, at + 2 * kPageSize)) return 0;
        const size_t above = find_index(at);
        return above < vmas_.size() && vmas_[above].grows_down && vmas_[above].start - at < kStackRoom ? 0 : at;
    };
    for (uint64_t number = places.count; number-- > 0;) {
        if (places.first + number * places.step < near) break;
        if (GuestAddr at = fits(number)) return at;
    }
    for (uint64_t number = 0; number < places.count && places.first + number * places.step < near; ++number)
        if (GuestAddr at = fits(number)) return at;
    return 0;
}

const Vma* AddressSpace::State::make_thunks(GuestAddr near, const ThunkPlaces& places, Changes& changes) {
    if (std::ranges::count_if(vmas_, &Vma::thunks) >= kMaxThunkPages) return nullptr;
    const GuestAddr start = find_thunks_gap(near, places);
    if (start == 0) return nullptr;
    auto range = memory_.allocate(kPageSize);
    if (!range.ok()) return nullptr;
    static const auto kName = std::make_shared<const std::string>("[thunks]");
    Vma vma;
    vma.start = start;
    vma.end = start + kPageSize;
    vma.protection = vma.max_protection = PROT_READ | PROT_EXEC;
    vma.backing = Backing::kMemory;
    vma.memory_offset = range->offset;
    vma.thunks = vma.dont_fork = true;
    vma.name = kName;
    give_up_kept(vma.start, vma.end, changes);
    map_memory(vma, changes, false);
    insert(std::move(vma));
    return find(start);
}

void AddressSpace::patch_call_site(const SyscallStop& call) {
    Changes changes;
    std::unique_lock lock(state_->mutex_);
    State& s = *state_;
    if (call.ip == 0 || s.batching_ || !s.batch_.empty() || s.vmas_.size() >= kMaxVmas) return;
    const GuestAddr page = page_down(call.ip - 1);
    Vma* vma = s.find(page);
    if (vma == nullptr || !may_patch(*vma) || s.patched_.size() >= kMaxPatchedPages) return;

    auto range = s.memory_.allocate(kPageSize);
    if (!range.ok()) return;
    std::byte* copy = s.memory_.at(range->offset, kPageSize);
    auto old = std::find_if(s.patched_.begin(), s.patched_.end(), [&](auto& p) { return p.address == page; });
    bool readable = old != s.patched_.end()
                        ? guarded_copy(copy, s.memory_.at(old->copy.offset, kPageSize), kPageSize)
                        : s.read_object(*vma->object, vma->object_offset + (page - vma->start), copy, kPageSize).ok();
    const auto places =
        readable ? s.host_->recognise_call_site(call, page, {copy, kPageSize}) : std::optional<ThunkPlaces>();
    PatchOutcome outcome = places ? PatchOutcome::kFull : PatchOutcome::kUnknown;
    auto patch_with = [&](const Vma& thunks) {
        outcome =
            s.host_->patch_call_site(call, {.page_address = page,
                                            .page = {copy, kPageSize},
                                            .thunks_address = thunks.start,
                                            .thunks = {s.memory_.at(thunks.memory_offset, kPageSize), kPageSize}});
    };
    for (const Vma& thunks : s.vmas_) {
        if (outcome != PatchOutcome::kFull) break;
        if (thunks.thunks && places->contain(thunks.start, kPageSize)) patch_with(thunks);
    }
    if (outcome == PatchOutcome::kFull)
        if (const Vma* thunks = s.make_thunks(page, *places, changes)) patch_with(*thunks);
    if (outcome == PatchOutcome::kDone) {
        s.had_traps_ |= places->count > 1;
        changes.orders.push_back({.kind = MapOrder::Kind::kMap,
                                  .address = page,
                                  .size = kPageSize,
                                  .protection = PROT_READ | PROT_EXEC,
                                  .flags = MAP_SHARED,
                                  .fd = MapOrder::kMemoryFile,
                                  .offset = range->offset});
        if (old != s.patched_.end()) {
            changes.to_free.push_back(old->copy);
            old->copy = *range;
        } else {
            s.patched_.push_back({page, *range});
        }
    } else {
        changes.to_free.push_back(*range);
    }
    // What is half there cannot be told from what is not: the stub cannot go on.
    if (!s.commit(changes).ok()) s.host_->kill();
}

void AddressSpace::show_code(std::span<const ShownCode> pieces) {
    std::unique_lock lock(state_->mutex_);
    State& s = *state_;
    Changes changes;
    size_t pages = s.patched_.size();
    for (const ShownCode& piece : pieces) {
        const Vma* vma = s.find(piece.address);
        const uint64_t size = piece.code.size();
        if (vma == nullptr || !may_patch(*vma) || size > vma->end - piece.address || size >= kHugePage) return;
        pages += size / kPageSize;
    }
    if (pages > kMaxPatchedPages) return;
    std::vector<State::PatchedPage> shown;
    bool whole = true;
    for (const ShownCode& piece : pieces) {
        const uint64_t size = piece.code.size();
        auto range = s.memory_.allocate(size);
        if (!range.ok()) {
            whole = false;
            break;
        }
        for (uint64_t at = 0; at < size; at += kPageSize)
            shown.push_back({piece.address + at, {range->offset + at, kPageSize}, true});
        whole &= guarded_copy(s.memory_.at(range->offset, size), piece.code.data(), size);
        changes.orders.push_back({.kind = MapOrder::Kind::kMap,
                                  .address = piece.address,
                                  .size = size,
                                  .protection = PROT_READ | PROT_EXEC,
                                  .flags = MAP_SHARED,
                                  .fd = MapOrder::kMemoryFile,
                                  .offset = range->offset});
    }
    if (!whole) {
        for (const State::PatchedPage& page : shown) s.memory_.free(page.copy);
        return;
    }
    s.patched_.insert(s.patched_.end(), shown.begin(), shown.end());
    if (!s.commit(changes).ok()) s.host_->kill();
}

std::optional<GuestAddr> AddressSpace::behind_planted_trap(GuestAddr ip) {
    const GuestAddr trap = ip - 1, page = page_down(trap);
    if (ip < 2) return std::nullopt;
    {
        State& s = *state_;
        std::lock_guard lock(s.mutex_);
        if (!s.had_traps_) return std::nullopt;
        if (std::ranges::any_of(s.patched_, [&](auto& patched) { return patched.address == page; }))
            if (GuestAddr to = s.host_->behind_planted_trap(trap)) return to;
    }
    // The original, which is what is read here, may be back meanwhile. A breakpoint of its own it has a right to.
    std::byte code[2];
    if (!copy_in(trap - 1, code, sizeof(code)).ok()) return std::nullopt;
    if (code[1] == kBreakpoint || (code[0] == kInterrupt && code[1] == std::byte{3})) return std::nullopt;
    return trap;
}

}  // namespace casemate::sentry
