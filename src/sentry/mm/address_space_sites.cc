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

constexpr uint64_t kReach = uint64_t{1} << 30;  // of a jump, with something to spare
constexpr size_t kMaxThunkPages = 4;
constexpr size_t kMaxPatchedPages = 256;

bool may_patch(const Vma& vma) {
    return vma.backing == Backing::kFile && !vma.shared && vma.object && vma.protection == (PROT_READ | PROT_EXEC);
}

uint64_t distance(GuestAddr a, GuestAddr b) { return a > b ? a - b : b - a; }

}  // namespace

SysResult<void> AddressSpace::State::unpatch(GuestAddr start, GuestAddr end, Changes& changes, bool restore) {
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

// A page of thunks near a place: the latest there is, or a new one in the next gap below.
Vma* AddressSpace::State::find_thunks(GuestAddr near, bool make_new, Changes& changes) {
    size_t count = 0;
    Vma* latest = nullptr;
    for (Vma& vma : vmas_) {
        if (!vma.thunks) continue;
        ++count;
        if (distance(vma.start, near) < kReach && (latest == nullptr || vma.start < latest->start)) latest = &vma;
    }
    if (!make_new) return latest;
    if (count >= kMaxThunkPages) return nullptr;
    for (size_t i = find_index(near); i < vmas_.size(); --i) {
        const Vma& above = vmas_[i];
        const GuestAddr floor = i == 0 ? kMinAddress : vmas_[i - 1].end;
        if (distance(above.start, near) >= kReach) break;
        if (above.start > floor + kPageSize && above.start >= kMinAddress + kPageSize && !above.grows_down) {
            auto range = memory_.allocate(kPageSize);
            if (!range.ok()) return nullptr;
            static const auto kName = std::make_shared<const std::string>("[thunks]");
            Vma vma;
            vma.start = above.start - kPageSize;
            vma.end = above.start;
            vma.protection = vma.max_protection = PROT_READ | PROT_EXEC;
            vma.backing = Backing::kMemory;
            vma.memory_offset = range->offset;
            vma.thunks = vma.dont_fork = true;
            vma.name = kName;
            const GuestAddr start = vma.start;
            give_up_kept(vma.start, vma.end, changes);
            map_memory(vma, changes, false);
            insert(std::move(vma));
            return find(start);
        }
    }
    return nullptr;
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
    // Without room for a thunk first: is it a site at all?
    PatchOutcome outcome = readable ? s.host_->patch_call_site(call, {.page_address = page, .page = {copy, kPageSize}})
                                    : PatchOutcome::kUnknown;
    for (bool make_new : {false, true}) {
        if (outcome != PatchOutcome::kFull) break;
        const Vma* thunks = s.find_thunks(page, make_new, changes);
        if (thunks == nullptr) continue;
        outcome =
            s.host_->patch_call_site(call, {.page_address = page,
                                            .page = {copy, kPageSize},
                                            .thunks_address = thunks->start,
                                            .thunks = {s.memory_.at(thunks->memory_offset, kPageSize), kPageSize}});
    }
    if (outcome == PatchOutcome::kDone) {
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

}  // namespace casemate::sentry
