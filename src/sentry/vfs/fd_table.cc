#include "sentry/vfs/fd_table.h"

#include <fcntl.h>

#include <algorithm>

namespace casemate::sentry {

SysResult<Ref<File>> FdTable::get(int fd, bool allow_path) {
    std::lock_guard lock(mutex_);
    if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
    const Ref<File>& file = entries_[fd].file;
    if (!allow_path && (file->flags() & O_PATH)) return Errno(EBADF);
    return file;
}

SysResult<FdTable::Entry> FdTable::get_entry(int fd) {
    std::lock_guard lock(mutex_);
    if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
    return entries_[fd];
}

SysResult<int> FdTable::insert(Ref<File> file, bool close_on_exec, uint64_t limit, int least) {
    std::lock_guard lock(mutex_);
    size_t slot = std::max(first_free_, static_cast<size_t>(least));
    while (slot < entries_.size() && entries_[slot].file) ++slot;
    if (slot >= limit || slot >= kMaxDescriptors) return Errno(EMFILE);
    if (slot >= entries_.size()) entries_.resize(slot + 1);
    entries_[slot] = Entry{std::move(file), close_on_exec};
    if (static_cast<size_t>(least) <= first_free_) first_free_ = slot + 1;
    return static_cast<int>(slot);
}

// Before a descriptor means something else.
void FdTable::tell_change(const Ref<File>& file) {
    if (!file) return;
    if (WaitQueue* queue = file->waiters()) queue->notify(kDescriptorChanged, 0);
}

SysResult<Ref<File>> FdTable::replace(int fd, Ref<File> file, bool close_on_exec, uint64_t limit) {
    if (fd < 0 || static_cast<uint64_t>(fd) >= limit || static_cast<size_t>(fd) >= kMaxDescriptors) return Errno(EBADF);
    std::lock_guard lock(mutex_);
    if (static_cast<size_t>(fd) >= entries_.size()) entries_.resize(static_cast<size_t>(fd) + 1);
    tell_change(entries_[fd].file);
    Ref<File> old = std::move(entries_[fd].file);
    entries_[fd] = Entry{std::move(file), close_on_exec};
    return old;
}

SysResult<void> FdTable::set_close_on_exec(int fd, bool close_on_exec) {
    std::lock_guard lock(mutex_);
    if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
    entries_[fd].close_on_exec = close_on_exec;
    return {};
}

SysResult<Ref<File>> FdTable::remove(int fd) {
    std::lock_guard lock(mutex_);
    if (fd < 0 || static_cast<size_t>(fd) >= entries_.size() || !entries_[fd].file) return Errno(EBADF);
    tell_change(entries_[fd].file);
    Ref<File> file = std::move(entries_[fd].file);
    entries_[fd] = Entry{};
    first_free_ = std::min(first_free_, static_cast<size_t>(fd));
    return file;
}

Ref<FdTable> FdTable::clone() {
    auto copy = make_ref<FdTable>();
    std::lock_guard lock(mutex_);
    copy->entries_ = entries_;
    copy->first_free_ = first_free_;
    return copy;
}

std::vector<Ref<File>> FdTable::remove_close_on_exec() {
    std::vector<Ref<File>> gone;
    std::lock_guard lock(mutex_);
    for (size_t fd = 0; fd < entries_.size(); ++fd) {
        if (!entries_[fd].file || !entries_[fd].close_on_exec) continue;
        tell_change(entries_[fd].file);
        gone.push_back(std::move(entries_[fd].file));
        entries_[fd] = Entry{};
        first_free_ = std::min(first_free_, fd);
    }
    return gone;
}

std::vector<Ref<File>> FdTable::remove_range(uint32_t first, uint32_t last) {
    std::vector<Ref<File>> gone;
    std::lock_guard lock(mutex_);
    for (size_t fd = first; fd < entries_.size() && fd <= last; ++fd) {
        if (!entries_[fd].file) continue;
        tell_change(entries_[fd].file);
        gone.push_back(std::move(entries_[fd].file));
        entries_[fd] = Entry{};
        first_free_ = std::min(first_free_, fd);
    }
    return gone;
}

void FdTable::mark_close_on_exec(uint32_t first, uint32_t last) {
    std::lock_guard lock(mutex_);
    for (size_t fd = first; fd < entries_.size() && fd <= last; ++fd)
        if (entries_[fd].file) entries_[fd].close_on_exec = true;
}

std::vector<int> FdTable::open_fds() {
    std::vector<int> fds;
    std::lock_guard lock(mutex_);
    for (size_t fd = 0; fd < entries_.size(); ++fd)
        if (entries_[fd].file) fds.push_back(static_cast<int>(fd));
    return fds;
}

}  // namespace casemate::sentry
