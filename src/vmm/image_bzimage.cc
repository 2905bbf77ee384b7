#include <asm/bootparam.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/checked.h"
#include "vmm/image_formats.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr uint64_t kHeaderOffset = offsetof(boot_params, hdr);  // 0x1f1, the same in the file
constexpr uint32_t kMagic = 0x53726448;                         // HdrS
constexpr uint64_t kSector = 512;
constexpr uint16_t kOldest = 0x020c;  // Linux 3.8: xloadflags
constexpr uint64_t kEntry64 = 0x200;  // behind the load address

Error bad(std::string_view what) {
    return Error(fmt::format("the kernel image is neither an ELF file nor a bzImage: {}", what), ENOEXEC);
}

}  // namespace

Result<KernelImage> read_bzimage(const ImageSource& source) {
    setup_header header;
    if (!source.read(kHeaderOffset, {reinterpret_cast<char*>(&header), sizeof header}).ok())
        return bad("it is too short");
    if (header.boot_flag != 0xaa55 || header.header != kMagic) return bad("it has no boot header");
    if (header.version < kOldest)
        return bad(
            fmt::format("its boot protocol {}.{} is older than 2.12", header.version >> 8, header.version & 0xff));
    if ((header.loadflags & LOADED_HIGH) == 0 || (header.xloadflags & XLF_KERNEL_64) == 0)
        return bad("it has no 64-bit entry");
    uint64_t sectors = header.setup_sects != 0 ? header.setup_sects : 4;
    uint64_t offset = (sectors + 1) * kSector;
    if (offset >= source.size()) return bad("it ends before the kernel (is it truncated?)");
    uint64_t size = source.size() - offset;
    uint64_t claimed = uint64_t{header.syssize} * 16;
    if (claimed > size) return bad(fmt::format("{} of its {} bytes are missing", claimed - size, claimed));

    KernelImage image;
    image.protocol = Protocol::kLinux64;
    uint64_t address = header.pref_address;
    if (address < kHighMemory || address % kPageSize != 0 || address > kMaxMemory)
        return bad(fmt::format("it wants to lie at {:#x}", address));
    uint64_t needed = std::max<uint64_t>(header.init_size, size);
    image.pieces.push_back({offset, size, address, needed});
    image.data.push_back({offset, size, address, Holes::kNone});  // it is compressed
    image.end = address + needed;
    image.entry = address + kEntry64;
    if (size <= kEntry64) return bad("it has no code");
    image.initrd_max = header.initrd_addr_max;
    image.command_line_max = header.cmdline_size;
    // The header may be longer than the one known here; its second byte of the jump says where it ends.
    uint64_t end = 0x202 + uint64_t{static_cast<uint8_t>(header.jump >> 8)};
    uint64_t length = std::min<uint64_t>(end > kHeaderOffset ? end - kHeaderOffset : 0, sizeof header);
    image.setup_header.assign(reinterpret_cast<const char*>(&header), reinterpret_cast<const char*>(&header) + length);
    if (length < offsetof(setup_header, init_size) + sizeof header.init_size)
        return bad("its boot header is too short");
    return image;
}

}  // namespace casemate::vmm
