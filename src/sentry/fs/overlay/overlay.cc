#include "sentry/fs/overlay/overlay.h"

#include <dirent.h>
#include <linux/magic.h>

#include <unordered_set>

#include "sentry/kernel/task.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {

namespace {

// Files born in the upper layer get numbers that no lower file has.
constexpr uint64_t kUpperNumbers = uint64_t{1} << 40;
constexpr std::string_view kOpaque = "user.overlay.opaque";

bool is_whiteout(Inode& inode) {
    if (!S_ISCHR(inode.mode())) return false;
    struct stat info;
    return inode.stat(info).ok() && info.st_rdev == 0;
}

bool is_opaque(Inode& directory) {
    auto value = directory.get_xattr(kOpaque);
    return value.ok() && *value == "y";
}

bool is_ours(std::string_view xattr) {
    return xattr.starts_with("user.overlay.") || xattr.starts_with("trusted.overlay.");
}

}  // namespace

OverlayFileSystem::OverlayFileSystem(Ref<Inode> upper, std::vector<Ref<Inode>> lowers)
    : upper_root_(std::move(upper)), lower_roots_(std::move(lowers)) {
    if (upper_root_) upper_root_->file_system().mount_added();
    for (const Ref<Inode>& lower : lower_roots_) lower->file_system().mount_added();
}

OverlayFileSystem::~OverlayFileSystem() {
    if (upper_root_) upper_root_->file_system().mount_removed();
    for (const Ref<Inode>& lower : lower_roots_) lower->file_system().mount_removed();
}

SysResult<Ref<OverlayFileSystem>> OverlayFileSystem::create(Ref<Inode> upper, std::vector<Ref<Inode>> lowers) {
    if (lowers.empty()) return Errno(EINVAL);
    if (upper && !S_ISDIR(upper->mode())) return Errno(ENOTDIR);
    for (const Ref<Inode>& lower : lowers)
        if (!S_ISDIR(lower->mode())) return Errno(ENOTDIR);
    return Ref<OverlayFileSystem>::adopt(new OverlayFileSystem(std::move(upper), std::move(lowers)));
}

SysResult<Ref<Inode>> OverlayFileSystem::root() {
    auto made = TRY(intern(upper_root_, lower_roots_, nullptr, {}));
    return Ref<Inode>(made);
}

SysResult<void> OverlayFileSystem::statfs(struct statfs& out) {
    TRY((upper_root_ ? upper_root_ : lower_roots_.front())->file_system().statfs(out));
    // An upper layer without a size of its own lies beside the files below.
    if (upper_root_ && out.f_blocks == 0) TRY(lower_roots_.front()->file_system().statfs(out));
    out.f_type = OVERLAYFS_SUPER_MAGIC;
    return {};
}

SysResult<void> OverlayFileSystem::sync() {
    if (!upper_root_) return {};
    return upper_root_->file_system().sync();
}

void OverlayFileSystem::drop_caches() {
    std::unordered_map<const Inode*, Kept> numbers;
    std::unordered_map<const Inode*, Ref<OverlayInode>> pinned;
    std::lock_guard lock(mutex_);
    numbers.swap(numbers_);
    pinned.swap(pinned_);
}

void OverlayFileSystem::upper_gone(Inode* upper) {
    if (upper == nullptr) return;
    Kept kept;
    Ref<OverlayInode> pin;
    std::lock_guard lock(mutex_);
    auto number = numbers_.find(upper);
    if (number != numbers_.end()) {
        kept = std::move(number->second);
        numbers_.erase(number);
    }
    auto pinned = pinned_.find(upper);
    if (pinned != pinned_.end()) {
        pin = std::move(pinned->second);
        pinned_.erase(pinned);
    }
}

