// Writes parts of an image into the guest's memory file by write(2), a huge page at a time. Through a mapping the host
// would first zero each page that is then overwritten as a whole: for a kernel image as much work again as the copy.
// (Hosts before Linux 6.10 write 4 KiB at a time and zero the rest of a fresh huge page: as through a mapping.)
//
// The image is read through a mapping that only the host's kernel looks at: a file that is cut meanwhile is an error of
// the call and no signal.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/unique_map.h"

namespace casemate::vmm {

// Where a part's file may have holes, as far as it is worth to ask: to look for the end of data costs the host a step
// for each of its pages.
enum class Holes { kAnywhere, kAtBeginning, kNone };

// `size` bytes of a file at `offset`, to go to `address`.
struct FilePart {
    uint64_t offset = 0;
    uint64_t size = 0;
    uint64_t address = 0;
    Holes holes = Holes::kAnywhere;
};

// Calls `found` for the pieces of the part that have data, in order. What lies between is zero: a third of a Linux
// kernel, if its file is sparse. Small holes are taken for data, and those that part.holes does not speak of.
SysResult<void> for_each_data(int fd, const FilePart& part,
                              const std::function<SysResult<void>(const FilePart&)>& found);

// Gathers what is to be written into one huge page of a file and writes it at once.
class HugePageWriter {
  public:
    explicit HugePageWriter(int fd) : fd_(fd) {}

    // `to`, an offset of the file, grows from call to call. What lies between two pieces in a huge page becomes zero.
    // The bytes are read by flush(), or when the next huge page begins.
    SysResult<void> add(const char* bytes, uint64_t size, uint64_t to);
    SysResult<void> flush();

  private:
    void append(const char* bytes, uint64_t size);

    int fd_;
    uint64_t begin_ = 0, end_ = 0;  // of the file, what pieces_ hold
    std::vector<iovec> pieces_;
};

// Parts of `image` into `memory_file`, where addresses are offsets; in their order, none over another. Returns the
// mapping of the image, of no use any more: to take it down costs a fifth of the copy, and may wait.
SysResult<UniqueMap> write_parts(int memory_file, int image, std::span<const FilePart> parts);

}  // namespace casemate::vmm
