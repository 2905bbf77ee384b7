#include "sentry/vfs/directory_file.h"

#include <dirent.h>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

SysResult<void> DirectoryFile::read_directory(Task& task, const EmitEntry& emit) {
    std::lock_guard lock(position_mutex_);
    const Ref<Dentry>& dentry = path().dentry;
    if (dentry->unlinked() && !dentry->is_root() && dentry->parent() != dentry) return Errno(ENOENT);
    auto number = [](Dentry& of) -> uint64_t {
        struct stat info;
        Inode* inode = of.inode_or_null();
        return inode != nullptr && inode->stat(info).ok() ? info.st_ino : 1;
    };
    if (position_ == 0) {
        if (!emit(DirectoryEntry{".", number(*dentry), DT_DIR, 1})) return {};
        position_ = 1;
    }
    if (position_ == 1) {
        if (!emit(DirectoryEntry{"..", number(*dentry->parent()), DT_DIR, kFirst})) return {};
        position_ = kFirst;
    }
    return list(task, position_ - kFirst, [&](const DirectoryEntry& entry) {
        DirectoryEntry shown = entry;
        shown.cookie = entry.cookie + kFirst;
        if (!emit(shown)) return false;
        position_ = shown.cookie;
        return true;
    });
}

SysResult<int64_t> DirectoryFile::seek(Task&, int64_t offset, int whence) {
    if (whence != SEEK_SET && whence != SEEK_CUR) return Errno(EINVAL);
    int64_t now = TRY(seek_within(offset, whence, 0));
    std::lock_guard lock(position_mutex_);
    if (now == 0) rewound();
    return now;
}

SysResult<void> list_entries(const Listing& listing, int64_t after, const EmitEntry& emit) {
    for (size_t i = after < 0 ? 0 : static_cast<size_t>(after); i < listing.entries.size(); ++i) {
        const Listing::Entry& entry = listing.entries[i];
        if (!emit(DirectoryEntry{entry.name, entry.inode, entry.type, static_cast<int64_t>(i) + 1})) break;
    }
    return {};
}

}  // namespace casemate::sentry
