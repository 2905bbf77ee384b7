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
    auto piece = image->pieces.begin();
    uint64_t done = 0;  // up to here the addresses have had their data
    for (const FilePart& part : image->data) {
        while (piece != image->pieces.end() && part.address >= piece->address + piece->memory_size) ++piece;
        if (piece == image->pieces.end() || part.size == 0 || part.address < done) std::abort();
        if (part.address < piece->address || part.offset - piece->file_offset != part.address - piece->address)
            std::abort();
        if (part.size > piece->file_size || part.offset - piece->file_offset > piece->file_size - part.size)
            std::abort();
        done = part.address + part.size;
    }
    return 0;
}
