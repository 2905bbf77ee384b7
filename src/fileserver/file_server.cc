#include "fileserver/file_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fileserver/host_calls.h"
#include "fileserver/path_check.h"

namespace casemate::fileserver {

namespace {

SysResult<void> check_name(std::string_view name) {
    if (name.empty() || name.size() > kMaxName) return Errno(name.empty() ? EINVAL : ERANGE);
    if (name.find('\0') != std::string_view::npos) return Errno(EINVAL);
    return {};
}

constexpr uint32_t kPermissionBits = 07777;

}  // namespace

FileServer::FileServer(Limits limits, UniqueFd proc_self_fd) : limits_(limits), proc_self_fd_(std::move(proc_self_fd)) {
    nodes_.emplace_back();  // node 0 is none
}

FileServer::~FileServer() = default;

SysResult<void> FileServer::add_mount(uint64_t token, uint32_t flags, UniqueFd mount) {
    std::lock_guard lock(mounts_mutex_);
    for (const Mount& known : mounts_)
        if (known.token == token) return Errno(EEXIST);
    mounts_.push_back(Mount{token, flags, std::move(mount)});
    return {};
}

SysResult<FileServer::Node*> FileServer::find(NodeId id) {
    uint32_t index = static_cast<uint32_t>(id), generation = static_cast<uint32_t>(id >> 32);
    if (index == 0 || index >= nodes_.size()) return Errno(ESTALE);
    Node& node = nodes_[index];
    if (node.references == 0 || node.generation != generation) return Errno(ESTALE);
    return &node;
}

SysResult<NodeId> FileServer::add_node(UniqueFd fd, uint32_t mount) {
    uint32_t index = first_free_;
    if (index != 0) {
        first_free_ = nodes_[index].next_free;
    } else {
        if (nodes_.size() > limits_.nodes) return Errno(ENFILE);
        index = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
    }
    Node& node = nodes_[index];
    node.fd = std::move(fd);
    node.generation++;
    node.mount = mount;
    node.references = 1;
    nodes_used_++;
    return static_cast<NodeId>(node.generation) << 32 | index;
}

void FileServer::forget(NodeId id) {
    auto found = find(id);
    if (!found.ok()) return;
    Node& node = **found;
    if (--node.references != 0) return;
    node.fd.reset();
    for (Directory& directory : directories_)
        if (directory.node == id) directory = Directory();
    if (synced_.node == id) synced_ = Directory();
    node.next_free = first_free_;
    first_free_ = static_cast<uint32_t>(id);
    nodes_used_--;
}

SysResult<void> FileServer::check_writable(uint32_t mount) {
    std::lock_guard lock(mounts_mutex_);
    if (mounts_[mount].flags & kMountReadOnly) return Errno(EROFS);
    return {};
}

bool FileServer::is_shared(uint32_t mount) {
    std::lock_guard lock(mounts_mutex_);
    return mounts_[mount].flags & kMountShared;
}

void FileServer::forget_directories() {
    for (Directory& directory : directories_) directory = Directory();
    synced_ = Directory();
}

SysResult<int> FileServer::directory_of(NodeId node, const UniqueFd& fd, std::string_view path) {
    Directory* oldest = directories_;
    for (Directory& known : directories_) {
        if (known.node == node && known.path == path) {
            known.used = ++directory_uses_;
            return known.fd.get();
        }
        if (known.used < oldest->used) oldest = &known;
    }
    UniqueFd opened = TRY(open_beneath(fd.get(), std::string(path), O_PATH | O_NOFOLLOW | O_DIRECTORY));
    *oldest = Directory{node, std::string(path), std::move(opened), ++directory_uses_};
    return oldest->fd.get();
}

// An O_PATH descriptor of the target, never following links.
SysResult<UniqueFd> FileServer::resolve(const Target& target, uint32_t* mount) {
    TRY(check_path(target.path));
    Node* node = TRY(find(target.node));
    if (mount != nullptr) *mount = node->mount;
    if (target.path.empty()) {
        int fd = ::fcntl(node->fd.get(), F_DUPFD_CLOEXEC, 0);
        if (fd < 0) return last_errno();
        return UniqueFd(fd);
    }
    return open_beneath(node->fd.get(), std::string(target.path), O_PATH | O_NOFOLLOW);
}

SysResult<FileServer::Place> FileServer::place(const Target& target, bool for_change) {
    TRY(check_path(target.path));
    if (target.path.empty()) return Errno(EINVAL);
    Node* node = TRY(find(target.node));
    Place place;
    place.mount = node->mount;
    if (for_change) TRY(check_writable(place.mount));
    size_t slash = target.path.rfind('/');
    if (slash == std::string_view::npos) {
        place.parent = node->fd.get();
        place.name = std::string(target.path);
        return place;
    }
    std::string_view above = target.path.substr(0, slash);
    if (is_shared(place.mount)) {
        // By whoever else changes it, what the path names may lie elsewhere by the next time.
        place.owned = TRY(open_beneath(node->fd.get(), std::string(above), O_PATH | O_NOFOLLOW | O_DIRECTORY));
        place.parent = place.owned.get();
    } else {
        place.parent = TRY(directory_of(target.node, node->fd, above));
    }
    place.name = std::string(target.path.substr(slash + 1));
    return place;
}

// Opens the inode behind an O_PATH descriptor for content: the same inode for sure, whatever its name names by now.
SysResult<UniqueFd> FileServer::reopen(int path_fd, uint32_t mode, int flags) {
    if (!S_ISREG(mode) && !S_ISDIR(mode)) return Errno(S_ISLNK(mode) ? ELOOP : ENXIO);
    flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = S_ISDIR(mode) ? ::openat(path_fd, ".", flags)
                           : ::openat(proc_self_fd_.get(), proc_name(path_fd).c_str(), flags);
    if (fd < 0) return last_errno();
    UniqueFd opened(fd);
    // O_NONBLOCK was to be safe; readers of a regular file do not want it.
    if (S_ISREG(mode)) ::fcntl(opened.get(), F_SETFL, flags & (O_DIRECT | O_APPEND));
    return opened;
}

SysResult<FileServer::Entry> FileServer::attach(uint64_t token) {
    UniqueFd fd;
    uint32_t index = 0, flags = 0;
    {
        std::lock_guard lock(mounts_mutex_);
        for (; index < mounts_.size(); ++index)
            if (mounts_[index].token == token) break;
        if (index == mounts_.size()) return Errno(ENOENT);
        flags = mounts_[index].flags;
        fd.reset(::fcntl(mounts_[index].fd.get(), F_DUPFD_CLOEXEC, 0));
        if (!fd) return last_errno();
    }
    Entry entry;
    entry.attributes = TRY(read_attributes(fd.get()));
    entry.node = TRY(add_node(std::move(fd), index));
    entry.value = flags;
    return entry;
}

SysResult<FileServer::LookupResult> FileServer::lookup(Target target, uint16_t flags, std::vector<Attributes>& found,
                                                       std::string& link) {
    TRY(check_path(target.path));
    if (target.path.empty()) return Errno(EINVAL);
    Node* node = TRY(find(target.node));
    uint32_t mount = node->mount;
    UniqueFd owned;
    int at = node->fd.get();
    LookupResult result;
    std::string_view rest = target.path;
    while (!rest.empty()) {
        size_t end = rest.find('/');
        std::string name(rest.substr(0, end));
        rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
        auto next = open_beneath(at, name, O_PATH | O_NOFOLLOW);
        if (!next.ok()) {
            result.error = next.error().value;
            return result;
        }
        Attributes attributes = TRY(read_attributes(next->get()));
        owned = next.take_value();
        at = owned.get();
        found.push_back(attributes);
        result.count++;
        if (S_ISLNK(attributes.mode) && (flags & kFlagWantOpen || !rest.empty())) {
            link = TRY(read_link_fd(at));
            if (!rest.empty()) return result;
        }
        if (!rest.empty() && !S_ISDIR(attributes.mode)) {
            result.error = ENOTDIR;
            return result;
        }
    }
    result.complete = true;
    result.entry.attributes = found.back();
    uint32_t mode = found.back().mode;
    if ((flags & kFlagWantOpen) && S_ISREG(mode)) {
        auto opened = reopen(at, mode, O_RDONLY);
        if (opened.ok()) result.entry.fd = opened.take_value();
    }
    if ((flags & kFlagWantAnyNode) || ((flags & kFlagWantNode) && S_ISDIR(mode)))
        result.entry.node = TRY(add_node(std::move(owned), mount));
    return result;
}

SysResult<FileServer::Entry> FileServer::open(Target target, uint32_t open_flags) {
    uint32_t mount = 0;
    UniqueFd fd = TRY(resolve(target, &mount));
    Entry entry;
    entry.attributes = TRY(read_attributes(fd.get()));
    if (!S_ISREG(entry.attributes.mode)) return Errno(S_ISDIR(entry.attributes.mode) ? EISDIR : ENXIO);
    int access = static_cast<int>(open_flags) & O_ACCMODE;
    if (access == O_ACCMODE) return Errno(EINVAL);
    bool truncate = open_flags & O_TRUNC;
    if (access != O_RDONLY || truncate) TRY(check_writable(mount));
    int flags = access | (static_cast<int>(open_flags) & (O_DIRECT | O_TRUNC));
    entry.fd = TRY(reopen(fd.get(), entry.attributes.mode, flags));
    if (truncate) entry.attributes = TRY(read_attributes(entry.fd.get()));
    return entry;
}

void FileServer::tell_parent(const Place& place, uint16_t flags, Entry& entry) {
    if (!(flags & kFlagParent)) return;
    auto parent = read_attributes(place.parent);
    if (parent.ok()) entry.parent = *parent;
}

// Owner and mode of something new, then its attributes.
SysResult<FileServer::Entry> FileServer::finish_new(Place& place, uint32_t mode, uint32_t uid, uint32_t gid,
                                                    uint16_t flags) {
    UniqueFd fd = TRY(open_beneath(place.parent, place.name, O_PATH | O_NOFOLLOW));
    Entry entry;
    entry.attributes = TRY(read_attributes(fd.get()));
    if (entry.attributes.uid != uid || entry.attributes.gid != gid)
        if (::fchownat(fd.get(), "", uid, gid, AT_EMPTY_PATH) != 0) return last_errno();
    if (!S_ISLNK(entry.attributes.mode) && (entry.attributes.mode & kPermissionBits) != (mode & kPermissionBits))
        if (::fchmodat(proc_self_fd_.get(), proc_name(fd.get()).c_str(), mode & kPermissionBits, 0) != 0)
            return last_errno();
    entry.attributes = TRY(read_attributes(fd.get()));
    tell_parent(place, flags, entry);
    if (flags & (kFlagWantNode | kFlagWantAnyNode)) entry.node = TRY(add_node(std::move(fd), place.mount));
    return entry;
}

SysResult<FileServer::Entry> FileServer::create(Target target, uint32_t mode, uint32_t uid, uint32_t gid,
                                                uint16_t flags) {
    Place place = TRY(this->place(target, true));
    UniqueFd fd(::openat(place.parent, place.name.c_str(),
                         O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, mode & kPermissionBits));
    if (!fd && errno == EEXIST && (flags & kFlagExisting)) {
        Entry existing;
        auto there = read_attributes_at(place.parent, place.name.c_str());
        if (!there.ok()) return Errno(EEXIST);
        existing.attributes = *there;
        existing.value = EEXIST;
        return existing;
    }
    if (!fd) return last_errno();
    auto undo = [&](Errno error) {
        ::unlinkat(place.parent, place.name.c_str(), 0);
        return error;
    };
    auto made = read_attributes(fd.get());
    if (!made.ok()) return undo(made.error());
    bool owner = made->uid != uid || made->gid != gid;
    bool permissions = (made->mode & kPermissionBits) != (mode & kPermissionBits) || (mode & (S_ISUID | S_ISGID));
    if (owner && ::fchown(fd.get(), uid, gid) != 0) return undo(last_errno());
    if (permissions && ::fchmod(fd.get(), mode & kPermissionBits) != 0) return undo(last_errno());
    Entry entry;
    entry.attributes = *made;
    if (owner || permissions) entry.attributes = TRY(read_attributes(fd.get()));
    tell_parent(place, flags, entry);
    if (is_shared(place.mount))
        entry.fd = std::move(fd);
    else
        entry.kept = made_.keep(target.node, target.path, std::move(fd));
    return entry;
}

SysResult<FileServer::Entry> FileServer::create_unnamed(Target directory, uint32_t mode, uint32_t uid, uint32_t gid) {
    uint32_t mount = 0;
    UniqueFd at = TRY(resolve(directory, &mount));
    TRY(check_writable(mount));
    UniqueFd fd(::openat(at.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode & kPermissionBits));
    if (!fd) return last_errno();
    if (::fchown(fd.get(), uid, gid) != 0) return last_errno();
    if (::fchmod(fd.get(), mode & kPermissionBits) != 0) return last_errno();
    Entry entry;
    entry.attributes = TRY(read_attributes(fd.get()));
    UniqueFd node(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!node) return last_errno();
    entry.node = TRY(add_node(std::move(node), mount));
    entry.fd = std::move(fd);
    return entry;
}

SysResult<FileServer::Entry> FileServer::make_directory(Target target, uint32_t mode, uint32_t uid, uint32_t gid,
                                                        uint16_t flags) {
    Place place = TRY(this->place(target, true));
    if (::mkdirat(place.parent, place.name.c_str(), mode & kPermissionBits) != 0) return last_errno();
    auto entry = finish_new(place, mode, uid, gid, flags);
    if (!entry.ok()) ::unlinkat(place.parent, place.name.c_str(), AT_REMOVEDIR);
    return entry;
}

SysResult<FileServer::Entry> FileServer::make_node(Target target, uint32_t mode, uint64_t device, uint32_t uid,
                                                   uint32_t gid) {
    switch (mode & S_IFMT) {
        case S_IFREG:
        case S_IFIFO:
        case S_IFSOCK:
            device = 0;
            break;
        case S_IFCHR:
            // A whiteout is harmless; a real device node in a host directory is a way out for others.
            if (device != 0) return Errno(EPERM);
            break;
        default:
            return Errno(EPERM);
    }
    Place place = TRY(this->place(target, true));
    if (::mknodat(place.parent, place.name.c_str(), mode & (S_IFMT | kPermissionBits), device) != 0)
        return last_errno();
    auto entry = finish_new(place, mode, uid, gid, 0);
    if (!entry.ok()) ::unlinkat(place.parent, place.name.c_str(), 0);
    return entry;
}

SysResult<FileServer::Entry> FileServer::make_symlink(Target target, std::string_view text, uint32_t uid, uint32_t gid,
                                                      uint16_t flags) {
    if (text.empty() || text.size() >= kMaxPathBytes || text.find('\0') != std::string_view::npos) return Errno(EINVAL);
    Place place = TRY(this->place(target, true));
    if (::symlinkat(std::string(text).c_str(), place.parent, place.name.c_str()) != 0) return last_errno();
    auto entry = finish_new(place, 0777, uid, gid, flags & kFlagParent);
    if (!entry.ok()) ::unlinkat(place.parent, place.name.c_str(), 0);
    return entry;
}

SysResult<FileServer::Entry> FileServer::link(Target target, Target new_name, uint16_t flags) {
    Place place = TRY(this->place(new_name, true));
    UniqueFd owned;
    int fd = made_.find(target.node, target.path);
    uint32_t mount = 0;
    if (fd >= 0) {
        mount = TRY(find(target.node))->mount;
    } else {
        owned = TRY(resolve(target, &mount));
        fd = owned.get();
    }
    if (place.mount != mount) return Errno(EXDEV);
    if (::linkat(fd, "", place.parent, place.name.c_str(), AT_EMPTY_PATH) != 0) {
        // Without CAP_DAC_READ_SEARCH (or for an O_TMPFILE node) the descriptor's name in /proc does.
        if (errno != ENOENT && errno != EPERM) return last_errno();
        if (::linkat(proc_self_fd_.get(), proc_name(fd).c_str(), place.parent, place.name.c_str(), AT_SYMLINK_FOLLOW) !=
            0)
            return last_errno();
    }
    Entry entry;
    entry.attributes = TRY(read_attributes(fd));
    tell_parent(place, flags, entry);
    return entry;
}

SysResult<FileServer::Entry> FileServer::unlink(Target target, uint16_t flags) {
    Place place = TRY(this->place(target, true));
    made_.forget();
    Entry entry;
    UniqueFd kept;
    if (flags & kFlagKeepNode) kept = TRY(open_beneath(place.parent, place.name, O_PATH | O_NOFOLLOW));
    if (::unlinkat(place.parent, place.name.c_str(), 0) != 0) return last_errno();
    if (kept) {
        entry.attributes = TRY(read_attributes(kept.get()));
        entry.node = TRY(add_node(std::move(kept), place.mount));
    }
    tell_parent(place, flags, entry);
    return entry;
}

SysResult<FileServer::Entry> FileServer::remove_directory(Target target, uint16_t flags) {
    Place place = TRY(this->place(target, true));
    if (::unlinkat(place.parent, place.name.c_str(), AT_REMOVEDIR) != 0) return last_errno();
    Entry entry;
    tell_parent(place, flags, entry);
    forget_directories();
    return entry;
}

SysResult<FileServer::Entry> FileServer::rename(Target target, Target new_name, uint32_t rename_flags, uint16_t flags) {
    if (rename_flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE)) return Errno(EINVAL);
    Place from = TRY(place(target, true));
    Place to = TRY(place(new_name, true));
    if (from.mount != to.mount) return Errno(EXDEV);
    made_.forget();
    Entry entry;
    UniqueFd kept;
    if (flags & kFlagKeepNode) {
        auto replaced = open_beneath(to.parent, to.name, O_PATH | O_NOFOLLOW);
        if (replaced.ok()) kept = replaced.take_value();
    }
    // Not by libc, whose renameat2 without flags is another system call, which the jail does not let through.
    if (::syscall(SYS_renameat2, from.parent, from.name.c_str(), to.parent, to.name.c_str(), rename_flags) != 0)
        return last_errno();
    forget_directories();
    if (kept) {
        entry.attributes = TRY(read_attributes(kept.get()));
        entry.node = TRY(add_node(std::move(kept), to.mount));
    }
    return entry;
}