SysResult<Ref<OverlayInode>> OverlayFileSystem::intern(Ref<Inode> upper, std::vector<Ref<Inode>> lowers,
                                                       OverlayInode* parent, std::string_view name) {
    const Inode* key = upper ? upper.get() : lowers.front().get();
    struct stat info;
    TRY((upper ? upper : lowers.front())->stat(info));
    Ref<OverlayInode> inode, old_parent;
    std::lock_guard lock(mutex_);
    auto found = inodes_.find(key);
    if (found != inodes_.end() && found->second->try_ref()) inode = Ref<OverlayInode>::adopt(found->second);
    if (!inode) {
        uint64_t number = info.st_ino;
        if (upper) {
            auto kept = numbers_.find(upper.get());
            number = kept != numbers_.end() ? kept->second.number : number | kUpperNumbers;
            // A merged directory has the number of what it was below.
            struct stat below;
            if (kept == numbers_.end() && !lowers.empty() && lowers.front()->stat(below).ok()) number = below.st_ino;
        }
        inode = Ref<OverlayInode>::adopt(
            new OverlayInode(Ref<OverlayFileSystem>(this), std::move(upper), std::move(lowers), number));
        inodes_.insert_or_assign(key, inode.get());
    }
    if (parent != nullptr) {
        old_parent = std::move(inode->parent_);
        inode->parent_ = Ref<OverlayInode>(parent);
        inode->name_ = std::string(name);
    }
    return inode;
}

OverlayInode::OverlayInode(Ref<OverlayFileSystem> file_system, Ref<Inode> upper, std::vector<Ref<Inode>> lowers,
                           uint64_t number)
    : Inode(std::move(file_system)), lowers_(std::move(lowers)), number_(number), upper_(upper.release()) {}

void OverlayInode::last_ref_dropped() {
    {
        std::lock_guard lock(overlay().mutex_);
        auto forget = [&](const Inode* key) {
            auto found = overlay().inodes_.find(key);
            if (found != overlay().inodes_.end() && found->second == this) overlay().inodes_.erase(found);
        };
        if (Inode* up = upper()) forget(up);
        if (!lowers_.empty()) forget(lowers_.front().get());
    }
    delete this;
}

OverlayInode::~OverlayInode() {
    if (Inode* up = upper()) up->unref();
    Ref<OverlayInode> parent = std::move(parent_);
    while (parent && parent->ref_count() == 1) {
        Ref<OverlayInode> above;
        {
            std::lock_guard lock(overlay().mutex_);
            above = parent->parent_;
        }
        parent = std::move(above);
    }
}

void OverlayInode::moved(OverlayInode* parent, std::string_view name) {
    Ref<OverlayInode> old;
    std::lock_guard lock(overlay().mutex_);
    old = std::move(parent_);
    parent_ = Ref<OverlayInode>(parent);
    name_ = std::string(name);
}

// Its name was removed; other names (links) of an upper file live on.
void OverlayInode::gone() {
    struct stat info;
    Inode* up = upper();
    bool last = up == nullptr || !up->stat(info).ok() || info.st_nlink == 0 || S_ISDIR(info.st_mode);
    if (!last) return;
    unlinked_.store(true, std::memory_order_release);
    overlay().upper_gone(up);
}

SysResult<void> OverlayInode::stat(struct stat& out) {
    TRY(real().stat(out));
    out.st_dev = file_system().device();
    out.st_ino = number_;
    if (unlinked_.load(std::memory_order_acquire)) {
        out.st_nlink = 0;
    } else if (S_ISDIR(out.st_mode) && upper() != nullptr && !lowers_.empty()) {
        out.st_nlink = 1;  // of a union nobody counts the directories below
    }
    return {};
}

// --- Copy-up ---

SysResult<void> OverlayInode::copy_attributes(Inode& from, Inode& to) {
    auto names = from.list_xattrs();
    if (names.ok())
        for (const std::string& name : *names) {
            if (is_ours(name)) continue;
            auto value = from.get_xattr(name);
            if (value.ok()) (void)to.set_xattr(name, *value, 0);
        }
    struct stat info;
    TRY(from.stat(info));
    AttributeChange change;
    change.access_time = info.st_atim;
    change.modification_time = info.st_mtim;
    return to.change(change);
}

