#include "fileserver/fuse_directory.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "fileserver/host_calls.h"
#include "fileserver/path_check.h"

namespace casemate::fileserver {

namespace {

constexpr uint32_t kPermissionBits = 07777;
constexpr uint32_t kMaxWrite = 1 << 20;
constexpr uint32_t kMinor = 33;  // with what this file knows

}  // namespace

SysResult<std::vector<std::string>> take_strings(virtio::ChainBuffer& in, size_t count) {
    if (in.remaining() > count * (kMaxPathBytes + 1)) return Errno(ENAMETOOLONG);
    std::string all(in.remaining(), 0);
    in.read(all.data(), all.size());
    std::vector<std::string> strings;
    size_t at = 0;
    while (strings.size() < count) {
        size_t end = all.find('\0', at);
        if (end == std::string::npos) return Errno(EINVAL);
        strings.push_back(all.substr(at, end - at));
        at = end + 1;
    }
    return strings;
}

SysResult<void> check_component(const std::string& name) {
    if (name.empty() || name.find('/') != std::string::npos) return Errno(EINVAL);
    return check_path(name);
}

Result<std::unique_ptr<FuseDirectory>> FuseDirectory::create(UniqueFd directory, UniqueFd proc_self_fd,
                                                             Options options) {
    auto attributes = read_attributes(directory.get());
    if (!attributes.ok()) return sys_error("shared directory", attributes.error().value);
    if (!S_ISDIR(attributes->mode)) return sys_error("shared directory", ENOTDIR);
    rlimit limit{};
    // A part of the descriptors is for handles and everything else.
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        options.max_nodes = std::min<size_t>(options.max_nodes, limit.rlim_cur / 2);
        options.max_handles = std::min<size_t>(options.max_handles, limit.rlim_cur / 4);
    }
    std::unique_ptr<FuseDirectory> made(
        new FuseDirectory(std::move(directory), std::move(proc_self_fd), std::move(options)));
    made->root_device_ = attributes->device;
    return made;
}

FuseDirectory::FuseDirectory(UniqueFd directory, UniqueFd proc_self_fd, Options options)
    : options_(std::move(options)), root_(std::move(directory)), proc_self_fd_(std::move(proc_self_fd)) {}

SysResult<uint32_t> FuseDirectory::serve(const fuse_in_header& header, Buffer& in, Buffer& out) {
    switch (header.opcode) {
        case FUSE_INIT:
            return init(in, out);
        case FUSE_DESTROY:
            forget_all();
            return 0;
        case FUSE_LOOKUP:
            return look_up(header, in, out);
        case FUSE_FORGET: {
            auto arguments = TRY(take_arguments<fuse_forget_in>(in));
            forget(header.nodeid, arguments.nlookup);
            return 0;
        }
        case FUSE_BATCH_FORGET:
            return batch_forget(in);
        case FUSE_GETATTR:
            return get_attributes(header, out);
        case FUSE_SETATTR:
            return set_attributes(header, in, out);
        case FUSE_READLINK:
            return read_link(header, out);
        case FUSE_SYMLINK:
            return make_symlink(header, in, out);
        case FUSE_MKNOD:
            return make_node(header, in, out);
        case FUSE_MKDIR:
            return make_directory(header, in, out);
        case FUSE_UNLINK:
            return remove(header, in, 0);
        case FUSE_RMDIR:
            return remove(header, in, AT_REMOVEDIR);
        case FUSE_RENAME:
            return rename(header, in, false);
        case FUSE_RENAME2:
            return rename(header, in, true);
        case FUSE_LINK:
            return link(header, in, out);
        case FUSE_OPEN:
            return open(header, in, out, false);
        case FUSE_OPENDIR:
            return open(header, in, out, true);
        case FUSE_CREATE:
            return create_file(header, in, out);
        case FUSE_READ:
            return read(in, out);
        case FUSE_WRITE:
            return write(in, out);
        case FUSE_RELEASE:
            return release(in, false);
        case FUSE_RELEASEDIR:
            return release(in, true);
        case FUSE_FSYNC:
            return sync(in, false);
        case FUSE_FSYNCDIR:
            return sync(in, true);
        case FUSE_STATFS:
            return statfs(header, out);
        case FUSE_READDIR:
            return list(in, out, false);
        case FUSE_READDIRPLUS:
            return list(in, out, true);
        case FUSE_GETXATTR:
            return get_xattr(header, in, out);
        case FUSE_SETXATTR:
            return set_xattr(header, in);
        case FUSE_LISTXATTR:
            return list_xattrs(header, in, out);
        case FUSE_REMOVEXATTR:
            return remove_xattr(header, in);
        case FUSE_LSEEK:
            return seek(in, out);
        case FUSE_FALLOCATE:
            return allocate(in);
        case FUSE_COPY_FILE_RANGE:
            return copy_range(in, out);
        case FUSE_SYNCFS: {
            UniqueFd root = TRY(reopen(root_.get(), O_RDONLY | O_DIRECTORY));
            if (::syncfs(root.get()) != 0) return last_errno();
            return 0;
        }
        default:
            // ACCESS and FLUSH among them: the guest checks by itself, and there is nothing to flush. It asks once.
            return Errno(ENOSYS);
    }
}

