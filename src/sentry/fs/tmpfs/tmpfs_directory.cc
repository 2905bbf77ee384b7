// tmpfs: directories.
#include <dirent.h>
#include <linux/fs.h>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/vfs/dentry.h"

namespace casemate::sentry {

namespace {

uint8_t type_of(uint32_t mode) { return static_cast<uint8_t>((mode & S_IFMT) >> 12); }
constexpr int64_t kEntrySize = 20;  // of a name, as tmpfs shows directories

class TmpfsDirectoryFile final : public DirectoryFile {
  public:
    TmpfsDirectoryFile(Path path, int flags, Ref<TmpfsDirectory> inode)
        : DirectoryFile(std::move(path), flags), inode_(std::move(inode)) {}

  protected:
    SysResult<void> list(Task&, int64_t after, const EmitEntry& emit) override {
        inode_->list_entries(after, emit);
        inode_->touch(false);
        return {};
    }

  private:
    const Ref<TmpfsDirectory> inode_;
};

}  // namespace

void TmpfsDirectory::add_locked(std::string_view name, Ref<TmpfsInode> inode) {
    if (S_ISDIR(inode->mode())) ++subdirectories_;
    int64_t cookie = ++last_cookie_;
    auto [place, fresh] = entries_.emplace(cookie, Entry{std::string(name), std::move(inode)});
    by_name_.emplace(place->second.name, cookie);
}

Ref<TmpfsInode> TmpfsDirectory::remove_locked(std::string_view name) {
    auto found = by_name_.find(name);
    if (found == by_name_.end()) return nullptr;
    auto place = entries_.find(found->second);
    by_name_.erase(found);
    Ref<TmpfsInode> inode = std::move(place->second.inode);
    entries_.erase(place);
    if (S_ISDIR(inode->mode())) --subdirectories_;
    return inode;
}

// Takes the whole tree apart without recursion.
void TmpfsDirectory::clear() {
    std::vector<Ref<TmpfsInode>> left;
    auto take = [&](TmpfsDirectory& directory) {
        std::lock_guard lock(directory.names_mutex_);
        for (auto& [cookie, entry] : directory.entries_) left.push_back(std::move(entry.inode));
        directory.by_name_.clear();
        directory.entries_.clear();
    };
    take(*this);
    while (!left.empty()) {
        Ref<TmpfsInode> one = std::move(left.back());
        left.pop_back();
        if (S_ISDIR(one->mode())) take(static_cast<TmpfsDirectory&>(*one));
    }
}

SysResult<void> TmpfsDirectory::stat(struct stat& out) {
    TRY(TmpfsInode::stat(out));
    std::lock_guard lock(names_mutex_);
    if (out.st_nlink != 0) out.st_nlink = 2 + subdirectories_;
    out.st_size = static_cast<off_t>(entries_.size() + 2) * kEntrySize;
    return {};
}

SysResult<Ref<Inode>> TmpfsDirectory::lookup(std::string_view name) {
    std::lock_guard lock(names_mutex_);
    auto found = by_name_.find(name);
    if (found == by_name_.end()) return Errno(ENOENT);
    return Ref<Inode>(entries_.find(found->second)->second.inode);
}

SysResult<std::shared_ptr<const Listing>> TmpfsDirectory::listing() {
    auto made = std::make_shared<Listing>();
    std::lock_guard lock(names_mutex_);
    made->entries.reserve(entries_.size());
    for (const auto& [cookie, entry] : entries_)
        made->entries.push_back(Listing::Entry{entry.name, entry.inode->number(), type_of(entry.inode->mode())});
    return std::shared_ptr<const Listing>(std::move(made));
}

void TmpfsDirectory::list_entries(int64_t after, const EmitEntry& emit) {
    std::lock_guard lock(names_mutex_);
    for (auto place = entries_.upper_bound(after); place != entries_.end(); ++place) {
        const Entry& entry = place->second;
        if (!emit(DirectoryEntry{entry.name, entry.inode->number(), type_of(entry.inode->mode()), place->first}))
            return;
    }
}

SysResult<Ref<Inode>> TmpfsDirectory::create(std::string_view name, const NewInode& properties) {
    Ref<TmpfsInode> inode = TRY(tmpfs().make(properties));
    {
        std::lock_guard lock(names_mutex_);
        if (by_name_.contains(name)) return Errno(EEXIST);
        add_locked(name, inode);
    }
    touch(true);
    return Ref<Inode>(inode);
}

SysResult<Ref<Inode>> TmpfsDirectory::create_unnamed(const NewInode& properties) {
    Ref<TmpfsInode> inode = TRY(tmpfs().make(properties));
    inode->set_links(0);
    inode->allow_first_link();
    return Ref<Inode>(inode);
}

SysResult<void> TmpfsDirectory::link(std::string_view name, Inode& target) {
    auto& inode = static_cast<TmpfsInode&>(target);
    {
        std::lock_guard lock(names_mutex_);
        if (by_name_.contains(name)) return Errno(EEXIST);
        if (!inode.add_link()) return Errno(ENOENT);
        add_locked(name, Ref<TmpfsInode>(&inode));
    }
    touch(true);
    return {};
}

SysResult<void> TmpfsDirectory::unlink(std::string_view name, Inode&) {
    Ref<TmpfsInode> gone;
    {
        std::lock_guard lock(names_mutex_);
        gone = remove_locked(name);
    }
    if (!gone) return Errno(ENOENT);
    gone->remove_link();
    touch(true);
    return {};
}

bool TmpfsDirectory::empty() {
    std::lock_guard lock(names_mutex_);
    return entries_.empty();
}

SysResult<void> TmpfsDirectory::remove_directory(std::string_view name, Inode& target) {
    if (!static_cast<TmpfsDirectory&>(target).empty()) return Errno(ENOTEMPTY);
    Ref<TmpfsInode> gone;
    {
        std::lock_guard lock(names_mutex_);
        gone = remove_locked(name);
    }
    if (!gone) return Errno(ENOENT);
    gone->set_links(0);
    touch(true);
    return {};
}

SysResult<void> TmpfsDirectory::rename(std::string_view name, Inode& source, Inode& new_parent,
                                       std::string_view new_name, Inode* target, uint32_t flags) {
    auto& other = static_cast<TmpfsDirectory&>(new_parent);
    auto& moved = static_cast<TmpfsInode&>(source);
    auto* replaced = static_cast<TmpfsInode*>(target);
    bool exchange = flags & RENAME_EXCHANGE;
    if (replaced != nullptr && !exchange && S_ISDIR(replaced->mode()) &&
        !static_cast<TmpfsDirectory*>(replaced)->empty())
        return Errno(ENOTEMPTY);
    Ref<TmpfsInode> gone;
    {
        // The vfs holds both directories' mutexes; these locks only keep readers out.
        std::unique_lock first(this < &other ? names_mutex_ : other.names_mutex_);
        std::unique_lock<std::mutex> second;
        if (this != &other) second = std::unique_lock(this < &other ? other.names_mutex_ : names_mutex_);
        Ref<TmpfsInode> inode = remove_locked(name);
        if (!inode) return Errno(ENOENT);
        gone = other.remove_locked(new_name);
        other.add_locked(new_name, std::move(inode));
        if (exchange && gone) add_locked(name, gone);
    }
    if (gone && !exchange) {
        if (S_ISDIR(gone->mode()))
            gone->set_links(0);
        else
            gone->remove_link();
    }
    moved.touch_change();
    if (exchange && replaced != nullptr) replaced->touch_change();
    touch(true);
    if (this != &other) other.touch(true);
    return {};
}

SysResult<Ref<File>> TmpfsDirectory::open(Task&, const Path& path, int flags) {
    return Ref<File>(make_ref<TmpfsDirectoryFile>(path, flags, Ref<TmpfsDirectory>(this)));
}

}  // namespace casemate::sentry
