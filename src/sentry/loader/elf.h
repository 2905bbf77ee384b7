// ELF: what the headers of an executable say, checked.
#pragma once

#include <elf.h>

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/address_space.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

struct ElfImage {
    uint16_t type = 0;  // ET_EXEC or ET_DYN
    uint64_t entry = 0;
    uint64_t headers_address = 0;  // of the program headers in memory, before the bias; 0: not mapped
    uint16_t headers_count = 0;
    std::vector<Elf64_Phdr> segments;  // PT_LOAD, ascending, not overlapping
    std::string interpreter;           // "" : none
    bool executable_stack = false;     // PT_GNU_STACK asks for it; without it x86-64 gives one that is not
    uint64_t low = 0, high = 0;        // page-aligned bounds of the segments
    uint64_t alignment = 4096;         // largest of the segments, a power of two
};

// Parses headers that `read_at` gives (offset, destination): for files and fuzzing alike. ENOEXEC unless it is an ELF64
// for x86-64 that can be executed.
class ElfSource {
  public:
    // Fills all of `into` or fails.
    virtual SysResult<void> read_at(uint64_t offset, std::span<std::byte> into) = 0;

  protected:
    ~ElfSource() = default;
};
SysResult<ElfImage> parse_elf(ElfSource& source, uint64_t max_address);
SysResult<ElfImage> parse_elf(Task& task, File& file, uint64_t max_address);

// Maps the segments at their addresses plus `bias`.
SysResult<void> map_elf(Task& task, AddressSpace& memory, const Ref<File>& file, const ElfImage& image, uint64_t bias);

}  // namespace casemate::sentry
