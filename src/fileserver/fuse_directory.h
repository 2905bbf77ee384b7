// One directory of the host served to a guest in FUSE messages: what stands behind a virtio-fs device.
//
// Trust: every byte of a message was chosen by the guest. Names are single components; the walk is openat2(2) from the
// node's own descriptor with RESOLVE_BENEATH and without links (host_calls.h), so nothing leads out of the directory.
// Only regular files and directories are opened for content, after a look at the very inode through its O_PATH
// descriptor: a device node, FIFO or socket never is (CVE-2020-35517), and no device node is made. The guest's count of
// lookups only ever ends a node's number; descriptors are ours, and so are their bounds. Permissions were checked by
// the guest's kernel (default_permissions).
//
// Not thread-safe. The process's umask must be 0.
#pragma once

#include <unistd.h>

#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.h"
#include "fileserver/protocol.h"
#include "virtio/fuse_handler.h"

namespace casemate::fileserver {

class FuseDirectory final : public virtio::FuseServer {
  public:
    struct Options {
        bool read_only = false;
        // Nodes and handles cost a descriptor each; past that lookups and opens fail with ENFILE.
        size_t max_nodes = 1 << 16;
        size_t max_handles = 1 << 12;
        // How long the guest may believe names and attributes, in seconds.
        uint64_t cache_seconds = 1;
        // Where the descriptors of this process appear as files: "" if that is the working directory (jail.h).
        std::string self_fd_prefix;
    };
    // `directory` may be O_PATH; `proc_self_fd` as of enter_proc_self_fd().
    static Result<std::unique_ptr<FuseDirectory>> create(UniqueFd directory, UniqueFd proc_self_fd, Options options);

    SysResult<uint32_t> serve(const fuse_in_header& header, virtio::ChainBuffer& in, virtio::ChainBuffer& out) override;
    void forget_all() override;
    // Nodes as paths under the directory, handles by their node: what was renamed or removed meanwhile by others is
    // stale (ESTALE) after a restore.
    void save(virtio::StateWriter& writer) override;
    SysResult<void> restore(virtio::StateReader& reader) override;

    size_t node_count() const { return nodes_.size(); }
    size_t handle_count() const { return handles_.size(); }

  private:
    using Buffer = virtio::ChainBuffer;
    using Reply = SysResult<uint32_t>;

    struct Node {
        UniqueFd fd;  // O_PATH; empty: stale after a restore
        uint64_t lookups = 0;
        std::pair<uint64_t, uint64_t> inode;  // device and number
    };
    struct Handle {
        UniqueFd fd;
        uint64_t node = 0;
        int flags = 0;
        bool directory = false;
    };

    FuseDirectory(UniqueFd directory, UniqueFd proc_self_fd, Options options);
    SysResult<int> node_fd(uint64_t id) const;
    SysResult<Handle*> handle(uint64_t number, bool directory);
    SysResult<void> check_writable() const;
    SysResult<uint64_t> add_node(UniqueFd fd, const Attributes& attributes);
    void forget(uint64_t id, uint64_t lookups);
    SysResult<uint64_t> add_handle(UniqueFd fd, uint64_t node, int flags, bool directory);
    // Looks a name up and counts it: the guest owes a FORGET.
    SysResult<fuse_entry_out> enter(int parent, const std::string& name);
    SysResult<fuse_entry_out> enter(UniqueFd fd, const Attributes& attributes);
    // The same for what was just made, with the owner and mode that it should have.
    SysResult<fuse_entry_out> enter_new(uint64_t parent, const std::string& name, const fuse_in_header& header,
                                        uint32_t mode);
    SysResult<UniqueFd> reopen(int path_fd, int flags);
    // As Linux does for who writes without CAP_FSETID: this process has it, so the guest says so (its capabilities as
    // an attribute the host's kernel drops from any file that is written).
    SysResult<void> drop_set_ids(int fd);
    std::string self_path(int fd) const { return options_.self_fd_prefix + std::to_string(fd); }
    fuse_attr to_fuse(const Attributes& attributes) const;
    Reply reply_attributes(int fd, Buffer& out);

    // fuse_directory.cc
    Reply init(Buffer& in, Buffer& out);
    Reply look_up(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply batch_forget(Buffer& in);
    Reply get_attributes(const fuse_in_header& header, Buffer& out);
    Reply set_attributes(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply read_link(const fuse_in_header& header, Buffer& out);
    Reply statfs(const fuse_in_header& header, Buffer& out);
    // fuse_names.cc
    Reply make_symlink(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply make_node(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply make_directory(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply remove(const fuse_in_header& header, Buffer& in, int flags);
    Reply rename(const fuse_in_header& header, Buffer& in, bool with_flags);
    Reply link(const fuse_in_header& header, Buffer& in, Buffer& out);
    // fuse_files.cc
    Reply open(const fuse_in_header& header, Buffer& in, Buffer& out, bool directory);
    Reply create_file(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply read(Buffer& in, Buffer& out);
    Reply write(Buffer& in, Buffer& out);
    Reply release(Buffer& in, bool directory);
    Reply sync(Buffer& in, bool directory);
    Reply seek(Buffer& in, Buffer& out);
    Reply allocate(Buffer& in);
    Reply copy_range(Buffer& in, Buffer& out);
    // fuse_listing.cc
    Reply list(Buffer& in, Buffer& out, bool with_entries);
    // fuse_xattrs.cc
    Reply get_xattr(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply set_xattr(const fuse_in_header& header, Buffer& in);
    Reply list_xattrs(const fuse_in_header& header, Buffer& in, Buffer& out);
    Reply remove_xattr(const fuse_in_header& header, Buffer& in);

    const Options options_;
    UniqueFd root_;
    uint64_t root_device_ = 0;
    UniqueFd proc_self_fd_;
    const bool as_host_root_ = ::geteuid() == 0;
    std::unordered_map<uint64_t, Node> nodes_;  // by number, without the root
    std::map<std::pair<uint64_t, uint64_t>, uint64_t> by_inode_;
    std::unordered_map<uint64_t, Handle> handles_;
    uint64_t next_node_ = FUSE_ROOT_ID + 1;
    uint64_t next_handle_ = 1;
    std::vector<iovec> parts_;
};

// The rest of a message as `count` strings, each ended by NUL. EINVAL, ENAMETOOLONG.
SysResult<std::vector<std::string>> take_strings(virtio::ChainBuffer& in, size_t count);
// A name of one component: EINVAL, ENAMETOOLONG.
SysResult<void> check_component(const std::string& name);

// Writes the reply's body; EIO if the guest gave too little room.
template <typename T>
SysResult<uint32_t> reply_with(virtio::ChainBuffer& out, const T& body) {
    if (!out.write_all(body)) return Errno(EIO);
    return static_cast<uint32_t>(sizeof(body));
}
// The arguments of a message; EINVAL if it is too short.
template <typename T>
SysResult<T> take_arguments(virtio::ChainBuffer& in) {
    T arguments;
    if (!in.read_all(arguments)) return Errno(EINVAL);
    return arguments;
}

}  // namespace casemate::fileserver
