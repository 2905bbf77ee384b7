// The guest's memory: one file (a memfd, a file of a tmpfs with huge pages, hugetlbfs, or the memory of a snapshot),
// mapped below and above the hole under 4 GiB. Pages of the kernel image and the initrd are mapped over it from their
// own files, privately: they cost no copy, and guests of one image share them until they write.
//
// The guest writes here at any time while it runs. Before that only the loaders do, through at().
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "base/unique_map.h"
#include "vmm/image_copy.h"
#include "vmm/memory_guard.h"

namespace casemate::vmm {

enum class HugePages {
    kTransparent,  // where the host has them
    kNone,
    kReserved,  // hugetlbfs, 2 MiB each: taken from the host's reserve at once
};

struct MemoryOptions {
    uint64_t size = 0;  // bytes
    HugePages huge_pages = HugePages::kTransparent;
    bool preallocate = false;
    bool map_images = false;
    // The file to use instead of a new memfd; it is made as large as the memory.
    UniqueFd file;
    // What images are copied through (image_copy.h); else a pipe of this process's making.
    linux::Pipe image_pipe;
    // The file is the memory of a snapshot: it is mapped privately and never written.
    bool private_copy = false;
};

struct MemoryRegion {
    uint64_t guest_address = 0;
    uint64_t size = 0;
    char* host = nullptr;
    uint64_t file_offset = 0;
};

class Memory {
  public:
    static Result<Memory> create(MemoryOptions options);

    uint64_t size() const { return size_; }
    std::span<const MemoryRegion> regions() const { return regions_; }
    int file() const { return file_.get(); }
    // What the guest writes does not come to file().
    bool is_private() const { return private_; }
    // End of the region that begins at 0.
    uint64_t low_end() const { return regions_[0].size; }

    // `size` bytes at `address`, all inside of one region; nullptr otherwise.
    char* at(uint64_t address, uint64_t size) const;
    // EFAULT outside of the memory.
    SysResult<void> write(uint64_t address, std::string_view bytes) const;
    template <typename T>
    SysResult<void> write_object(uint64_t address, const T& object) const {
        return write(address, std::string_view(reinterpret_cast<const char*>(&object), sizeof object));
    }

    // Parts of `fd` come to their addresses, which are in order, none over another; into memory that nothing was
    // written to yet. With map_images whole pages are mapped where both sit alike in their pages. EFAULT outside of the
    // memory, ENODATA if the file ends before.
    SysResult<void> load(int fd, std::span<const FilePart> parts);
    // After the last load(): gives back what it worked with.
    void finish_load() { image_pipe_ = {}; }
    // What load() mapped: these pages are not in file().
    struct Mapped {
        uint64_t guest_address = 0;
        uint64_t size = 0;
    };
    std::span<const Mapped> mapped() const { return mapped_; }

    // An eventfd: readable once the host had no page for something that was touched (memory_guard.h). What the guest
    // would find in its memory is not what it left there: it must end.
    int lost_event() const { return lost_event_.get(); }
    bool lost() const;
    // Whether the end of it is gone, as after a cut of its file: for when KVM says no more than that it failed.
    bool cut() const;

  private:
    SysResult<void> copy(int fd, const FilePart& part);
    SysResult<void> map(int fd, const FilePart& part);
    SysResult<void> write_parts(int fd, std::span<const FilePart> parts);
    uint64_t file_offset(uint64_t address) const;  // of an address that at() knows

    UniqueFd file_;
    linux::Pipe image_pipe_;
    uint64_t size_ = 0;
    bool may_map_ = true;
    bool may_write_ = true;  // to file_, and it is seen here
    bool private_ = false;
    UniqueFd lost_event_;
    std::vector<UniqueMap> maps_;
    std::vector<MemoryGuard> guards_;  // of maps_; gone before them
    std::vector<MemoryRegion> regions_;
    std::vector<Mapped> mapped_;
};

}  // namespace casemate::vmm