SysResult<void> OverlayInode::copy_content(Inode& from, Inode& to) {
    constexpr size_t kChunk = 256 * 1024;
    auto buffer = std::make_unique_for_overwrite<std::byte[]>(kChunk);
    int64_t offset = 0;
    while (true) {
        IoBuffer into = IoBuffer::kernel(buffer.get(), kChunk);
        size_t n = TRY(from.read_content(into, offset));
        if (n == 0) return {};
        size_t done = 0;
        while (done < n) {
            IoBuffer out = IoBuffer::kernel(buffer.get() + done, n - done);
            size_t written = TRY(to.write_content(out, offset + static_cast<int64_t>(done)));
            if (written == 0) return Errno(EIO);
            done += written;
        }
        offset += static_cast<int64_t>(n);
    }
}

SysResult<void> OverlayInode::copy_up(bool with_content) {
    if (upper() != nullptr) return {};
    if (!overlay().upper_root_) return Errno(EROFS);
    Ref<OverlayInode> parent;
    std::string name;
    {
        std::lock_guard lock(overlay().mutex_);
        parent = parent_;
        name = name_;
    }
    if (!parent) return Errno(ESTALE);
    bool named = !unlinked_.load(std::memory_order_acquire);
    TRY(named ? parent->copy_up() : SysResult<void>());
    std::lock_guard lock(copy_mutex_);
    if (upper() != nullptr) return {};
    Inode& lower = *lowers_.front();
    struct stat info;
    TRY(lower.stat(info));
    NewInode properties;
    properties.mode = info.st_mode;
    properties.uid = info.st_uid;
    properties.gid = info.st_gid;
    properties.device = info.st_rdev;
    std::string text;
    if (S_ISLNK(info.st_mode)) {
        text = TRY(lower.link_text());
        properties.link_target = text;
    }
    Ref<Inode> fresh;
    if (S_ISREG(info.st_mode)) {
        // Unnamed until it is whole.
        Inode& directory = named ? *parent->upper() : *overlay().upper_root_;
        fresh = TRY(directory.create_unnamed(properties));
        if (with_content) TRY(copy_content(lower, *fresh));
        TRY(copy_attributes(lower, *fresh));
        if (named) TRY(directory.link(name, *fresh));
    } else {
        if (!named) return Errno(ESTALE);
        fresh = TRY(parent->upper()->create(name, properties));
        (void)copy_attributes(lower, *fresh);
    }
    Inode* key = fresh.get();
    {
        std::lock_guard inner(overlay().mutex_);
        overlay().inodes_.insert_or_assign(key, this);
        if (named) overlay().numbers_[key] = OverlayFileSystem::Kept{fresh, number_};
        // Its other names below must find this copy.
        if (named && info.st_nlink > 1 && !S_ISDIR(info.st_mode)) overlay().pinned_[key] = Ref<OverlayInode>(this);
    }
    upper_.store(fresh.release(), std::memory_order_release);
    return {};
}

SysResult<void> OverlayInode::change(const AttributeChange& change) {
    TRY(copy_up(!(change.size && *change.size == 0)));
    return upper()->change(change);
}

SysResult<size_t> OverlayInode::write_content(IoBuffer& from, int64_t offset) {
    TRY(copy_up());
    return upper()->write_content(from, offset);
}

SysResult<Ref<File>> OverlayInode::open(Task& task, const Path& path, int flags) {
    if (S_ISDIR(mode())) return Ref<File>(make_ref<OverlayDirectory>(path, flags, Ref<OverlayInode>(this)));
    if ((flags & O_ACCMODE) != O_RDONLY) TRY(copy_up());
    return real().open(task, path, flags);
}

// --- Extended attributes ---

SysResult<std::string> OverlayInode::get_xattr(std::string_view name) {
    if (is_ours(name)) return Errno(ENODATA);
    return real().get_xattr(name);
}

SysResult<void> OverlayInode::set_xattr(std::string_view name, std::string_view value, int flags) {
    if (is_ours(name)) return Errno(EPERM);
    TRY(copy_up());
    return upper()->set_xattr(name, value, flags);
}

