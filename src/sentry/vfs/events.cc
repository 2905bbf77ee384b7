#include "sentry/vfs/events.h"

#include <sys/inotify.h>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

InodeWatches* Inode::install_watches(std::unique_ptr<InodeWatches> fresh) {
    InodeWatches* known = nullptr;
    if (watches_.compare_exchange_strong(known, fresh.get(), std::memory_order_acq_rel)) return fresh.release();
    return known;
}

void Inode::drop_watches() { delete watches_.load(std::memory_order_acquire); }

void notify_inode(Inode& inode, uint32_t mask) {
    if (inode.file_system().watch_count.load(std::memory_order_relaxed) == 0) return;
    if (InodeWatches* watches = inode.watches())
        watches->happened(mask | (S_ISDIR(inode.mode()) ? IN_ISDIR : 0), 0, {});
}

void notify_name(Inode& directory, std::string_view name, uint32_t mask, uint32_t cookie) {
    if (directory.file_system().watch_count.load(std::memory_order_relaxed) == 0) return;
    if (InodeWatches* watches = directory.watches()) watches->happened(mask, cookie, name);
}

void notify_dentry(Dentry& dentry, uint32_t mask) {
    Inode* inode = dentry.inode_or_null();
    if (inode == nullptr || inode->file_system().watch_count.load(std::memory_order_relaxed) == 0) return;
    if (S_ISDIR(inode->mode())) mask |= IN_ISDIR;
    if (InodeWatches* watches = inode->watches()) watches->happened(mask, 0, {});
    if (dentry.unlinked() || dentry.is_root()) return;
    Ref<Dentry> parent = dentry.parent();
    Inode* directory = parent->inode_or_null();
    if (directory == nullptr) return;
    if (InodeWatches* watches = directory->watches()) watches->happened(mask, 0, dentry.name());
}

void notify_file(File& file, uint32_t mask) {
    if (file.path()) notify_dentry(*file.path().dentry, mask);
}

uint32_t next_move_cookie() {
    static std::atomic<uint32_t> last{0};
    return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace casemate::sentry
