// DirectoryFile: the base of open directories: position, "." and "..", seeking. A file system only lists.
#pragma once

#include "sentry/vfs/file.h"

namespace casemate::sentry {

class DirectoryFile : public File {
  public:
    DirectoryFile(Path path, int flags) : File(std::move(path), flags) {}

    SysResult<void> read_directory(Task& task, const EmitEntry& emit) override;
    SysResult<int64_t> seek(Task& task, int64_t offset, int whence) override;
    SysResult<void> sync(Task&, bool) override { return {}; }

  protected:
    // Entries whose cookie is greater than `after` (0: from the first), in order of cookies, which are positive and
    // stable while the directory is open. Stops when `emit` returns false. Under position_mutex_.
    virtual SysResult<void> list(Task& task, int64_t after, const EmitEntry& emit) = 0;
    // lseek to the beginning: what was remembered of the content is to be read again.
    virtual void rewound() {}
    SysResult<size_t> read_at(Task&, IoBuffer&, int64_t) override { return Errno(EISDIR); }

  private:
    // Positions: 0 before ".", 1 before "..", 2 + cookie behind the entry of that cookie (2: before the first).
    static constexpr int64_t kFirst = 2;
};

// Lists a fixed Listing with the index as cookie.
SysResult<void> list_entries(const Listing& listing, int64_t after, const EmitEntry& emit);

}  // namespace casemate::sentry
