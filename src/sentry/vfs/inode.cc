#include "sentry/vfs/inode.h"

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/locks.h"

namespace casemate::sentry {

namespace {

constexpr size_t kDentriesKept = 16384;

uint64_t next_device_number() {
    // Anonymous block devices as Linux numbers them: major 0, minors from 1 on in the 64-bit encoding of st_dev.
    static std::atomic<uint64_t> last{0};
    uint64_t minor = last.fetch_add(1, std::memory_order_relaxed) + 20;
    return (minor & 0xff) | (minor & ~uint64_t{0xff}) << 12;
}

}  // namespace

FileSystem::FileSystem() : device_(next_device_number()), dentry_cache_(new DentryCache(kDentriesKept)) {}
FileSystem::~FileSystem() = default;

SysResult<void> FileSystem::reconfigure(std::string_view options) {
    if (options.empty()) return {};
    return Errno(EINVAL);
}

SysResult<Ref<Dentry>> FileSystem::root_dentry() {
    std::lock_guard lock(root_mutex_);
    if (!root_dentry_) root_dentry_ = Dentry::create_root(TRY(root()));
    return root_dentry_;
}

void FileSystem::mount_removed() {
    if (mounts_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    Ref<FileSystem> self(this);  // the dentries' inodes may hold the last references
    dentry_cache_->clear();
    drop_caches();
    Ref<Dentry> root;
    {
        std::lock_guard lock(root_mutex_);
        root = std::move(root_dentry_);
    }
}

Inode::Inode(Ref<FileSystem> file_system) : file_system_(std::move(file_system)) {}
Inode::~Inode() {
    delete locks_.load(std::memory_order_acquire);
    drop_watches();
}

WriteHold WriteHold::to_write(Inode& inode) {
    WriteHold hold;
    int32_t writers = inode.writers_.load(std::memory_order_relaxed);
    while (writers >= 0) {
        if (!inode.writers_.compare_exchange_weak(writers, writers + 1)) continue;
        hold.inode_ = &inode;
        hold.writes_ = true;
        break;
    }
    return hold;
}

WriteHold WriteHold::to_execute(Inode& inode) {
    WriteHold hold;
    int32_t writers = inode.writers_.load(std::memory_order_relaxed);
    while (writers <= 0) {
        if (!inode.writers_.compare_exchange_weak(writers, writers - 1)) continue;
        hold.inode_ = &inode;
        hold.writes_ = false;
        break;
    }
    return hold;
}

void WriteHold::release() {
    if (Inode* inode = std::exchange(inode_, nullptr)) inode->writers_.fetch_add(writes_ ? -1 : 1);
}

SysResult<void> Inode::change(const AttributeChange&) { return Errno(EPERM); }
SysResult<Ref<Inode>> Inode::lookup(std::string_view) { return Errno(ENOTDIR); }
bool Inode::revalidate_child(std::string_view, Inode*) { return false; }
void Inode::prefetch(std::string_view, bool) {}
SysResult<std::shared_ptr<const Listing>> Inode::listing() { return Errno(ENOTDIR); }
SysResult<Ref<Inode>> Inode::create(std::string_view, const NewInode&) { return Errno(EPERM); }
SysResult<void> Inode::link(std::string_view, Inode&) { return Errno(EPERM); }
SysResult<void> Inode::unlink(std::string_view, Inode&) { return Errno(EPERM); }
SysResult<void> Inode::remove_directory(std::string_view, Inode&) { return Errno(EPERM); }
SysResult<void> Inode::rename(std::string_view, Inode&, Inode&, std::string_view, Inode*, uint32_t) {
    return Errno(EPERM);
}
SysResult<Ref<Inode>> Inode::create_unnamed(const NewInode&) { return Errno(EOPNOTSUPP); }
SysResult<std::string> Inode::read_link(Task&) { return Errno(EINVAL); }
SysResult<std::string> Inode::link_text() { return Errno(EOPNOTSUPP); }
SysResult<size_t> Inode::read_content(IoBuffer&, int64_t) { return Errno(EOPNOTSUPP); }
SysResult<size_t> Inode::write_content(IoBuffer&, int64_t) { return Errno(EOPNOTSUPP); }
SysResult<std::optional<Path>> Inode::magic_link(Task&) { return std::optional<Path>(); }
SysResult<std::string> Inode::get_xattr(std::string_view) { return Errno(EOPNOTSUPP); }
SysResult<void> Inode::set_xattr(std::string_view, std::string_view, int) { return Errno(EOPNOTSUPP); }
SysResult<void> Inode::remove_xattr(std::string_view) { return Errno(EOPNOTSUPP); }
SysResult<std::vector<std::string>> Inode::list_xattrs() { return std::vector<std::string>(); }

InodeLocks* Inode::locks(bool create) {
    InodeLocks* known = locks_.load(std::memory_order_acquire);
    if (known != nullptr || !create) return known;
    auto fresh = std::make_unique<InodeLocks>();
    if (locks_.compare_exchange_strong(known, fresh.get(), std::memory_order_acq_rel)) return fresh.release();
    return known;
}

}  // namespace casemate::sentry
