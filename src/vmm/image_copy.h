// Moves parts of an image into the guest's memory file without looking at them: splice(2) puts the pages of the image
// into a pipe, and writes them from there, some huge pages of the memory at once. Through a mapping of the memory the
// host would first zero each page that is then overwritten as a whole: for a kernel image as much work again as the
// copy. Through a mapping of the image it would fill and empty page tables, which costs half as much again.
// (Hosts before Linux 6.10 write 4 KiB at a time and zero the rest of a fresh huge page: as through a mapping.)
//
// A file that is cut meanwhile is an error of the call.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/result.h"
#include "linux/event_fds.h"

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

// A pipe as large as this process may make it. With CAP_SYS_RESOURCE it holds several huge pages; the 1 MiB of others
// (fs.pipe-max-size) do as well, but half of each huge page is then zeroed before it is written.
SysResult<linux::Pipe> create_image_pipe();

// Takes out of `pieces` what is the only one in a huge page of the memory and little, like the end of a section. The
// host zeroes the rest of a page that is written in part at a higher price than a page that is touched.
std::vector<FilePart> take_small_rests(std::vector<FilePart>& pieces);

// Pieces of `image` into `memory_file`, where addresses are offsets; in their order, none over another. The pipe is
// empty before and, unless this fails, after. ENODATA if the image ends before, EINVAL if it is of a file system that
// knows no splice(2).
SysResult<void> write_pieces(int memory_file, int image, std::span<const FilePart> pieces, const linux::Pipe& pipe);

}  // namespace casemate::vmm
