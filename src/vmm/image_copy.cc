#include "vmm/image_copy.h"

#include <limits.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/checked.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr uint64_t kHugePage = 2 * kMiB;
// To look for a hole costs two system calls, to copy its zeros a few microseconds.
constexpr uint64_t kSmallHole = 256 << 10;

char zeros[64 << 10];  // never written: no memory behind it

}  // namespace

SysResult<void> for_each_data(int fd, const FilePart& part,
                              const std::function<SysResult<void>(const FilePart&)>& found) {
    if (part.holes == Holes::kNone) return found(part);
    uint64_t end = part.offset + part.size;
    uint64_t position = part.offset;
    while (position < end) {
        off_t data = ::lseek(fd, static_cast<off_t>(position), SEEK_DATA);
        if (data < 0 && errno == ENXIO) return {};  // nothing but a hole until the end
        uint64_t first = data < 0 ? position : static_cast<uint64_t>(data);
        if (first >= end) return {};
        uint64_t last = part.holes == Holes::kAtBeginning ? end : std::min(end, first + kSmallHole);
        if (last < end) {
            off_t hole = ::lseek(fd, static_cast<off_t>(last), SEEK_HOLE);
            last = hole < 0 ? end : std::clamp(static_cast<uint64_t>(hole), last, end);
        }
        TRY(found({first, last - first, part.address + (first - part.offset)}));
        position = last;
    }
    return {};
}

void HugePageWriter::append(const char* bytes, uint64_t size) {
    end_ += size;
    if (!pieces_.empty()) {
        iovec& before = pieces_.back();
        if (static_cast<const char*>(before.iov_base) + before.iov_len == bytes) {
            before.iov_len += size;
            return;
        }
    }
    pieces_.push_back({const_cast<char*>(bytes), size});
}

SysResult<void> HugePageWriter::add(const char* bytes, uint64_t size, uint64_t to) {
    constexpr size_t kMostPerPage = kHugePage / sizeof zeros + 2;  // that one piece may need
    while (size > 0) {
        uint64_t page = to / kHugePage;
        if (begin_ / kHugePage != page || pieces_.size() + kMostPerPage > IOV_MAX) TRY(flush());
        if (pieces_.empty()) begin_ = end_ = to;
        while (end_ < to) append(zeros, std::min<uint64_t>(to - end_, sizeof zeros));
        uint64_t part = std::min(size, (page + 1) * kHugePage - to);
        append(bytes, part);
        bytes += part;
        to += part;
        size -= part;
    }
    return {};
}

SysResult<void> HugePageWriter::flush() {
    std::span<iovec> left(pieces_);
    while (!left.empty()) {
        ssize_t written = ::pwritev(fd_, left.data(), static_cast<int>(left.size()), static_cast<off_t>(begin_));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return last_errno();
        if (written == 0) return Errno(EIO);
        begin_ += static_cast<uint64_t>(written);
        auto rest = static_cast<size_t>(written);
        while (!left.empty() && rest >= left.front().iov_len) {
            rest -= left.front().iov_len;
            left = left.subspan(1);
        }
        if (rest == 0) continue;
        left.front().iov_base = static_cast<char*>(left.front().iov_base) + rest;
        left.front().iov_len -= rest;
    }
    pieces_.clear();
    return {};
}

SysResult<UniqueMap> write_parts(int memory_file, int image, std::span<const FilePart> parts) {
    uint64_t first = UINT64_MAX, end = 0;
    for (const FilePart& part : parts) {
        first = std::min(first, page_down(part.offset));
        end = std::max(end, part.offset + part.size);
    }
    if (first >= end) return UniqueMap();
    UniqueMap map = TRY(UniqueMap::create(end - first, PROT_READ, MAP_PRIVATE, image, static_cast<off_t>(first)));
    HugePageWriter writer(memory_file);
    for (const FilePart& part : parts)
        TRY(for_each_data(image, part, [&](const FilePart& data) {
            return writer.add(map.data() + (data.offset - first), data.size, data.address);
        }));
    TRY(writer.flush());
    return map;
}

}  // namespace casemate::vmm
