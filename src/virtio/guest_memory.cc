#include "virtio/guest_memory.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/checked.h"

namespace casemate::virtio {

void GuestSlice::copy_out(size_t offset, void* to, size_t length) const {
    CHECK(offset <= size_ && length <= size_ - offset);
    std::memcpy(to, data_ + offset, length);
}

void GuestSlice::copy_in(size_t offset, const void* from, size_t length) const {
    CHECK(offset <= size_ && length <= size_ - offset);
    std::memcpy(data_ + offset, from, length);
}

GuestSlice GuestSlice::part(size_t offset, size_t length) const {
    CHECK(offset <= size_ && length <= size_ - offset);
    return GuestSlice(data_ + offset, static_cast<uint32_t>(length));
}

SysResult<std::shared_ptr<const GuestMemory>> GuestMemory::create(std::vector<MemoryRegion> regions,
                                                                  std::shared_ptr<const void> owner) {
    std::sort(regions.begin(), regions.end(),
              [](const MemoryRegion& a, const MemoryRegion& b) { return a.gpa < b.gpa; });
    uint64_t end = 0;
    for (const MemoryRegion& region : regions) {
        if (region.host == nullptr || region.size == 0) return Errno(EINVAL);
        if (!page_aligned(region.gpa) || !page_aligned(region.size) ||
            !page_aligned(reinterpret_cast<uintptr_t>(region.host)))
            return Errno(EINVAL);
        auto last = checked_add(region.gpa, region.size);
        if (!last || region.gpa < end) return Errno(EINVAL);
        end = *last;
    }
    std::shared_ptr<GuestMemory> memory(new GuestMemory);
    memory->regions_ = std::move(regions);
    memory->owner_ = std::move(owner);
    return std::shared_ptr<const GuestMemory>(std::move(memory));
}

const MemoryRegion* GuestMemory::find(uint64_t gpa) const {
    for (const MemoryRegion& region : regions_)
        if (gpa >= region.gpa && gpa - region.gpa < region.size) return &region;
    return nullptr;
}

SysResult<void> GuestMemory::append_slices(GuestAddr address, uint64_t length, std::vector<GuestSlice>& into) const {
    if (length == 0) return {};
    if (!checked_add(address.value, length)) return Errno(EFAULT);
    size_t before = into.size();
    uint64_t gpa = address.value;
    while (length > 0) {
        const MemoryRegion* region = find(gpa);
        if (region == nullptr) {
            into.erase(into.begin() + static_cast<ptrdiff_t>(before), into.end());
            return Errno(EFAULT);
        }
        uint64_t offset = gpa - region->gpa;
        uint64_t piece = std::min<uint64_t>({length, region->size - offset, 1u << 30});
        into.push_back(GuestSlice(region->host + offset, static_cast<uint32_t>(piece)));
        gpa += piece;
        length -= piece;
    }
    return {};
}

SysResult<void> GuestMemory::read(GuestAddr from, void* to, size_t length) const {
    std::vector<GuestSlice> slices;
    TRY(append_slices(from, length, slices));
    char* at = static_cast<char*>(to);
    for (const GuestSlice& slice : slices) {
        slice.copy_out(0, at, slice.size());
        at += slice.size();
    }
    return {};
}

SysResult<void> GuestMemory::write(GuestAddr to, const void* from, size_t length) const {
    std::vector<GuestSlice> slices;
    TRY(append_slices(to, length, slices));
    const char* at = static_cast<const char*>(from);
    for (const GuestSlice& slice : slices) {
        slice.copy_in(0, at, slice.size());
        at += slice.size();
    }
    return {};
}

SysResult<char*> GuestMemory::contiguous(GuestAddr address, uint64_t length, uint64_t alignment) const {
    if ((address.value & (alignment - 1)) != 0) return Errno(EINVAL);
    const MemoryRegion* region = find(address.value);
    if (region == nullptr) return Errno(EFAULT);
    uint64_t offset = address.value - region->gpa;
    if (length > region->size - offset) return Errno(EFAULT);
    return region->host + offset;
}

}  // namespace casemate::virtio
