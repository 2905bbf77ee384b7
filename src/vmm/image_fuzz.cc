// Kernel images: whatever read_kernel() accepts keeps what image.h says.
#include <cstdint>
#include <cstdlib>

#include "vmm/image.h"
#include "vmm/layout.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate::vmm;
    BufferImage source({reinterpret_cast<const char*>(data), size});
    auto image = read_kernel(source);
    if (!image.ok()) return image.error().message().empty() ? (std::abort(), 0) : 0;
    uint64_t last = kHighMemory;
    for (const ImagePiece& piece : image->pieces) {
        if (piece.file_size > piece.memory_size || piece.file_offset + piece.file_size > size) std::abort();
        if (piece.address < last || piece.address + piece.memory_size < piece.address) std::abort();
        last = piece.address + piece.memory_size;
    }
    if (image->pieces.empty() || last != image->end) std::abort();
    return 0;
}