SysResult<void> OverlayInode::remove_xattr(std::string_view name) {
    if (is_ours(name)) return Errno(ENODATA);
    TRY(real().get_xattr(name));
    TRY(copy_up());
    return upper()->remove_xattr(name);
}

SysResult<std::vector<std::string>> OverlayInode::list_xattrs() {
    auto names = TRY(real().list_xattrs());
    std::erase_if(names, [](const std::string& name) { return is_ours(name); });
    return names;
}

// --- Directories, reading ---

SysResult<std::vector<Ref<Inode>>> OverlayInode::look_below(std::string_view name) {
    std::vector<Ref<Inode>> found;
    for (const Ref<Inode>& directory : lowers_) {
        auto child = directory->lookup(name);
        if (!child.ok()) {
            if (child.error() == Errno(ENOENT)) continue;
            return child.error();
        }
        Ref<Inode> inode = child.take_value();
        if (lowers_.size() > 1 && is_whiteout(*inode)) break;
        bool is_directory = S_ISDIR(inode->mode());
        if (!is_directory && !found.empty()) break;
        bool opaque = lowers_.size() > 1 && is_directory && is_opaque(*inode);
        found.push_back(std::move(inode));
        if (!is_directory || opaque) break;
    }
    return found;
}

SysResult<Ref<Inode>> OverlayInode::lookup(std::string_view name) {
    Ref<Inode> above;
    if (Inode* up = upper()) {
        auto found = up->lookup(name);
        if (found.ok()) {
            above = found.take_value();
            if (is_whiteout(*above)) return Errno(ENOENT);
        } else if (found.error() != Errno(ENOENT)) {
            return found.error();
        }
    }
    std::vector<Ref<Inode>> below;
    if (!above) {
        below = TRY(look_below(name));
        if (below.empty()) return Errno(ENOENT);
    } else if (S_ISDIR(above->mode()) && !lowers_.empty() && !is_opaque(*above)) {
        below = TRY(look_below(name));
        if (!below.empty() && !S_ISDIR(below.front()->mode())) below.clear();
    }
    auto inode = TRY(overlay().intern(std::move(above), std::move(below), this, name));
    return Ref<Inode>(inode);
}

void OverlayInode::prefetch(std::string_view rest, bool open) {
    if (lowers_.size() != 1) return;
    if (Inode* up = upper()) {
        size_t begin = rest.find_first_not_of('/');
        if (begin == std::string_view::npos) return;
        std::string_view name = rest.substr(begin);
        if (up->lookup(name.substr(0, name.find('/'))).ok()) return;
    }
    lowers_.front()->prefetch(rest, open);
}

SysResult<std::shared_ptr<const Listing>> OverlayInode::listing() {
    Inode* up = upper();
    if (up == nullptr && lowers_.size() == 1) return lowers_.front()->listing();
    auto merged = std::make_shared<Listing>();
    std::vector<std::shared_ptr<const Listing>> parts;  // what `seen` points into
    std::unordered_set<std::string_view> seen;
    auto add = [&](Inode& layer, bool whiteouts, uint64_t number_bit) -> SysResult<void> {
        auto part = TRY(layer.listing());
        parts.push_back(part);
        for (const Listing::Entry& entry : part->entries) {
            if (!seen.insert(entry.name).second) continue;
            if (whiteouts && entry.type == DT_CHR) {
                auto node = layer.lookup(entry.name);
                if (node.ok() && is_whiteout(**node)) continue;
            }
            merged->entries.push_back(Listing::Entry{entry.name, entry.inode | number_bit, entry.type});
        }
        return {};
    };
    if (up != nullptr) TRY(add(*up, true, kUpperNumbers));
    for (size_t i = 0; i < lowers_.size(); ++i) TRY(add(*lowers_[i], lowers_.size() > 1, 0));
    return std::shared_ptr<const Listing>(std::move(merged));
}

SysResult<bool> OverlayInode::empty() {
    auto names = TRY(listing());
    return names->entries.empty();
}

