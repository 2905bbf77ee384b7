#include "vmm/memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/checked.h"
#include "linux/event_fds.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr uint64_t kHugePage = 2 * kMiB;

// Maps `size` bytes of `fd` at an address that huge pages can use.
Result<UniqueMap> map_aligned(int fd, uint64_t offset, uint64_t size, int flags) {
    // Recent kernels give such an address unasked.
    auto plain = UniqueMap::create(size, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
    if (!plain.ok())
        return sys_error("map " + std::to_string(size / kMiB) + " MiB of memory for the guest", plain.error().value);
    if (reinterpret_cast<uintptr_t>(plain->data()) % kHugePage == 0) return plain.take_value();
    *plain = UniqueMap();
    auto reserved = UniqueMap::create(size + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    if (!reserved.ok()) return sys_error("reserve addresses for the guest's memory", reserved.error().value);
    char* begin = reserved->data();
    size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
    void* at = ::mmap(begin + before, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, static_cast<off_t>(offset));
    if (at == MAP_FAILED) return sys_error("map " + std::to_string(size / kMiB) + " MiB of memory for the guest");
    (void)reserved->release();
    if (before > 0) ::munmap(begin, before);
    if (before < kHugePage) ::munmap(begin + before + size, kHugePage - before);
    return UniqueMap(at, size);
}

Result<UniqueFd> open_file(MemoryOptions& options) {
    if (options.file) return std::move(options.file);
    unsigned flags = options.huge_pages == HugePages::kReserved ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
    auto made = linux::create_memfd("guest-memory", flags);
    if (!made.ok()) return sys_error("make a file for the guest's memory", made.error().value);
    return made.take_value();
}

}  // namespace

Result<Memory> Memory::create(MemoryOptions options) {
    if (options.size < kMinMemory || options.size > kMaxMemory || options.size % kMiB != 0)
        return Error(
            "a guest has 16 MiB to 1 TiB of memory, in whole MiB; not " + std::to_string(options.size) + " bytes",
            EINVAL);
    bool reserved = options.huge_pages == HugePages::kReserved;
    if (reserved && options.size % kHugePage != 0)
        return Error("memory in reserved huge pages is a multiple of 2 MiB", EINVAL);
    Memory memory;
    memory.size_ = options.size;
    memory.private_ = options.private_copy;
    // Pages of 4 KiB cannot replace a part of a huge one.
    memory.may_map_ = options.map_images && !reserved;
    memory.may_write_ = !reserved && !options.private_copy;
    memory.image_pipe_ = std::move(options.image_pipe);
    memory.file_ = TRY(open_file(options));
    if (options.private_copy) {
        struct stat st;
        if (::fstat(memory.file_.get(), &st) < 0) return sys_error("stat of the guest's memory file");
        if (static_cast<uint64_t>(st.st_size) < options.size)
            return Error("the snapshot's memory file is shorter than the guest's memory: it is not whole", EINVAL);
    } else if (::ftruncate(memory.file_.get(), static_cast<off_t>(options.size)) < 0) {
        return sys_error("give the guest's memory file its size");
    }

    auto event = linux::create_eventfd();
    if (!event.ok()) return sys_error("eventfd of the guest's memory", event.error().value);
    memory.lost_event_ = event.take_value();

    // An unwritten page of a private mapping has not been promised by anybody: no reserve, or large guests never start.
    int flags = options.private_copy ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED | (reserved ? 0 : MAP_NORESERVE);
    uint64_t low = std::min(options.size, kHole);
    auto add = [&](uint64_t address, uint64_t size, uint64_t offset) -> Result<void> {
        UniqueMap map = TRY(map_aligned(memory.file_.get(), offset, size, flags));
        if (options.huge_pages == HugePages::kTransparent) {
            // Advice: a kernel without them is fine. The guest's kernel lets the first 2 MiB lie but for its boot
            // tables, so they get no huge page: it would cost its zeroing, and its memory.
            uint64_t small = address == 0 && !options.private_copy ? kSmallPagesEnd : 0;
            if (small > 0) (void)::madvise(map.data(), small, MADV_NOHUGEPAGE);
            (void)::madvise(map.data() + small, size - small, MADV_HUGEPAGE);
        } else if (options.huge_pages == HugePages::kNone) {
            (void)::madvise(map.data(), size, MADV_NOHUGEPAGE);
        }
        // Guest memory is of no use in a core dump, and a secret of the pod.
        (void)::madvise(map.data(), size, MADV_DONTDUMP);
        if (options.preallocate && ::madvise(map.data(), size, MADV_POPULATE_WRITE) < 0)
            return sys_error("the host has no " + std::to_string(options.size / kMiB) + " MiB of memory for the guest");
        memory.guards_.push_back(
            TRY(MemoryGuard::create(map.data(), size, reserved ? kHugePage : kPageSize, memory.lost_event_.get())));
        memory.regions_.push_back({address, size, map.data(), offset});
        memory.maps_.push_back(std::move(map));
        return {};
    };
    TRY(add(0, low, 0));
    if (options.size > low) TRY(add(kAfterHole, options.size - low, low));
    return memory;
}

bool Memory::lost() const {
    pollfd poll = {lost_event_.get(), POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1;
}

bool Memory::cut() const {
    auto gone = [](char* end) {
        return ::madvise(end - kPageSize, kPageSize, MADV_POPULATE_READ) < 0 && (errno == EFAULT || errno == ENOMEM);
    };
    for (const MemoryRegion& region : regions_)
        if (gone(region.host + region.size)) return true;
    for (const Mapped& mapped : mapped_)
        if (gone(at(mapped.guest_address, mapped.size) + mapped.size)) return true;
    return false;
}

char* Memory::at(uint64_t address, uint64_t size) const {
    for (const MemoryRegion& region : regions_) {
        if (address < region.guest_address) continue;
        uint64_t offset = address - region.guest_address;
        if (offset < region.size && size <= region.size - offset) return region.host + offset;
    }
    return nullptr;
}

SysResult<void> Memory::write(uint64_t address, std::string_view bytes) const {
    char* to = at(address, bytes.size());
    if (to == nullptr) return Errno(EFAULT);
    std::memcpy(to, bytes.data(), bytes.size());
    return {};
}

SysResult<void> Memory::copy(int fd, const FilePart& part) {
    return for_each_data(fd, part, [&](FilePart data) -> SysResult<void> {
        char* to = at(data.address, data.size);
        while (data.size > 0) {
            ssize_t read = ::pread(fd, to, data.size, static_cast<off_t>(data.offset));
            if (read < 0 && errno == EINTR) continue;
            if (read < 0) return last_errno();
            if (read == 0) return Errno(ENODATA);
            to += read;
            data.offset += static_cast<uint64_t>(read);
            data.size -= static_cast<uint64_t>(read);
        }
        return {};
    });
}

SysResult<void> Memory::map(int fd, const FilePart& part) {
    uint64_t first = page_up(part.address);
    uint64_t end = page_down(part.address + part.size);
    if (part.offset % kPageSize != part.address % kPageSize || end <= first) return copy(fd, part);
    uint64_t before = first - part.address;
    if (before > 0) TRY(copy(fd, {part.offset, before, part.address, part.holes}));
    // SAFETY: [first, end) is whole pages inside one of our own mappings, which nobody has pointers into yet.
    char* to = at(first, end - first);
    if (::mmap(to, end - first, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
               static_cast<off_t>(part.offset + before)) == MAP_FAILED)
        return last_errno();
    (void)::madvise(to, end - first, MADV_DONTDUMP);
    mapped_.push_back({first, end - first});
    return copy(fd, {part.offset + (end - part.address), part.address + part.size - end, end, part.holes});
}

SysResult<void> Memory::write_parts(int fd, std::span<const FilePart> parts) {
    if (parts.empty()) return {};
    std::vector<FilePart> pieces;
    for (const FilePart& part : parts)
        TRY(for_each_data(fd, part, [&](const FilePart& data) -> SysResult<void> {
            pieces.push_back(data);
            return {};
        }));
    for (const FilePart& rest : take_small_rests(pieces)) TRY(copy(fd, rest));
    if (!image_pipe_.write_end) image_pipe_ = TRY(create_image_pipe());
    std::vector<FilePart> in_file = pieces;
    for (FilePart& piece : in_file) piece.address = file_offset(piece.address);
    auto written = write_pieces(file_.get(), fd, in_file, image_pipe_);
    if (written.ok() || written.error().value != EINVAL) return written;
    for (const FilePart& piece : pieces) TRY(copy(fd, piece));  // a file that cannot be spliced from
    return {};
}

SysResult<void> Memory::load(int fd, std::span<const FilePart> parts) {
    // Who copies finds the end of a file itself; a mapping reaches beyond it.
    uint64_t file_size = UINT64_MAX;
    if (may_map_) {
        struct stat st;
        if (::fstat(fd, &st) < 0) return last_errno();
        file_size = static_cast<uint64_t>(st.st_size);
    }
    std::vector<FilePart> to_write;
    uint64_t whole = 0;
    for (const FilePart& part : parts) whole += part.size;
    bool write = may_write_ && whole >= kHugePage / 2;  // for less it is not worth the calls
    for (const FilePart& part : parts) {
        auto file_end = checked_add(part.offset, part.size);
        if (!file_end || at(part.address, part.size) == nullptr) return Errno(EFAULT);
        if (file_size < *file_end) return Errno(ENODATA);
        if (part.size == 0) continue;
        if (may_map_) {
            TRY(map(fd, part));
        } else if (!write) {
            TRY(copy(fd, part));
        } else {
            to_write.push_back(part);
        }
    }
    return write_parts(fd, to_write);
}

uint64_t Memory::file_offset(uint64_t address) const {
    for (const MemoryRegion& region : regions_)
        if (address >= region.guest_address && address - region.guest_address < region.size)
            return region.file_offset + (address - region.guest_address);
    return 0;
}

}  // namespace casemate::vmm
