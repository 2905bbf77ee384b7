// FdTable: descriptors of a process (what CLONE_FILES shares).
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class FdTable final : public RefCounted {
  public:
    struct Entry {
        Ref<File> file;
        bool close_on_exec = false;
    };

    // The open file of `fd`; EBADF. O_PATH files only with `allow_path`.
    SysResult<Ref<File>> get(int fd, bool allow_path = false);
    SysResult<Entry> get_entry(int fd);
    // The lowest free descriptor from `least` on; EMFILE at `limit` (RLIMIT_NOFILE).
    SysResult<int> insert(Ref<File> file, bool close_on_exec, uint64_t limit, int least = 0);
    // dup2/dup3: at exactly `fd`; the file that was there is returned for closing.
    SysResult<Ref<File>> replace(int fd, Ref<File> file, bool close_on_exec, uint64_t limit);
    SysResult<void> set_close_on_exec(int fd, bool close_on_exec);
    // close(2). The caller calls descriptor_closed() and drops the Ref outside of all locks.
    SysResult<Ref<File>> remove(int fd);

    Ref<FdTable> clone();                                                // fork
    std::vector<Ref<File>> remove_close_on_exec();                       // exec
    std::vector<Ref<File>> remove_range(uint32_t first, uint32_t last);  // close_range, exit
    void mark_close_on_exec(uint32_t first, uint32_t last);
    std::vector<int> open_fds();

  private:
    static constexpr size_t kMaxDescriptors = 1 << 20;  // fs.nr_open
    static void tell_change(const Ref<File>& file);

    std::mutex mutex_;
    std::vector<Entry> entries_;  // guarded by mutex_
    size_t first_free_ = 0;       // no free slot below; guarded by mutex_
};

}  // namespace casemate::sentry