SysResult<std::string> FileServer::read_link(Target target) {
    UniqueFd fd = TRY(resolve(target));
    return read_link_fd(fd.get());
}

SysResult<FileServer::Entry> FileServer::get_attributes(Target target, uint16_t flags) {
    uint32_t mount = 0;
    UniqueFd fd = TRY(resolve(target, &mount));
    Entry entry;
    entry.attributes = TRY(read_attributes(fd.get()));
    if ((flags & kFlagWantAnyNode) || ((flags & kFlagWantNode) && S_ISDIR(entry.attributes.mode)))
        entry.node = TRY(add_node(std::move(fd), mount));
    return entry;
}

SysResult<void> FileServer::attributes_of(Target directory, std::string_view names, std::string& into, size_t room) {
    UniqueFd fd = TRY(resolve(directory));
    while (!names.empty()) {
        std::string name(names.substr(0, names.find('\0')));
        names.remove_prefix(std::min(name.size() + 1, names.size()));
        TRY(check_path(name));
        if (name.empty() || name.find('/') != std::string::npos) return Errno(EINVAL);
        if (into.size() + sizeof(Attributes) > room) return {};
        auto read = read_attributes_at(fd.get(), name.c_str());
        Attributes attributes = read.ok() ? *read : Attributes();
        into.append(reinterpret_cast<const char*>(&attributes), sizeof(attributes));
    }
    return {};
}

