// A guest's RAM as devices see it: regions of guest-physical addresses with the host memory behind them.
//
// Every address and length comes from the guest, so nothing here hands out a pointer for one that was not checked:
// arithmetic is checked, a range may cross into the region that adjoins it, and what is not RAM (registers of devices,
// holes) is EFAULT. So a device's DMA can never reach a device. The guest changes its memory at any moment: a value is
// copied out once and then used.
//
// A map never changes; memory that comes or goes makes a new one. Whoever holds slices also holds the map (Queue and
// Chain do), so the host memory is there as long as they are.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"

namespace casemate::virtio {

// A guest-physical address, chosen by the guest. Does not dereference.
struct GuestAddr {
    uint64_t value = 0;
    friend constexpr bool operator==(GuestAddr, GuestAddr) = default;
};

// Checked host memory of one region. Its bytes are reached by copies, or by host calls that copy.
class GuestSlice {
  public:
    uint32_t size() const { return size_; }
    // `offset` + `length` lie within the slice: CHECKed, for it is our own arithmetic.
    void copy_out(size_t offset, void* to, size_t length) const;
    void copy_in(size_t offset, const void* from, size_t length) const;
    GuestSlice part(size_t offset, size_t length) const;
    // For readv(2), io_uring and the like: the kernel copies, nothing of ours looks at the bytes.
    iovec for_host_call() const { return {data_, size_}; }
    // Memory of ours, to be treated alike.
    static GuestSlice host_memory(char* data, uint32_t size) { return GuestSlice(data, size); }

  private:
    friend class GuestMemory;
    GuestSlice(char* data, uint32_t size) : data_(data), size_(size) {}
    char* data_;
    uint32_t size_;
};

struct MemoryRegion {
    uint64_t gpa = 0;
    uint64_t size = 0;
    char* host = nullptr;
};

class GuestMemory {
  public:
    // Regions are page-aligned, not empty and do not overlap; order does not matter. `owner` keeps the mappings behind
    // them for as long as the map lives; null if the caller sees to that. EINVAL.
    static SysResult<std::shared_ptr<const GuestMemory>> create(std::vector<MemoryRegion> regions,
                                                                std::shared_ptr<const void> owner = nullptr);

    // All or nothing: EFAULT if part of the range is not RAM.
    SysResult<void> read(GuestAddr from, void* to, size_t length) const;
    SysResult<void> write(GuestAddr to, const void* from, size_t length) const;
    // Appends the host memory of the range, one slice per region that it touches. On EFAULT nothing is appended.
    SysResult<void> append_slices(GuestAddr address, uint64_t length, std::vector<GuestSlice>& into) const;
    // One piece of host memory for a structure that devices access in place by atomic loads and stores: the rings.
    // EFAULT if it does not lie in one region, EINVAL if not aligned to `alignment` (a power of two up to 4096).
    SysResult<char*> contiguous(GuestAddr address, uint64_t length, uint64_t alignment) const;

    std::span<const MemoryRegion> regions() const { return regions_; }

  private:
    GuestMemory() = default;
    // The region that holds the address, or null.
    const MemoryRegion* find(uint64_t gpa) const;

    std::vector<MemoryRegion> regions_;  // sorted by address
    std::shared_ptr<const void> owner_;
};

}  // namespace casemate::virtio