SysResult<void> OverlayDirectory::list(Task&, int64_t after, const EmitEntry& emit) {
    if (!listing_ || after == 0) listing_ = TRY(inode_->listing());
    return list_entries(*listing_, after, emit);
}

SysResult<void> OverlayInode::sync_names(Task& task) {
    Inode* up = upper();
    if (up == nullptr) return {};
    // Without a place: nobody shall hear of this opening.
    Ref<File> file = TRY(up->open(task, Path(), O_RDONLY | O_DIRECTORY));
    return file->sync(task, false);
}

// --- Directories, changing ---

SysResult<bool> OverlayInode::remove_whiteout(std::string_view name) {
    auto found = upper()->lookup(name);
    if (!found.ok()) return false;
    if (!is_whiteout(**found)) return Errno(EEXIST);
    TRY(upper()->unlink(name, **found));
    return true;
}

SysResult<void> OverlayInode::put_whiteout(std::string_view name) {
    auto below = TRY(look_below(name));
    if (below.empty()) return {};
    NewInode properties;
    properties.mode = S_IFCHR;
    TRY(upper()->create(name, properties));
    return {};
}

SysResult<void> OverlayInode::make_opaque(Inode& directory) { return directory.set_xattr(kOpaque, "y", 0); }

SysResult<Ref<Inode>> OverlayInode::create(std::string_view name, const NewInode& properties) {
    if (S_ISCHR(properties.mode) && properties.device == 0) return Errno(EPERM);  // it would be a whiteout
    TRY(copy_up());
    bool covered = TRY(remove_whiteout(name));
    auto fresh = upper()->create(name, properties);
    if (!fresh.ok()) {
        if (covered) (void)put_whiteout(name);
        return fresh.error();
    }
    if (S_ISDIR(properties.mode) && covered) TRY(make_opaque(**fresh));
    Ref<Inode> up = fresh.take_value();
    auto inode = TRY(overlay().intern(up, {}, this, name));
    uint32_t type = properties.mode & S_IFMT;
    if (type == S_IFSOCK || type == S_IFIFO) {
        std::lock_guard lock(overlay().mutex_);
        overlay().pinned_[up.get()] = inode;
    }
    return Ref<Inode>(inode);
}

SysResult<Ref<Inode>> OverlayInode::create_unnamed(const NewInode& properties) {
    TRY(copy_up());
    Ref<Inode> fresh = TRY(upper()->create_unnamed(properties));
    auto inode = TRY(overlay().intern(std::move(fresh), {}, nullptr, {}));
    return Ref<Inode>(inode);
}

SysResult<void> OverlayInode::link(std::string_view name, Inode& target) {
    auto& file = static_cast<OverlayInode&>(target);
    TRY(copy_up());
    TRY(file.copy_up());
    bool covered = TRY(remove_whiteout(name));
    auto linked = upper()->link(name, *file.upper());
    if (!linked.ok()) {
        if (covered) (void)put_whiteout(name);
        return linked;
    }
    file.unlinked_.store(false, std::memory_order_release);
    file.moved(this, name);
    return {};
}

SysResult<void> OverlayInode::unlink(std::string_view name, Inode& target) {
    auto& file = static_cast<OverlayInode&>(target);
    TRY(copy_up());
    if (Inode* up = file.upper()) {
        // A copy of a file with several names may stand under another one.
        auto there = upper()->lookup(name);
        if (there.ok() && there->get() == up) TRY(upper()->unlink(name, *up));
    }
    TRY(put_whiteout(name));
    file.gone();
    return {};
}

// Whiteouts in the upper part of a directory that shows as empty.
SysResult<void> OverlayInode::clear_whiteouts() {
    Inode* up = upper();
    if (up == nullptr) return {};
    auto names = TRY(up->listing());
    for (const Listing::Entry& entry : names->entries) {
        Ref<Inode> node = TRY(up->lookup(entry.name));
        if (!is_whiteout(*node)) return Errno(ENOTEMPTY);
        TRY(up->unlink(entry.name, *node));
    }
    return {};
}

