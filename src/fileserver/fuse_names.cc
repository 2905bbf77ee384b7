// FuseDirectory: what makes, removes and moves names.
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fileserver/fuse_directory.h"

namespace casemate::fileserver {

namespace {

// A reply that does not fit is refused before anything is made or counted.
SysResult<void> check_room(const virtio::ChainBuffer& out, size_t size) {
    if (out.remaining() < size) return Errno(EIO);
    return {};
}

}  // namespace

SysResult<uint32_t> FuseDirectory::make_symlink(const fuse_in_header& header, Buffer& in, Buffer& out) {
    std::vector<std::string> strings = TRY(take_strings(in, 2));
    TRY(check_component(strings[0]));
    TRY(check_writable());
    TRY(check_room(out, sizeof(fuse_entry_out)));
    int parent = TRY(node_fd(header.nodeid));
    if (::symlinkat(strings[1].c_str(), parent, strings[0].c_str()) != 0) return last_errno();
    fuse_entry_out entry = TRY(enter_new(header.nodeid, strings[0], header, 0777));
    return reply_with(out, entry);
}

SysResult<uint32_t> FuseDirectory::make_node(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_mknod_in>(in));
    std::vector<std::string> names = TRY(take_strings(in, 1));
    TRY(check_component(names[0]));
    TRY(check_writable());
    TRY(check_room(out, sizeof(fuse_entry_out)));
    int parent = TRY(node_fd(header.nodeid));
    // No device is ever made on the host, but the marks that an overlay leaves: a character device without a number.
    bool whiteout = S_ISCHR(arguments.mode) && arguments.rdev == 0;
    if (!S_ISREG(arguments.mode) && !S_ISFIFO(arguments.mode) && !S_ISSOCK(arguments.mode) && !whiteout)
        return Errno(EPERM);
    if (::mknodat(parent, names[0].c_str(), arguments.mode & S_IFMT, 0) != 0) return last_errno();
    fuse_entry_out entry = TRY(enter_new(header.nodeid, names[0], header, arguments.mode));
    return reply_with(out, entry);
}

SysResult<uint32_t> FuseDirectory::make_directory(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_mkdir_in>(in));
    std::vector<std::string> names = TRY(take_strings(in, 1));
    TRY(check_component(names[0]));
    TRY(check_writable());
    TRY(check_room(out, sizeof(fuse_entry_out)));
    int parent = TRY(node_fd(header.nodeid));
    if (::mkdirat(parent, names[0].c_str(), 0700) != 0) return last_errno();
    fuse_entry_out entry = TRY(enter_new(header.nodeid, names[0], header, arguments.mode));
    return reply_with(out, entry);
}

SysResult<uint32_t> FuseDirectory::remove(const fuse_in_header& header, Buffer& in, int flags) {
    std::vector<std::string> names = TRY(take_strings(in, 1));
    TRY(check_component(names[0]));
    TRY(check_writable());
    int parent = TRY(node_fd(header.nodeid));
    if (::unlinkat(parent, names[0].c_str(), flags) != 0) return last_errno();
    return 0;
}

SysResult<uint32_t> FuseDirectory::rename(const fuse_in_header& header, Buffer& in, bool with_flags) {
    uint64_t new_parent_id;
    uint32_t flags = 0;
    if (with_flags) {
        auto arguments = TRY(take_arguments<fuse_rename2_in>(in));
        new_parent_id = arguments.newdir;
        flags = arguments.flags;
    } else {
        new_parent_id = TRY(take_arguments<fuse_rename_in>(in)).newdir;
    }
    std::vector<std::string> names = TRY(take_strings(in, 2));
    TRY(check_component(names[0]));
    TRY(check_component(names[1]));
    TRY(check_writable());
    if ((flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE}) != 0) return Errno(EINVAL);
    int parent = TRY(node_fd(header.nodeid));
    int new_parent = TRY(node_fd(new_parent_id));
    // By number: glibc calls renameat without flags, which the seccomp list does not have.
    if (::syscall(SYS_renameat2, parent, names[0].c_str(), new_parent, names[1].c_str(), flags) != 0)
        return last_errno();
    return 0;
}

SysResult<uint32_t> FuseDirectory::link(const fuse_in_header& header, Buffer& in, Buffer& out) {
    auto arguments = TRY(take_arguments<fuse_link_in>(in));
    std::vector<std::string> names = TRY(take_strings(in, 1));
    TRY(check_component(names[0]));
    TRY(check_writable());
    TRY(check_room(out, sizeof(fuse_entry_out)));
    int old = TRY(node_fd(arguments.oldnodeid));
    int parent = TRY(node_fd(header.nodeid));
    // Through /proc: following it leads to the very inode.
    if (::linkat(proc_self_fd_.get(), std::to_string(old).c_str(), parent, names[0].c_str(), AT_SYMLINK_FOLLOW) != 0)
        return last_errno();
    fuse_entry_out entry = TRY(enter(parent, names[0]));
    return reply_with(out, entry);
}

}  // namespace casemate::fileserver
