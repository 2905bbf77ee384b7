// The memory file: all guest memory that sentry and applications share, one file on a private tmpfs (huge pages) or a
// memfd, mapped into the sentry so that copies are memcpy.
//
// Ranges are page-aligned byte ranges of the file; offsets are plentiful (2^46), pages cost only when touched. A range
// has one owner (a private VMA piece or a MemoryObject), who frees it. Thread-safe.
//
// A *store* is the same in an unnamed file of a disk's file system: it holds the content of files that are nobody's
// memory (the writable layer of a root). Stubs map it as they map any host file; the sentry maps it to read from only,
// and writes by the descriptor, which alone says that the disk is full.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::sentry {

struct FileRange {
    uint64_t offset = 0;
    uint64_t size = 0;
};

class MemoryFile {
  public:
    enum class Kind { kMemory, kStore };
    // Takes over `file` (O_TMPFILE on a tmpfs, or a memfd), still of size 0. `limit` in bytes of touched pages; 0:
    // none.
    static Result<std::unique_ptr<MemoryFile>> create(UniqueFd file, uint64_t limit, Kind kind = Kind::kMemory);
    ~MemoryFile();

    int fd() const;
    Kind kind() const;
    // `size` bytes that read as zero. `align_hint`: an address whose 2 MiB offset the range should share, so that the
    // host can map huge pages. ENOMEM at the limit.
    SysResult<FileRange> allocate(uint64_t size, uint64_t align_hint = 0);
    // Gives pages back to the host or recycles them zeroed. Only the first `touched` bytes may hold anything.
    void free(FileRange range, uint64_t touched = ~uint64_t{0});
    void decommit(FileRange range);  // reads as zero again; MADV_DONTNEED
    // The sentry's own mapping of [offset, offset+size): valid as long as the range is owned. Touching it may fault in
    // pages; it never raises SIGBUS below the file's size. Of a store: to read from, and a disk error raises SIGBUS.
    std::byte* at(uint64_t offset, uint64_t size);
    // Content of either kind, between a range and memory that may be the application's. False: the host had no page or
    // no room for it.
    bool read(uint64_t offset, std::byte* into, size_t size) const;
    bool write(uint64_t offset, const std::byte* from, size_t size);
    bool zero(uint64_t offset, size_t size);
    uint64_t bytes_used() const;  // pages touched, for accounting and the pod's limit
    // Whether hardly a page is left below the limit: a touch that failed may have failed for that.
    bool used_up() const;
    uint64_t limit() const;
    void set_limit(uint64_t limit);

  private:
    class State;
    std::unique_ptr<State> state_;
    explicit MemoryFile(std::unique_ptr<State> state);
};

}  // namespace casemate::sentry
