// What happens when the host has no page behind the guest's memory: a file that it is mapped from was cut meanwhile (a
// snapshot's, a kernel image's under map_images), a tmpfs is full, the reserve of huge pages has run out. A vCPU that
// touches such a page comes back with an error, and system calls fail with EFAULT; but when the monitor itself touches
// it, the kernel raises SIGBUS, which ends the process without a word.
//
// A guarded range gets an empty page instead and its eventfd is signalled: the machine ends with a sentence
// (machine.cc). SIGBUS anywhere else is a bug and aborts.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace casemate::vmm {

class MemoryGuard {
  public:
    MemoryGuard() = default;
    MemoryGuard(MemoryGuard&& other) noexcept;
    MemoryGuard& operator=(MemoryGuard&& other) noexcept;
    ~MemoryGuard();

    // `page`: bytes of its pages; those of hugetlbfs cannot be replaced by smaller ones. `event`: an eventfd, borrowed
    // as the range is, until the guard is gone. Installs the handler for the process. ENOSPC past 64 ranges.
    static Result<MemoryGuard> create(void* begin, size_t size, size_t page, int event);

  private:
    explicit MemoryGuard(int slot) : slot_(slot) {}
    int slot_ = -1;
};

}  // namespace casemate::vmm