SysResult<uint32_t> FuseDirectory::init(Buffer& in, Buffer& out) {
    struct Old {  // what every version sends
        uint32_t major, minor, max_readahead, flags;
    };
    Old arguments = TRY(take_arguments<Old>(in));
    forget_all();
    fuse_init_out reply{};
    reply.major = FUSE_KERNEL_VERSION;
    reply.minor = kMinor;
    if (arguments.major < FUSE_KERNEL_VERSION) return Errno(EPROTO);
    // A newer one asks again with our version.
    if (arguments.major > FUSE_KERNEL_VERSION) return reply_with(out, reply);
    reply.max_readahead = arguments.max_readahead;
    reply.flags = arguments.flags &
                  (FUSE_ASYNC_READ | FUSE_PARALLEL_DIROPS | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO |
                   FUSE_ATOMIC_O_TRUNC | FUSE_MAX_PAGES | FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO |
                   // Or the guest asks for a file's capabilities before each write.
                   FUSE_HANDLE_KILLPRIV_V2);
    reply.max_background = 64;
    reply.congestion_threshold = 48;
    reply.max_write = kMaxWrite;
    reply.time_gran = 1;
    reply.max_pages = kMaxWrite / 4096;
    return reply_with(out, reply);
}

SysResult<int> FuseDirectory::node_fd(uint64_t id) const {
    if (id == FUSE_ROOT_ID) return root_.get();
    auto found = nodes_.find(id);
    if (found == nodes_.end() || !found->second.fd) return Errno(ESTALE);
    return found->second.fd.get();
}

SysResult<FuseDirectory::Handle*> FuseDirectory::handle(uint64_t number, bool directory) {
    auto found = handles_.find(number);
    if (found == handles_.end() || found->second.directory != directory) return Errno(EBADF);
    if (!found->second.fd) return Errno(ESTALE);
    return &found->second;
}

SysResult<void> FuseDirectory::check_writable() const {
    if (options_.read_only) return Errno(EROFS);
    return {};
}

SysResult<uint64_t> FuseDirectory::add_node(UniqueFd fd, const Attributes& attributes) {
    std::pair<uint64_t, uint64_t> inode(attributes.device, attributes.inode);
    auto known = by_inode_.find(inode);
    if (known != by_inode_.end()) {
        ++nodes_[known->second].lookups;
        return known->second;
    }
    if (nodes_.size() >= options_.max_nodes) return Errno(ENFILE);
    uint64_t id = next_node_++;
    Node& node = nodes_[id];
    node.fd = std::move(fd);
    node.lookups = 1;
    node.inode = inode;
    by_inode_[inode] = id;
    return id;
}

void FuseDirectory::forget(uint64_t id, uint64_t lookups) {
    auto found = nodes_.find(id);
    if (found == nodes_.end()) return;
    Node& node = found->second;
    node.lookups -= std::min(node.lookups, lookups);
    if (node.lookups > 0) return;
    auto known = by_inode_.find(node.inode);
    if (known != by_inode_.end() && known->second == id) by_inode_.erase(known);
    nodes_.erase(found);
}

void FuseDirectory::forget_all() {
    nodes_.clear();
    by_inode_.clear();
    handles_.clear();
}

SysResult<uint64_t> FuseDirectory::add_handle(UniqueFd fd, uint64_t node, int flags, bool directory) {
    if (handles_.size() >= options_.max_handles) return Errno(ENFILE);
    uint64_t number = next_handle_++;
    Handle& made = handles_[number];
    made.fd = std::move(fd);
    made.node = node;
    made.flags = flags;
    made.directory = directory;
    return number;
}

SysResult<void> FuseDirectory::drop_set_ids(int fd) {
    Attributes attributes = TRY(read_attributes(fd));
    mode_t dropped = attributes.mode & S_ISUID;
    if ((attributes.mode & S_IXGRP) != 0) dropped |= attributes.mode & S_ISGID;
    if (!S_ISREG(attributes.mode) || dropped == 0) return {};
    if (::fchmodat(proc_self_fd_.get(), std::to_string(fd).c_str(), attributes.mode & kPermissionBits & ~dropped, 0) !=
        0)
        return last_errno();
    return {};
}