SysResult<FileServer::Entry> FileServer::set_attributes(Target target, const Request& change) {
    Entry entry;
    entry.attributes.mode = S_IFREG;
    UniqueFd owned;
    const int kept = made_.find(target.node, target.path);
    int fd = kept;
    if (kept < 0) {
        uint32_t mount = 0;
        owned = TRY(resolve(target, &mount));
        TRY(check_writable(mount));
        fd = owned.get();
        if (change.valid & (kSetMode | kSetSize)) entry.attributes = TRY(read_attributes(fd));
    }
    if (change.valid & (kSetUid | kSetGid)) {
        uid_t uid = change.valid & kSetUid ? change.uid : static_cast<uid_t>(-1);
        gid_t gid = change.valid & kSetGid ? change.gid : static_cast<gid_t>(-1);
        if ((kept >= 0 ? ::fchown(fd, uid, gid) : ::fchownat(fd, "", uid, gid, AT_EMPTY_PATH)) != 0)
            return last_errno();
    }
    if (change.valid & kSetMode) {
        if (S_ISLNK(entry.attributes.mode)) return Errno(EOPNOTSUPP);
        const mode_t mode = change.mode & kPermissionBits;
        if ((kept >= 0 ? ::fchmod(fd, mode) : ::fchmodat(proc_self_fd_.get(), proc_name(fd).c_str(), mode, 0)) != 0)
            return last_errno();
    }
    if (change.valid & kSetSize) {
        if (!S_ISREG(entry.attributes.mode)) return Errno(EINVAL);
        if (change.size < 0) return Errno(EINVAL);
        UniqueFd writable;
        if (kept < 0) writable = TRY(reopen(fd, entry.attributes.mode, O_WRONLY));
        if (::ftruncate(kept < 0 ? writable.get() : kept, change.size) != 0) return last_errno();
    }
    constexpr uint32_t kTimes = kSetAccessTime | kSetModificationTime | kSetAccessNow | kSetModificationNow;
    if (change.valid & kTimes) {
        timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
        if (change.access_nsec > 999'999'999 || change.modification_nsec > 999'999'999) return Errno(EINVAL);
        if (change.valid & kSetAccessTime) times[0] = {change.access_time, static_cast<long>(change.access_nsec)};
        if (change.valid & kSetModificationTime)
            times[1] = {change.modification_time, static_cast<long>(change.modification_nsec)};
        if (change.valid & kSetAccessNow) times[0].tv_nsec = UTIME_NOW;
        if (change.valid & kSetModificationNow) times[1].tv_nsec = UTIME_NOW;
        if ((kept >= 0 ? ::futimens(fd, times) : ::utimensat(fd, "", times, AT_EMPTY_PATH)) != 0) return last_errno();
    }
    if (!(change.flags & kFlagNoReply)) entry.attributes = TRY(read_attributes(fd));
    return entry;
}