SysResult<void> OverlayInode::remove_directory(std::string_view name, Inode& target) {
    auto& directory = static_cast<OverlayInode&>(target);
    if (!TRY(directory.empty())) return Errno(ENOTEMPTY);
    TRY(copy_up());
    TRY(directory.clear_whiteouts());
    if (Inode* up = directory.upper()) TRY(upper()->remove_directory(name, *up));
    TRY(put_whiteout(name));
    directory.gone();
    return {};
}

SysResult<void> OverlayInode::rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                                     Inode* target, uint32_t flags) {
    auto& file = static_cast<OverlayInode&>(source);
    auto& directory = static_cast<OverlayInode&>(new_parent);
    auto* replaced = static_cast<OverlayInode*>(target);
    bool exchange = flags & RENAME_EXCHANGE;
    bool source_is_directory = S_ISDIR(file.mode());
    bool target_is_directory = replaced != nullptr && S_ISDIR(replaced->mode());
    if (source_is_directory && !file.lowers_.empty()) return Errno(EXDEV);
    if (exchange && target_is_directory && !replaced->lowers_.empty()) return Errno(EXDEV);
    if (target_is_directory && !exchange && !TRY(replaced->empty())) return Errno(ENOTEMPTY);
    TRY(copy_up());
    TRY(directory.copy_up());
    TRY(file.copy_up());
    if (exchange) {
        TRY(replaced->copy_up());
        if (source_is_directory) TRY(make_opaque(*file.upper()));
        if (target_is_directory) TRY(make_opaque(*replaced->upper()));
        TRY(upper()->rename(name, *file.upper(), *directory.upper(), new_name, replaced->upper(), flags));
        file.moved(&directory, new_name);
        replaced->moved(this, name);
        return {};
    }
    Inode* in_the_way = nullptr;
    if (replaced != nullptr) {
        if (target_is_directory) TRY(replaced->clear_whiteouts());
        in_the_way = replaced->upper();
    }
    if (source_is_directory) {
        auto below = TRY(directory.look_below(new_name));
        if (!below.empty()) TRY(make_opaque(*file.upper()));
    }
    bool covered = in_the_way == nullptr && TRY(directory.remove_whiteout(new_name));
    auto renamed = upper()->rename(name, *file.upper(), *directory.upper(), new_name, in_the_way, 0);
    if (!renamed.ok()) {
        if (covered) (void)directory.put_whiteout(new_name);
        return renamed;
    }
    TRY(put_whiteout(name));
    file.moved(&directory, new_name);
    if (replaced != nullptr) replaced->gone();
    return {};
}

SysResult<Ref<FileSystem>> mount_overlay(Task& task, std::string_view options) {
    std::vector<Ref<Inode>> lowers;
    Ref<Inode> upper;
    while (!options.empty()) {
        size_t comma = options.find(',');
        std::string_view item = options.substr(0, comma);
        options = comma == std::string_view::npos ? std::string_view() : options.substr(comma + 1);
        size_t equals = item.find('=');
        std::string_view key = item.substr(0, equals);
        std::string_view value = equals == std::string_view::npos ? std::string_view() : item.substr(equals + 1);
        WalkOptions directory;
        directory.directory = true;
        if (key == "lowerdir") {
            while (true) {
                size_t colon = value.find(':');
                Path place = TRY(walk(task, AT_FDCWD, value.substr(0, colon), directory));
                lowers.push_back(place.dentry->inode());
                if (colon == std::string_view::npos) break;
                value.remove_prefix(colon + 1);
            }
        } else if (key == "upperdir") {
            Path place = TRY(walk(task, AT_FDCWD, value, directory));
            TRY(check_writable_mount(place));
            upper = place.dentry->inode();
        } else if (key == "workdir") {
            TRY(walk(task, AT_FDCWD, value, directory));
        } else if (!item.empty() && item != "userxattr") {
            return Errno(EINVAL);
        }
    }
    auto made = TRY(OverlayFileSystem::create(std::move(upper), std::move(lowers)));
    return Ref<FileSystem>(made);
}

}  // namespace casemate::sentry
