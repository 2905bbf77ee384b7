// What /proc shows of an address space.
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

// Pages that are there; for memory ranges from the host, for files all of it. What a held parent lent is the parent's.
uint64_t resident_bytes(MemoryFile& memory, const Vma& vma) {
    if (vma.backing == Backing::kReserved || vma.backing == Backing::kBorrowed) return 0;
    uint64_t offset = vma.memory_offset;
    bool sparse = vma.backing == Backing::kMemory;
    if (vma.backing == Backing::kShared && !vma.file && vma.size() >= kHugePage) {
        // Shared memory without a file: a range of the memory file too.
        auto piece = vma.object->backing(vma.object_offset, vma.size(), false);
        sparse = piece.ok() && piece->in_memory_file && piece->size >= vma.size();
        if (sparse) offset = piece->offset;
    }
    if (!sparse || vma.size() < kHugePage) return vma.size();
    uint64_t sum = 0;
    auto position = static_cast<off_t>(offset);
    auto end = static_cast<off_t>(offset + vma.size());
    while (position < end) {
        off_t data = lseek(memory.fd(), position, SEEK_DATA);
        if (data < 0 || data >= end) break;
        off_t hole = std::min(lseek(memory.fd(), data, SEEK_HOLE), end);
        if (hole <= data) break;
        sum += static_cast<uint64_t>(hole - data);
        position = hole;
    }
    return sum;
}

}  // namespace

std::vector<AddressSpace::VmaInfo> AddressSpace::snapshot() {
    std::shared_lock lock(state_->mutex_);
    std::vector<VmaInfo> list;
    list.reserve(state_->vmas_.size());
    const Vma* before = nullptr;
    for (const Vma& vma : state_->vmas_) {
        // The pieces of a stack are one mapping.
        bool continues = before != nullptr && vma.stack && before->stack && before->end == vma.start &&
                         before->protection == vma.protection && before->name == vma.name;
        before = &vma;
        if (continues) {
            list.back().end = vma.end;
            list.back().resident += resident_bytes(state_->memory_, vma);
            continue;
        }
        list.push_back({vma.start, vma.end, vma.protection, vma.shared, vma.object ? vma.object_offset : 0, vma.file,
                        vma.name ? *vma.name : std::string(), resident_bytes(state_->memory_, vma), vma.object.get()});
    }
    return list;
}

AddressSpace::Usage AddressSpace::usage() {
    std::shared_lock lock(state_->mutex_);
    Usage usage;
    GuestAddr stack_from = 0, last_end = 0;
    for (const Vma& vma : state_->vmas_) {
        if (!vma.stack || vma.start != last_end) stack_from = vma.start;
        last_end = vma.end;
        uint64_t resident = resident_bytes(state_->memory_, vma);
        usage.virtual_bytes += vma.size();
        usage.resident_bytes += resident;
        if (vma.shared || vma.backing == Backing::kFile) usage.shared_bytes += resident;
        if (vma.protection & PROT_EXEC)
            usage.text_bytes += vma.size();
        else if (vma.backing == Backing::kMemory || vma.backing == Backing::kBorrowed)
            usage.data_bytes += vma.size();
        if (vma.contains(state_->layout_.stack_start)) usage.stack_bytes = vma.end - stack_from;
        if (vma.locked) usage.locked_bytes += vma.size();
    }
    return usage;
}

bool AddressSpace::usage_exceeds(uint64_t more, uint64_t limit) {
    if (limit == ~uint64_t{0}) return false;
    std::shared_lock lock(state_->mutex_);
    uint64_t sum = more;
    for (const Vma& vma : state_->vmas_) sum += vma.size();
    return sum < more || sum > limit;
}

AddressSpace::Layout AddressSpace::layout() {
    std::shared_lock lock(state_->mutex_);
    return state_->layout_;
}

void AddressSpace::set_layout(Layout layout) {
    std::unique_lock lock(state_->mutex_);
    std::swap(state_->layout_, layout);
}

}  // namespace casemate::sentry