SysResult<struct statfs> FileServer::statfs(Target target) {
    UniqueFd fd = TRY(resolve(target));
    struct statfs info;
    if (::fstatfs(fd.get(), &info) != 0) return last_errno();
    return info;
}

// xattr calls go by path: the process's working directory is /proc/self/fd, whose entries lead to the very inode. Those
// of symlinks cannot be reached so (and hold nothing but security.*, which is not the guest's).
SysResult<std::string> FileServer::get_xattr(Target target, std::string_view name) {
    TRY(check_name(name));
    UniqueFd fd = TRY(resolve(target));
    std::string value(kMaxXattrValue, '\0');
    ssize_t n = ::getxattr(proc_name(fd.get()).c_str(), std::string(name).c_str(), value.data(), value.size());
    if (n < 0) return last_errno();
    value.resize(static_cast<size_t>(n));
    return value;
}

SysResult<void> FileServer::set_xattr(Target target, std::string_view name, std::string_view value, uint32_t flags) {
    TRY(check_name(name));
    if (value.size() > kMaxXattrValue) return Errno(E2BIG);
    uint32_t mount = 0;
    UniqueFd fd = TRY(resolve(target, &mount));
    TRY(check_writable(mount));
    if (::setxattr(proc_name(fd.get()).c_str(), std::string(name).c_str(), value.data(), value.size(),
                   static_cast<int>(flags)) != 0)
        return last_errno();
    return {};
}

