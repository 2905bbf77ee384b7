// Reads kernel images: ELF (entered by the PVH protocol if it has the note, else as 64-bit Linux) and Linux' bzImage.
//
// The image is hostile: every offset, size and address is checked here, against the file and against each other;
// whether it fits into the guest's memory is for load_kernel (boot.h). Specifications: the ELF gABI, xen's pvh.markdown
// and Documentation/arch/x86/boot.rst of Linux.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vmm/image_copy.h"

namespace casemate::vmm {

// Bytes of an image by position: a file, or a buffer in tests.
class ImageSource {
  public:
    virtual ~ImageSource() = default;
    virtual uint64_t size() const = 0;
    // All of `into`, or ENODATA.
    virtual SysResult<void> read(uint64_t offset, std::span<char> into) const = 0;
};

class FileImage : public ImageSource {
  public:
    // EINVAL unless it is a regular file. Borrowed.
    static SysResult<FileImage> open(int fd);
    uint64_t size() const override { return size_; }
    SysResult<void> read(uint64_t offset, std::span<char> into) const override;

  private:
    FileImage(int fd, uint64_t size) : fd_(fd), size_(size) {}
    int fd_;
    uint64_t size_;
    std::vector<char> head_;  // its first bytes, with the headers
};

class BufferImage : public ImageSource {
  public:
    explicit BufferImage(std::span<const char> bytes) : bytes_(bytes) {}
    uint64_t size() const override { return bytes_.size(); }
    SysResult<void> read(uint64_t offset, std::span<char> into) const override;

  private:
    std::span<const char> bytes_;
};

enum class Protocol { kPvh, kLinux64 };

// A part of the file that goes to memory; what memory_size is larger than file_size stays zero.
struct ImagePiece {
    uint64_t file_offset = 0;
    uint64_t file_size = 0;
    uint64_t address = 0;  // in the guest
    uint64_t memory_size = 0;
};

struct KernelImage {
    Protocol protocol = Protocol::kPvh;
    uint64_t entry = 0;
    std::vector<ImagePiece> pieces;  // in the order of their addresses, none over another
    std::vector<FilePart> data;      // of the pieces, what is not known to be zero; in the same order
    uint64_t end = 0;                // memory the kernel needs until it manages its own
    // bzImage: its setup header, bytes 0x1f1 on of the file, for the zero page.
    std::vector<char> setup_header;
    uint64_t initrd_max = 0xffffffff;  // highest address that an initrd may use
    uint64_t command_line_max = 2047;
};

Result<KernelImage> read_kernel(const ImageSource& source);

}  // namespace casemate::vmm
