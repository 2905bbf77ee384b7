// What mmap(2) can map: the interface between memory and files.
//
// A Mappable is shared by all VMAs that map it (one per inode or shared-memory segment). It either hands out ranges of
// the memory file (tmpfs, memfd, shm, shared anonymous) or a host descriptor (files of the file server), which the
// platform maps into the application directly.
//
// Locks: backing(), punch(), mappable_size(), add_mapping() and remove_mapping() are called under an address space's
// lock. So an object must not hold the lock that these take while it calls AddressSpace::invalidate().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/mm/memory_file.h"

namespace casemate::sentry {

class Mappable : public RefCounted {
  public:
    struct Piece {
        bool in_memory_file = true;
        uint64_t offset = 0;  // in the memory file, or in the host file
        uint64_t size = 0;    // bytes from the asked offset on that are contiguous; at least a page unless past the end
        int host_fd = -1;     // !in_memory_file: borrowed, valid as long as the Mappable
        bool lasting = true;  // !in_memory_file: it outlives the pod, so msync(2) has something to do
    };
    // The backing of [offset, offset+size) from its beginning; page-aligned. Creates pages that do not exist yet when
    // `write`. size 0 in the answer: past the end of the object (the application gets SIGBUS there).
    virtual SysResult<Piece> backing(uint64_t offset, uint64_t size, bool write) = 0;
    // The bytes [offset, offset+size) of a host file in a map of the sentry's own, which shows what the application's
    // map shows, and whose pages may be gone at any moment as well (guarded_copy()). Null: there is none.
    virtual const std::byte* readable(uint64_t offset, uint64_t size) {
        static_cast<void>(offset);
        static_cast<void>(size);
        return nullptr;
    }
    // Current size in bytes, rounded up to pages it bounds what can be touched without SIGBUS.
    virtual uint64_t mappable_size() = 0;
    // MADV_REMOVE: the range reads as zero from now on. EOPNOTSUPP where the object cannot.
    virtual SysResult<void> punch(uint64_t offset, uint64_t size) {
        static_cast<void>(offset);
        static_cast<void>(size);
        return Errno(EOPNOTSUPP);
    }
    // Something in [offset, offset+size) was taken away (truncate, hole punch): mappings are told through their
    // address spaces, which register here when they map.
    virtual void add_mapping(class AddressSpace& space) = 0;
    virtual void remove_mapping(class AddressSpace& space) = 0;
};

}  // namespace casemate::sentry
