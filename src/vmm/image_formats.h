// The two formats of image.h.
#pragma once

#include "vmm/image.h"

namespace casemate::vmm {

// `source` begins with ELF's magic.
Result<KernelImage> read_elf(const ImageSource& source);
Result<KernelImage> read_bzimage(const ImageSource& source);

}  // namespace casemate::vmm
