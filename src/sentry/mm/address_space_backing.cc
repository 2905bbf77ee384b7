// What lies behind a VMA and the host orders that show it to the application.
#include <unistd.h>

#include <algorithm>

#include "sentry/mm/address_space_state.h"

namespace casemate::sentry {
namespace {

constexpr uint64_t kPopulated = 32 << 10;

int host_protection(int protection) { return protection & (PROT_READ | PROT_WRITE | PROT_EXEC); }

}  // namespace

void AddressSpace::State::map_memory(const Vma& vma, Changes& changes, bool populate) const {
    changes.orders.push_back({.kind = MapOrder::Kind::kMap,
                              .address = vma.start,
                              .size = vma.size(),
                              .protection = host_protection(vma.protection),
                              .flags = MAP_SHARED | (populate ? MAP_POPULATE : 0),
                              .fd = MapOrder::kMemoryFile,
                              .offset = vma.memory_offset});
}

SysResult<void> AddressSpace::State::map_object(const Vma& vma, GuestAddr start, GuestAddr end, Changes& changes) {
    bool writes = vma.shared && (vma.protection & PROT_WRITE);
    while (start < end) {
        uint64_t offset = vma.object_offset + (start - vma.start);
        auto piece = TRY(vma.object->backing(offset, end - start, writes));
        uint64_t size = std::min(page_up(piece.size), end - start);
        if (size == 0) return {};  // past the end of the object: left unmapped, a touch faults
        changes.orders.push_back({.kind = MapOrder::Kind::kMap,
                                  .address = start,
                                  .size = size,
                                  .protection = host_protection(vma.protection),
                                  .flags = vma.shared ? MAP_SHARED : MAP_PRIVATE,
                                  .fd = piece.in_memory_file ? MapOrder::kMemoryFile : piece.host_fd,
                                  .offset = piece.offset});
        start += size;
    }
    return {};
}

SysResult<void> AddressSpace::State::read_object(Mappable& object, uint64_t offset, std::byte* into, uint64_t size) {
    while (size > 0) {
        auto piece = TRY(object.backing(offset, page_up(size), false));
        uint64_t part = std::min(piece.size, size);
        if (part == 0) return {};  // the rest stays zero
        if (piece.in_memory_file) {
            if (!guarded_copy(into, memory_.at(piece.offset, part), part)) return Errno(ENOMEM);
        } else {
            ssize_t got = pread(piece.host_fd, into, part, static_cast<off_t>(piece.offset));
            if (got < 0) return last_errno();
            if (got == 0) return {};
            part = static_cast<uint64_t>(got);
        }
        offset += part;
        into += part;
        size -= part;
    }
    return {};
}

SysResult<void> AddressSpace::State::copy_object(Vma& vma) {
    auto range = TRY(memory_.allocate(vma.size(), vma.start));
    auto read = read_object(*vma.object, vma.object_offset, memory_.at(range.offset, range.size), vma.size());
    if (!read.ok()) {
        memory_.free(range);
        return read.take_error();
    }
    vma.backing = Backing::kMemory;
    vma.memory_offset = range.offset;
    return {};
}

SysResult<void> AddressSpace::State::back(Vma& vma, Changes& changes, bool populate) {
    if (!vma.object) {
        if (vma.protection == PROT_NONE || (vma.stack && vma.size() > kStackPiece)) {
            vma.backing = Backing::kReserved;
            return {};
        }
        auto range = TRY(memory_.allocate(vma.size(), vma.start));
        vma.backing = Backing::kMemory;
        vma.memory_offset = range.offset;
        // Pages of an arena are there: mapping them along costs a fraction of the faults.
        bool cheap = vma.size() <= kPopulated && (vma.protection & PROT_WRITE) != 0;
        map_memory(vma, changes, populate || cheap);
        if (vma.size() >= kHugePage && !vma.grows_down)
            changes.orders.push_back(
                {.kind = MapOrder::Kind::kAdvise, .address = vma.start, .size = vma.size(), .advice = MADV_HUGEPAGE});
        return {};
    }
    if (vma.shared) {
        vma.backing = Backing::kShared;
        return map_object(vma, vma.start, vma.end, changes);
    }
    if (!(vma.protection & PROT_WRITE)) {
        vma.backing = Backing::kFile;
        return map_object(vma, vma.start, vma.end, changes);
    }
    // Private and writable. Small: its pages are copied now, which is cheaper than copy-on-write faults. What lies past
    // the end of the object stays unmapped, so that a touch raises SIGBUS as on Linux.
    uint64_t object_end = page_up(vma.object->mappable_size());
    if (vma.size() <= kCopyLimit && vma.object_offset < object_end && vma.size() <= object_end - vma.object_offset) {
        TRY(copy_object(vma));
        map_memory(vma, changes, populate);
        return {};
    }
    vma.backing = Backing::kHostPrivate;
    return map_object(vma, vma.start, vma.end, changes);
}

}  // namespace casemate::sentry
