// Whole files: read with a limit, written at once or atomically; and locks on them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

// The whole file (also of /proc and cgroupfs, whose size reads as 0). EFBIG past `limit` bytes.
SysResult<std::string> read_file(const std::string& path, size_t limit = 1 << 20);
SysResult<std::string> read_file_at(int dir_fd, const std::string& path, size_t limit = 1 << 20);
SysResult<std::string> read_fd(int fd, size_t limit = 1 << 20);

// Writes everything, however many write(2) it takes.
SysResult<void> write_all(int fd, std::string_view bytes);
// One open and one write(2) into a file that exists: what /proc, /sys and cgroupfs want.
SysResult<void> write_existing(const std::string& path, std::string_view bytes);
SysResult<void> write_existing_at(int dir_fd, const std::string& path, std::string_view bytes);

enum class Durability { kNone, kSynced };
// Readers see the old or the new content, never a mixture: a temporary file in the same directory, then rename.
// kSynced also survives a power cut.
SysResult<void> write_file_atomic(const std::string& path, std::string_view bytes, mode_t mode,
                                  Durability durability = Durability::kNone);

// An exclusive flock(2) on a file, for as long as this lives. The file is created if missing and never removed.
class FileLock {
  public:
    // Waits for the lock, or fails with EWOULDBLOCK if `wait` is false.
    static SysResult<FileLock> acquire(const std::string& path, bool wait, mode_t mode = 0600);
    // Locks an open file or directory; the lock lives in the open file description.
    static SysResult<FileLock> acquire(UniqueFd fd, bool wait);
    int fd() const { return fd_.get(); }

  private:
    explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace casemate::linux
