#include "sentry/fs/tmpfs/tmpfs.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/xattr.h>

#include <charconv>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

namespace {

timespec now() {
    Nanoseconds t = realtime_now();
    return {t / kSecond, t % kSecond};
}

constexpr size_t kMaxXattrs = 128;  // of one file: all of them live in the sentry's own memory

}  // namespace

SysResult<TmpfsOptions> TmpfsOptions::parse(std::string_view text, uint64_t total) {
    TmpfsOptions options;
    while (!text.empty()) {
        size_t comma = text.find(',');
        std::string_view item = text.substr(0, comma);
        text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
        if (item.empty()) continue;
        size_t equals = item.find('=');
        std::string_view key = item.substr(0, equals);
        std::string_view value = equals == std::string_view::npos ? std::string_view() : item.substr(equals + 1);
        if (key == "mpol" || key == "huge" || key == "inode64" || key == "inode32" || key == "noswap") continue;
        uint64_t number = 0;
        int base = key == "mode" ? 8 : 10;
        auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number, base);
        if (error != std::errc()) return Errno(EINVAL);
        std::string_view unit(end, static_cast<size_t>(value.data() + value.size() - end));
        uint64_t scale = 1;
        bool percent = unit == "%" && key == "size";
        if (!unit.empty() && !percent) {
            if (unit.size() != 1 || base == 8) return Errno(EINVAL);
            switch (unit[0] | 0x20) {
                case 'k':
                    scale = 1 << 10;
                    break;
                case 'm':
                    scale = 1 << 20;
                    break;
                case 'g':
                    scale = 1 << 30;
                    break;
                default:
                    return Errno(EINVAL);
            }
        }
        if (percent)
            number = total / 100 * number;
        else if (__builtin_mul_overflow(number, scale, &number))
            return Errno(EINVAL);
        if (key == "size") {
            options.size = number;
        } else if (key == "nr_blocks") {
            if (__builtin_mul_overflow(number, uint64_t{4096}, &options.size)) return Errno(EINVAL);
        } else if (key == "nr_inodes") {
            options.inodes = number;
        } else if (key == "mode") {
            options.mode = static_cast<uint32_t>(number) & 07777;
        } else if (key == "uid") {
            options.uid = static_cast<uint32_t>(number);
        } else if (key == "gid") {
            options.gid = static_cast<uint32_t>(number);
        } else {
            return Errno(EINVAL);
        }
    }
    return options;
}

TmpfsFileSystem::TmpfsFileSystem(MemoryFile& memory, const TmpfsOptions& options, const char* type,
                                 std::unique_ptr<MemoryFile> store)
    : memory_(memory),
      type_(type),
      options_(options),
      space_(make_ref<SpaceAccount>(options.size, std::move(store))),
      inode_limit_(options.inodes) {}

Ref<TmpfsFileSystem> TmpfsFileSystem::create(MemoryFile& memory, const TmpfsOptions& options, const char* type,
                                             std::unique_ptr<MemoryFile> store) {
    return Ref<TmpfsFileSystem>::adopt(new TmpfsFileSystem(memory, options, type, std::move(store)));
}

SysResult<Ref<Inode>> TmpfsFileSystem::root() {
    std::lock_guard lock(root_mutex_);
    if (!root_) {
        NewInode properties;
        properties.mode = S_IFDIR | options_.mode;
        properties.uid = options_.uid;
        properties.gid = options_.gid;
        root_ = TRY(make(properties));
    }
    return Ref<Inode>(root_);
}

void TmpfsFileSystem::drop_caches() {
    Ref<TmpfsInode> root;
    {
        std::lock_guard lock(root_mutex_);
        root = std::move(root_);
    }
    // Names are gone with the last mount; files that are still open live on by themselves.
    if (root) static_cast<TmpfsDirectory*>(root.get())->clear();
}

SysResult<Ref<TmpfsInode>> TmpfsFileSystem::make(const NewInode& properties) {
    uint64_t limit = inode_limit_.load(std::memory_order_relaxed);
    if (limit != 0 && inodes_.load(std::memory_order_relaxed) >= limit) return Errno(ENOSPC);
    uint64_t number = last_number_.fetch_add(1, std::memory_order_relaxed) + 1;
    Ref<TmpfsFileSystem> self(this);
    switch (properties.mode & S_IFMT) {
        case S_IFREG:
            return Ref<TmpfsInode>(make_ref<TmpfsRegular>(self, properties, number));
        case S_IFDIR:
            return Ref<TmpfsInode>(make_ref<TmpfsDirectory>(self, properties, number));
        default:
            return make_ref<TmpfsInode>(self, properties, number);
    }
}

SysResult<void> TmpfsFileSystem::statfs(struct statfs& out) {
    out = {};
    out.f_type = TMPFS_MAGIC;
    out.f_bsize = 4096;
    out.f_namelen = 255;
    out.f_frsize = 4096;
    uint64_t limit = space_->limit();
    if (limit != 0) {
        uint64_t used = std::min(space_->used(), limit);
        out.f_blocks = limit / 4096;
        out.f_bfree = out.f_bavail = (limit - used) / 4096;
    } else if (memory_.limit() != 0 && space_->store() == nullptr) {
        out.f_blocks = memory_.limit() / 4096;
        uint64_t used = std::min(memory_.bytes_used(), memory_.limit());
        out.f_bfree = out.f_bavail = (memory_.limit() - used) / 4096;
    }
    uint64_t inodes = inode_limit_.load(std::memory_order_relaxed);
    if (inodes != 0) {
        out.f_files = inodes;
        out.f_ffree = inodes - std::min(inodes, inodes_.load(std::memory_order_relaxed));
    }
    return {};
}

