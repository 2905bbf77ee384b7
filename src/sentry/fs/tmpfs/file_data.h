// FileData: the bytes of a regular file that lives in the memory file: tmpfs, memfd, /dev/shm, the overlay's upper
// layer; or in a store (mm/memory_file.h), where that layer has one.
//
// Pieces of the memory file (extents) appear as the file is written or mapped, each as large as the file was so far, so
// that big files are a few of them; holes read as zero. Reads and writes are memcpy between the memory file and
// application memory.
//
// Locks: mutex_ is taken under an address space's lock (IoBuffer holds it while we copy; backing() is called so), and
// never held while AddressSpace::invalidate() runs.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "sentry/mm/io_buffer.h"
#include "sentry/mm/mappable.h"

namespace casemate::sentry {

// Counts the bytes of a file system that has a size limit, and owns its store if it has one: files that are mapped
// outlive their file system.
class SpaceAccount : public RefCounted {
  public:
    explicit SpaceAccount(uint64_t limit, std::unique_ptr<MemoryFile> store = nullptr)
        : limit_(limit), store_(std::move(store)) {}
    MemoryFile* store() const { return store_.get(); }
    SysResult<void> charge(uint64_t bytes);  // ENOSPC
    void release(uint64_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }
    uint64_t used() const { return used_.load(std::memory_order_relaxed); }
    uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }  // 0: none
    void set_limit(uint64_t limit) { limit_.store(limit, std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> used_{0}, limit_;
    const std::unique_ptr<MemoryFile> store_;
};

class FileData final : public Mappable {
  public:
    FileData(MemoryFile& memory, Ref<SpaceAccount> account)
        : account_(std::move(account)), memory_(account_ && account_->store() ? *account_->store() : memory) {}
    ~FileData() override;

    SysResult<size_t> read(IoBuffer& into, int64_t offset);
    // At the end of the file if `append`; `offset` is moved behind what was written.
    SysResult<size_t> write(IoBuffer& from, int64_t& offset, bool append);
    SysResult<void> resize(int64_t size);
    SysResult<void> allocate(int mode, int64_t offset, int64_t size);
    SysResult<int64_t> seek_data(int64_t offset);
    SysResult<int64_t> seek_hole(int64_t offset);
    uint64_t size() const { return size_.load(std::memory_order_acquire); }
    uint64_t bytes_used() const { return charged_.load(std::memory_order_relaxed); }

    // memfd seals: F_SEAL_*. EBUSY for a write seal while writable shared mappings may exist, EPERM once sealed.
    SysResult<void> add_seals(uint32_t seals);
    uint32_t seals() const { return seals_.load(std::memory_order_acquire); }
    void allow_seals() { seals_.store(0); }
    // Somebody maps it shared and may write: EPERM under a write seal.
    SysResult<void> map_writable();

    SysResult<Piece> backing(uint64_t offset, uint64_t size, bool write) override;
    uint64_t mappable_size() override { return size(); }
    SysResult<void> punch(uint64_t offset, uint64_t size) override;
    void add_mapping(AddressSpace& space) override;
    void remove_mapping(AddressSpace& space) override;

  private:
    struct Extent {
        uint64_t start;     // in the file, page-aligned
        uint64_t capacity;  // bytes of the memory file
        uint64_t memory;    // offset in the memory file
        uint64_t used;      // the beginning that counts: charged, may hold data
        uint64_t end() const { return start + used; }
    };
    static constexpr uint64_t kMaxSize = uint64_t{1} << 46;

    size_t first_ending_after(uint64_t offset) const;
    SysResult<void> back_locked(uint64_t offset, uint64_t size);
    // False: the host had no page for it (the pod is at its limit).
    bool copy_out_locked(uint64_t offset, std::byte* into, size_t size) const;
    bool copy_in_locked(uint64_t offset, const std::byte* from, size_t size);
    struct Freed {
        FileRange range;
        uint64_t touched;
    };
    // Takes [offset, offset+size) away; what is to be freed lands in `freed`. ENOSPC: an edge could not be zeroed.
    SysResult<void> drop_locked(uint64_t offset, uint64_t size, std::vector<Freed>& freed);
    void finish_drop(uint64_t offset, uint64_t size, const std::vector<Freed>& freed);
    SysResult<void> write_piece(const std::byte* from, size_t size, int64_t& offset, bool append);

    const Ref<SpaceAccount> account_;
    MemoryFile& memory_;  // the account's store if it has one
    mutable std::shared_mutex mutex_;
    std::vector<Extent> extents_;  // guarded by mutex_; by start, not overlapping
    std::atomic<uint64_t> size_{0}, charged_{0};
    std::atomic<uint32_t> seals_{1 /* F_SEAL_SEAL */};
    std::mutex mappings_mutex_;  // innermost
    struct Mapping {
        AddressSpace* space;
        uint32_t count;
    };
    std::vector<Mapping> mappings_;  // guarded by mappings_mutex_
    bool mapped_writable_ = false;   // guarded by mappings_mutex_
};

}  // namespace casemate::sentry
