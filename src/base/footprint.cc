#include "base/footprint.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace casemate {

void release_program_pages() {
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void*) {
            const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const ElfW(Phdr)& segment = info->dlpi_phdr[i];
                // Nothing that was ever written, relocations included, is in a segment without PF_W.
                if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
                uintptr_t start = (info->dlpi_addr + segment.p_vaddr) & ~(page - 1);
                uintptr_t end = (info->dlpi_addr + segment.p_vaddr + segment.p_memsz) & ~(page - 1);
                // SAFETY: clean pages of a private file mapping read the same after they were dropped.
                if (end > start) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
            }
            return 1;  // the program is the first object; libraries are shared with others
        },
        nullptr);
}

}  // namespace casemate