SysResult<void> TmpfsFileSystem::reconfigure(std::string_view text) {
    TmpfsOptions wanted = TRY(TmpfsOptions::parse(text, memory_.limit()));
    if (wanted.size != 0) {
        if (wanted.size < space_->used()) return Errno(EINVAL);
        space_->set_limit(wanted.size);
    }
    if (wanted.inodes != 0) inode_limit_.store(wanted.inodes, std::memory_order_relaxed);
    return {};
}

TmpfsInode::TmpfsInode(Ref<TmpfsFileSystem> file_system, const NewInode& properties, uint64_t number)
    : Inode(file_system),
      number_(number),
      born_(now()),
      device_(properties.device),
      mode_(properties.mode),
      uid_(properties.uid),
      gid_(properties.gid),
      accessed_(born_),
      modified_(born_),
      changed_(born_),
      link_text_(properties.link_target) {
    file_system->inodes_.fetch_add(1, std::memory_order_relaxed);
}

TmpfsInode::~TmpfsInode() { tmpfs().inodes_.fetch_sub(1, std::memory_order_relaxed); }

SysResult<void> TmpfsInode::stat(struct stat& out) {
    out = {};
    out.st_dev = file_system().device();
    out.st_ino = number_;
    out.st_mode = mode();
    out.st_uid = uid();
    out.st_gid = gid();
    out.st_rdev = device_;
    out.st_blksize = 4096;
    out.st_size = static_cast<off_t>(link_text_.size());
    std::lock_guard lock(mutex_);
    out.st_nlink = links_;
    out.st_atim = accessed_;
    out.st_mtim = modified_;
    out.st_ctim = changed_;
    return {};
}

SysResult<void> TmpfsInode::change(const AttributeChange& change) {
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (change.mode) mode_.store((mode() & S_IFMT) | (*change.mode & 07777), std::memory_order_relaxed);
    if (change.uid) uid_.store(*change.uid, std::memory_order_relaxed);
    if (change.gid) gid_.store(*change.gid, std::memory_order_relaxed);
    auto set = [&](const std::optional<timespec>& wanted, timespec& time) {
        if (!wanted || wanted->tv_nsec == UTIME_OMIT) return;
        time = wanted->tv_nsec == UTIME_NOW ? at : *wanted;
    };
    set(change.access_time, accessed_);
    set(change.modification_time, modified_);
    changed_ = at;
    return {};
}

void TmpfsInode::touch(bool modified) {
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (modified) {
        modified_ = changed_ = at;
        return;
    }
    // relatime: only what makes the order of times right, or once a day.
    auto older = [](const timespec& a, const timespec& b) {
        return a.tv_sec < b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec <= b.tv_nsec);
    };
    if (older(accessed_, modified_) || older(accessed_, changed_) || at.tv_sec - accessed_.tv_sec > 86400)
        accessed_ = at;
}

void TmpfsInode::touch_change() {
    timespec at = now();
    std::lock_guard lock(mutex_);
    changed_ = at;
}

bool TmpfsInode::add_link() {
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (links_ == 0 && !linkable_) return false;
    linkable_ = false;
    ++links_;
    changed_ = at;
    return true;
}

void TmpfsInode::remove_link() {
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (links_ > 0) --links_;
    changed_ = at;
}

void TmpfsInode::set_links(uint32_t links) {
    std::lock_guard lock(mutex_);
    links_ = links;
}

SysResult<std::string> TmpfsInode::link_text() {
    if (!S_ISLNK(mode())) return Errno(EINVAL);
    return link_text_;
}

SysResult<Ref<File>> TmpfsInode::open(Task&, const Path&, int) { return Errno(S_ISLNK(mode()) ? ELOOP : ENXIO); }

namespace {

SysResult<void> known_xattr(std::string_view name) {
    for (std::string_view prefix : {"user.", "security.", "trusted."})
        if (name.starts_with(prefix) && name.size() > prefix.size()) return {};
    return Errno(EOPNOTSUPP);
}

}  // namespace

SysResult<std::string> TmpfsInode::get_xattr(std::string_view name) {
    TRY(known_xattr(name));
    std::lock_guard lock(mutex_);
    if (!xattrs_) return Errno(ENODATA);
    auto found = xattrs_->find(name);
    if (found == xattrs_->end()) return Errno(ENODATA);
    return found->second;
}

SysResult<void> TmpfsInode::set_xattr(std::string_view name, std::string_view value, int flags) {
    TRY(known_xattr(name));
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (!xattrs_) xattrs_ = std::make_unique<std::map<std::string, std::string, std::less<>>>();
    auto found = xattrs_->find(name);
    if (found != xattrs_->end() && (flags & XATTR_CREATE)) return Errno(EEXIST);
    if (found == xattrs_->end() && (flags & XATTR_REPLACE)) return Errno(ENODATA);
    if (found == xattrs_->end() && xattrs_->size() >= kMaxXattrs) return Errno(ENOSPC);
    xattrs_->insert_or_assign(std::string(name), std::string(value));
    changed_ = at;
    return {};
}

SysResult<void> TmpfsInode::remove_xattr(std::string_view name) {
    TRY(known_xattr(name));
    timespec at = now();
    std::lock_guard lock(mutex_);
    if (!xattrs_) return Errno(ENODATA);
    auto found = xattrs_->find(name);
    if (found == xattrs_->end()) return Errno(ENODATA);
    xattrs_->erase(found);
    changed_ = at;
    return {};
}

SysResult<std::vector<std::string>> TmpfsInode::list_xattrs() {
    std::vector<std::string> names;
    std::lock_guard lock(mutex_);
    if (xattrs_)
        for (const auto& [name, value] : *xattrs_) names.push_back(name);
    return names;
}

}  // namespace casemate::sentry