SysResult<void> FileServer::remove_xattr(Target target, std::string_view name) {
    TRY(check_name(name));
    uint32_t mount = 0;
    UniqueFd fd = TRY(resolve(target, &mount));
    TRY(check_writable(mount));
    if (::removexattr(proc_name(fd.get()).c_str(), std::string(name).c_str()) != 0) return last_errno();
    return {};
}

SysResult<std::string> FileServer::list_xattrs(Target target) {
    UniqueFd fd = TRY(resolve(target));
    std::string names(kMaxXattrValue, '\0');
    ssize_t n = ::listxattr(proc_name(fd.get()).c_str(), names.data(), names.size());
    if (n < 0) return last_errno();
    names.resize(static_cast<size_t>(n));
    return names;
}

SysResult<void> FileServer::sync(Target target, uint16_t flags) {
    const bool one = flags & kFlagThisOnly;
    if (one && synced_.fd && synced_.node == target.node && synced_.path == target.path)
        return ::fsync(synced_.fd.get()) == 0 ? SysResult<void>() : last_errno();
    uint32_t mount = 0;
    UniqueFd fd = TRY(resolve(target, &mount));
    Attributes attributes = TRY(read_attributes(fd.get()));
    UniqueFd opened = TRY(reopen(fd.get(), attributes.mode, O_RDONLY));
    if ((one ? ::fsync(opened.get()) : ::syncfs(opened.get())) != 0) return last_errno();
    if (one && S_ISDIR(attributes.mode) && !is_shared(mount))
        synced_ = Directory{target.node, std::string(target.path), std::move(opened), 0};
    return {};
}

}  // namespace casemate::fileserver