SysResult<UniqueFd> FuseDirectory::reopen(int path_fd, int flags) {
    Attributes attributes = TRY(read_attributes(path_fd));
    if (!S_ISREG(attributes.mode) && !S_ISDIR(attributes.mode)) return Errno(S_ISLNK(attributes.mode) ? ELOOP : ENXIO);
    flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    int fd = S_ISDIR(attributes.mode) ? ::openat(path_fd, ".", flags)
                                      : ::openat(proc_self_fd_.get(), std::to_string(path_fd).c_str(), flags);
    if (fd < 0) return last_errno();
    UniqueFd opened(fd);
    if (S_ISREG(attributes.mode)) ::fcntl(opened.get(), F_SETFL, flags & O_APPEND);
    return opened;
}

fuse_attr FuseDirectory::to_fuse(const Attributes& a) const {
    fuse_attr attr{};
    // Another file system below: its numbers may repeat ours, so they are mixed.
    attr.ino = a.device == root_device_ ? a.inode : (a.inode ^ (a.device * 0x9e3779b97f4a7c15u)) | uint64_t{1} << 63;
    attr.size = static_cast<uint64_t>(a.size);
    attr.blocks = static_cast<uint64_t>(a.blocks);
    attr.atime = static_cast<uint64_t>(a.access_time);
    attr.mtime = static_cast<uint64_t>(a.modification_time);
    attr.ctime = static_cast<uint64_t>(a.change_time);
    attr.atimensec = a.access_nsec;
    attr.mtimensec = a.modification_nsec;
    attr.ctimensec = a.change_nsec;
    attr.mode = a.mode;
    attr.nlink = static_cast<uint32_t>(a.links);
    attr.uid = a.uid;
    attr.gid = a.gid;
    unsigned major = ::major(a.special_device), minor = ::minor(a.special_device);
    attr.rdev = (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
    attr.blksize = static_cast<uint32_t>(a.block_size);
    return attr;
}

SysResult<fuse_entry_out> FuseDirectory::enter(int parent, const std::string& name) {
    TRY(check_component(name));
    UniqueFd fd = TRY(open_beneath(parent, name, O_PATH | O_NOFOLLOW));
    Attributes attributes = TRY(read_attributes(fd.get()));
    return enter(std::move(fd), attributes);
}

SysResult<fuse_entry_out> FuseDirectory::enter(UniqueFd fd, const Attributes& attributes) {
    fuse_entry_out entry{};
    entry.nodeid = TRY(add_node(std::move(fd), attributes));
    entry.entry_valid = entry.attr_valid = options_.cache_seconds;
    entry.attr = to_fuse(attributes);
    return entry;
}

SysResult<fuse_entry_out> FuseDirectory::enter_new(uint64_t parent_id, const std::string& name,
                                                   const fuse_in_header& header, uint32_t mode) {
    int parent = TRY(node_fd(parent_id));
    UniqueFd fd = TRY(open_beneath(parent, name, O_PATH | O_NOFOLLOW));
    Attributes attributes = TRY(read_attributes(fd.get()));
    Attributes above = TRY(read_attributes(parent));
    uint32_t gid = header.gid;
    if ((above.mode & S_ISGID) != 0) {
        gid = above.gid;
        if (S_ISDIR(attributes.mode))
            mode |= S_ISGID;
        else if (header.gid != gid && header.uid != 0)
            mode &= ~uint32_t{S_ISGID};  // CVE-2022-0358: no group's rights for who is not in it
    }
    bool changed = false;
    if (attributes.uid != header.uid || attributes.gid != gid) {
        changed = true;
        // Without the right to give files away they are all the server's.
        if (::fchownat(fd.get(), "", header.uid, gid, AT_EMPTY_PATH) != 0 && !(errno == EPERM && !as_host_root_))
            return last_errno();
    }
    if (!S_ISLNK(attributes.mode) && (attributes.mode & kPermissionBits) != (mode & kPermissionBits)) {
        changed = true;
        if (::fchmodat(proc_self_fd_.get(), std::to_string(fd.get()).c_str(), mode & kPermissionBits, 0) != 0)
            return last_errno();
    }
    if (changed) attributes = TRY(read_attributes(fd.get()));
    return enter(std::move(fd), attributes);
}

SysResult<uint32_t> FuseDirectory::look_up(const fuse_in_header& header, Buffer& in, Buffer& out) {
    std::vector<std::string> names = TRY(take_strings(in, 1));
    int parent = TRY(node_fd(header.nodeid));
    // Before anything is counted: a reply that does not fit would leave a count that nobody takes back.
    if (out.remaining() < sizeof(fuse_entry_out)) return Errno(EIO);
    fuse_entry_out entry = TRY(enter(parent, names[0]));
    return reply_with(out, entry);
}

SysResult<uint32_t> FuseDirectory::batch_forget(Buffer& in) {
    auto arguments = TRY(take_arguments<fuse_batch_forget_in>(in));
    for (uint32_t i = 0; i < arguments.count; ++i) {
        auto one = TRY(take_arguments<fuse_forget_one>(in));  // ends with the message, whatever the count says
        forget(one.nodeid, one.nlookup);
    }
    return 0;
}

SysResult<uint32_t> FuseDirectory::reply_attributes(int fd, Buffer& out) {
    Attributes attributes = TRY(read_attributes(fd));
    fuse_attr_out reply{};
    reply.attr_valid = options_.cache_seconds;
    reply.attr = to_fuse(attributes);
    return reply_with(out, reply);
}

SysResult<uint32_t> FuseDirectory::get_attributes(const fuse_in_header& header, Buffer& out) {
    int fd = TRY(node_fd(header.nodeid));
    return reply_attributes(fd, out);
}

SysResult<uint32_t> FuseDirectory::set_attributes(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto change = TRY(take_arguments<fuse_setattr_in>(in));
    TRY(check_writable());
    int fd = TRY(node_fd(header.nodeid));
    Attributes attributes = TRY(read_attributes(fd));
    if ((change.valid & (FATTR_UID | FATTR_GID)) != 0) {
        uid_t uid = (change.valid & FATTR_UID) != 0 ? change.uid : static_cast<uid_t>(-1);
        gid_t gid = (change.valid & FATTR_GID) != 0 ? change.gid : static_cast<gid_t>(-1);
        if (::fchownat(fd, "", uid, gid, AT_EMPTY_PATH) != 0) return last_errno();
    }
    if ((change.valid & FATTR_MODE) != 0) {
        if (S_ISLNK(attributes.mode)) return Errno(EOPNOTSUPP);
        if (::fchmodat(proc_self_fd_.get(), std::to_string(fd).c_str(), change.mode & kPermissionBits, 0) != 0)
            return last_errno();
    }
    if ((change.valid & FATTR_SIZE) != 0) {
        if (!S_ISREG(attributes.mode) || change.size > INT64_MAX) return Errno(EINVAL);
        UniqueFd opened;
        int writable;
        if ((change.valid & FATTR_FH) != 0) {
            Handle* open_file = TRY(handle(change.fh, false));
            writable = open_file->fd.get();
        } else {
            opened = TRY(reopen(fd, O_WRONLY));
            writable = opened.get();
        }
        if ((change.valid & FATTR_KILL_SUIDGID) != 0) TRY(drop_set_ids(writable));
        if (::ftruncate(writable, static_cast<off_t>(change.size)) != 0) return last_errno();
    }
    if ((change.valid & (FATTR_ATIME | FATTR_MTIME)) != 0) {
        timespec times[2] = {{0, UTIME_OMIT}, {0, UTIME_OMIT}};
        if (change.atimensec > 999'999'999 || change.mtimensec > 999'999'999) return Errno(EINVAL);
        if ((change.valid & FATTR_ATIME) != 0) times[0] = {static_cast<time_t>(change.atime), change.atimensec};
        if ((change.valid & FATTR_MTIME) != 0) times[1] = {static_cast<time_t>(change.mtime), change.mtimensec};
        if ((change.valid & FATTR_ATIME_NOW) != 0) times[0].tv_nsec = UTIME_NOW;
        if ((change.valid & FATTR_MTIME_NOW) != 0) times[1].tv_nsec = UTIME_NOW;
        if (::utimensat(fd, "", times, AT_EMPTY_PATH) != 0) return last_errno();
    }
    return reply_attributes(fd, out);
}

SysResult<uint32_t> FuseDirectory::read_link(const fuse_in_header& header, Buffer& out) {
    int fd = TRY(node_fd(header.nodeid));
    std::string text = TRY(read_link_fd(fd));
    return static_cast<uint32_t>(out.write(text.data(), text.size()));
}

SysResult<uint32_t> FuseDirectory::statfs(const fuse_in_header& header, Buffer& out) {
    int fd = TRY(node_fd(header.nodeid));
    struct statfs info;
    if (::fstatfs(fd, &info) != 0) return last_errno();
    fuse_statfs_out reply{};
    reply.st.blocks = info.f_blocks;
    reply.st.bfree = info.f_bfree;
    reply.st.bavail = info.f_bavail;
    reply.st.files = info.f_files;
    reply.st.ffree = info.f_ffree;
    reply.st.bsize = static_cast<uint32_t>(info.f_bsize);
    reply.st.namelen = static_cast<uint32_t>(info.f_namelen);
    reply.st.frsize = static_cast<uint32_t>(info.f_frsize);
    return reply_with(out, reply);
}

}  // namespace casemate::fileserver
