#include "vmm/image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "vmm/image_formats.h"

namespace casemate::vmm {

namespace {
constexpr uint64_t kHeadSize = 4096;
}

SysResult<FileImage> FileImage::open(int fd) {
    struct stat st;
    if (::fstat(fd, &st) < 0) return last_errno();
    if (!S_ISREG(st.st_mode)) return Errno(EINVAL);
    FileImage image(fd, static_cast<uint64_t>(st.st_size));
    std::vector<char> head(std::min<uint64_t>(image.size_, kHeadSize));
    TRY(image.read(0, head));
    image.head_ = std::move(head);
    return image;
}

SysResult<void> FileImage::read(uint64_t offset, std::span<char> into) const {
    if (offset > size_ || into.size() > size_ - offset) return Errno(ENODATA);
    if (offset < head_.size() && into.size() <= head_.size() - offset) {
        std::copy_n(head_.begin() + static_cast<ptrdiff_t>(offset), into.size(), into.begin());
        return {};
    }
    size_t done = 0;
    while (done < into.size()) {
        ssize_t got = ::pread(fd_, into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return last_errno();
        if (got == 0) return Errno(ENODATA);
        done += static_cast<size_t>(got);
    }
    return {};
}

SysResult<void> BufferImage::read(uint64_t offset, std::span<char> into) const {
    if (offset > bytes_.size() || into.size() > bytes_.size() - offset) return Errno(ENODATA);
    if (into.empty()) return {};  // memcpy takes no null pointer, whatever the size
    std::memcpy(into.data(), bytes_.data() + offset, into.size());
    return {};
}

Result<KernelImage> read_kernel(const ImageSource& source) {
    char magic[4];
    if (source.size() == 0) return Error("the kernel image is empty", ENOEXEC);
    if (!source.read(0, magic).ok()) return Error("the kernel image is too short to be one", ENOEXEC);
    if (std::memcmp(magic, "\177ELF", 4) == 0) return read_elf(source);
    return read_bzimage(source);
}

}  // namespace casemate::vmm
