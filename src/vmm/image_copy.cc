#include "vmm/image_copy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "base/checked.h"
#include "vmm/layout.h"

namespace casemate::vmm {

namespace {

constexpr uint64_t kHugePage = 2 * kMiB;
// To look for a hole costs two system calls, to copy its zeros a few microseconds.
constexpr uint64_t kSmallHole = 256 << 10;
constexpr uint64_t kSmallRest = 256 << 10;
// In order of preference; the last is what everybody may.
constexpr int kPipeSizes[] = {8 << 20, 1 << 20};

// Gathers in the pipe what follows one another in memory, and writes it when that ends or the pipe is full.
class Splicer {
  public:
    Splicer(int memory, int image, const linux::Pipe& pipe, uint64_t capacity)
        : memory_(memory), image_(image), pipe_(pipe), capacity_(capacity) {}

    SysResult<void> add(FilePart piece) {
        while (piece.size > 0) {
            if (piece.address != begin_ + held_ || room() == 0) TRY(drain());
            if (held_ == 0) begin_ = piece.address;
            auto from = static_cast<off64_t>(piece.offset);
            // Does not wait: pieces that begin within a page of the file fill the pipe earlier than their bytes tell.
            ssize_t moved = ::splice(image_, &from, pipe_.write_end.get(), nullptr, std::min(piece.size, room()),
                                     SPLICE_F_NONBLOCK);
            if (moved < 0 && errno == EINTR) continue;
            if (moved < 0 && errno == EAGAIN && held_ > 0) {
                TRY(drain());
                continue;
            }
            if (moved < 0) return last_errno();
            if (moved == 0) return Errno(ENODATA);
            auto bytes = static_cast<uint64_t>(moved);
            held_ += bytes;
            piece.offset += bytes;
            piece.address += bytes;
            piece.size -= bytes;
        }
        return {};
    }

    SysResult<void> drain() {
        while (held_ > 0) {
            auto to = static_cast<off64_t>(begin_);
            ssize_t moved = ::splice(pipe_.read_end.get(), nullptr, memory_, &to, held_, 0);
            if (moved < 0 && errno == EINTR) continue;
            if (moved < 0) return last_errno();
            if (moved == 0) return Errno(EIO);
            begin_ += static_cast<uint64_t>(moved);
            held_ -= static_cast<uint64_t>(moved);
        }
        return {};
    }

  private:
    // Huge pages are written as a whole if the pipe is large enough for that.
    uint64_t room() const {
        uint64_t end = begin_ + capacity_;
        if (capacity_ >= kHugePage) end -= end % kHugePage;
        return end - (begin_ + held_);
    }

    int memory_, image_;
    const linux::Pipe& pipe_;
    uint64_t capacity_;
    uint64_t begin_ = 0, held_ = 0;  // of the memory, what the pipe holds
};

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
        TRY(found({first, last - first, part.address + (first - part.offset), Holes::kNone}));
        position = last;
    }
    return {};
}

SysResult<linux::Pipe> create_image_pipe() {
    linux::Pipe pipe = TRY(linux::create_pipe());
    for (int size : kPipeSizes)
        if (::fcntl(pipe.write_end.get(), F_SETPIPE_SZ, size) >= 0) break;
    return pipe;
}

std::vector<FilePart> take_small_rests(std::vector<FilePart>& pieces) {
    std::vector<FilePart> rests;
    uint64_t next_page = UINT64_MAX;  // the first with something behind the piece
    for (size_t i = pieces.size(); i-- > 0;) {
        FilePart& piece = pieces[i];
        uint64_t end = piece.address + piece.size;
        uint64_t rest = std::min(end % kHugePage, piece.size);
        uint64_t page = (end - rest) / kHugePage;
        bool first = rest < piece.size || i == 0 || (pieces[i - 1].address + pieces[i - 1].size - 1) / kHugePage < page;
        bool alone = first && page < next_page;
        next_page = piece.address / kHugePage;
        if (rest == 0 || rest > kSmallRest || !alone) continue;
        piece.size -= rest;
        rests.push_back({piece.offset + piece.size, rest, end - rest, Holes::kNone});
    }
    std::erase_if(pieces, [](const FilePart& piece) { return piece.size == 0; });
    return rests;
}

SysResult<void> write_pieces(int memory_file, int image, std::span<const FilePart> pieces, const linux::Pipe& pipe) {
    int capacity = ::fcntl(pipe.write_end.get(), F_GETPIPE_SZ);
    if (capacity < 0) return last_errno();
    Splicer splicer(memory_file, image, pipe, static_cast<uint64_t>(capacity));
    for (const FilePart& piece : pieces) TRY(splicer.add(piece));
    return splicer.drain();
}

}  // namespace casemate::vmm
