// Shared anonymous memory: MAP_SHARED|MAP_ANONYMOUS and SysV segments. One range of the memory file of fixed size.
#pragma once

#include "sentry/mm/mappable.h"

namespace casemate::sentry {

class SharedMemory final : public Mappable {
  public:
    // `size` bytes, rounded up to pages, reading as zero. ENOMEM.
    static SysResult<Ref<SharedMemory>> create(MemoryFile& memory, uint64_t size);

    SysResult<Piece> backing(uint64_t offset, uint64_t size, bool write) override;
    uint64_t mappable_size() override { return range_.size; }
    SysResult<void> punch(uint64_t offset, uint64_t size) override;
    // The sentry's own view of [offset, offset + size), which lies in it.
    std::byte* bytes(uint64_t offset, uint64_t size) { return memory_.at(range_.offset + offset, size); }
    void add_mapping(AddressSpace&) override {}  // never shrinks: nobody needs to be told
    void remove_mapping(AddressSpace&) override {}

  private:
    SharedMemory(MemoryFile& memory, FileRange range) : memory_(memory), range_(range) {}
    ~SharedMemory() override { memory_.free(range_); }
    MemoryFile& memory_;
    const FileRange range_;
};

}  // namespace casemate::sentry
