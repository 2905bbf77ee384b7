// FileServer: operations of a guest kernel on host files. No transport in here: the sentry's socket and the microvm's
// virtio-fs both end in these calls.
//
// Trust: every argument was chosen by the guest. A file is named by a node and a relative path under it; the walk is
// openat2(2) from the node's own descriptor with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS, "." and ".." are
// refused, so neither links nor renames while we walk lead out of the mount. Only regular files are opened for content,
// and only after a look at the very inode (through its O_PATH descriptor): device nodes, FIFOs and sockets never are.
// Permissions were checked by the guest kernel; the server enforces read-only mounts and the bounds of its tables.
//
// Not thread-safe but for add_mount().
#pragma once

#include <sys/statfs.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fileserver/kept_files.h"
#include "fileserver/protocol.h"

namespace casemate::fileserver {

// A file in a request.
struct Target {
    NodeId node = 0;
    std::string_view path;  // "" names the node itself
};

class FileServer {
  public:
    struct Limits {
        size_t nodes = 8192;
    };
    // `proc_self_fd`: O_PATH descriptor of /proc/self/fd of this process, or empty: then chmod, truncate and xattrs by
    // inode are refused and opening checks the type again afterwards.
    FileServer(Limits limits, UniqueFd proc_self_fd);
    ~FileServer();

    // A detached mount, to be attached by its token. From any thread. EEXIST.
    SysResult<void> add_mount(uint64_t token, uint32_t flags, UniqueFd mount);

    struct Entry {
        Attributes attributes;
        NodeId node = 0;  // if asked for
        UniqueFd fd;      // if opened
        int kept = -1;    // the same, and the server keeps it: good until the next operation
        uint64_t value = 0;
        Attributes parent;  // with kFlagParent
    };
    SysResult<Entry> attach(uint64_t token);
    // Attributes of each component found are appended to `found`; stops behind the first symlink, whose text goes to
    // `link`, and at the first that is not there. `entry` is of the last component if all were found.
    struct LookupResult {
        uint32_t count = 0;
        Entry entry;
        bool complete = false;
        int error = 0;  // why it stopped, if not complete and not at a link
    };
    SysResult<LookupResult> lookup(Target target, uint16_t flags, std::vector<Attributes>& found, std::string& link);
    SysResult<Entry> open(Target target, uint32_t open_flags);
    SysResult<Entry> create(Target target, uint32_t mode, uint32_t uid, uint32_t gid, uint16_t flags = 0);
    SysResult<Entry> create_unnamed(Target directory, uint32_t mode, uint32_t uid, uint32_t gid);
    SysResult<Entry> make_directory(Target target, uint32_t mode, uint32_t uid, uint32_t gid, uint16_t flags = 0);
    SysResult<Entry> make_node(Target target, uint32_t mode, uint64_t device, uint32_t uid, uint32_t gid);
    SysResult<Entry> make_symlink(Target target, std::string_view text, uint32_t uid, uint32_t gid, uint16_t flags = 0);
    SysResult<Entry> link(Target target, Target new_name, uint16_t flags = 0);
    SysResult<Entry> unlink(Target target, uint16_t flags);
    SysResult<Entry> remove_directory(Target target, uint16_t flags = 0);
    SysResult<Entry> rename(Target target, Target new_name, uint32_t rename_flags, uint16_t flags);
    SysResult<std::string> read_link(Target target);
    // Appends ListEntry records to `into` up to `room` bytes; returns the cookie to go on with, 0 at the end.
    // With kFlagPrefetch directories below come along, and then `siblings` (names with NUL, beside the target).
    SysResult<uint64_t> list(Target target, uint64_t cookie, uint16_t flags, std::string_view siblings,
                             std::string& into, size_t room);
    SysResult<Entry> get_attributes(Target target, uint16_t flags);
    // Of several names (each with NUL) in one directory: appended as Attributes, zeros for what is not there.
    SysResult<void> attributes_of(Target directory, std::string_view names, std::string& into, size_t room);
    // Tells the attributes afterwards, but not with kFlagNoReply.
    SysResult<Entry> set_attributes(Target target, const Request& change);
    SysResult<struct statfs> statfs(Target target);
    SysResult<std::string> get_xattr(Target target, std::string_view name);
    SysResult<void> set_xattr(Target target, std::string_view name, std::string_view value, uint32_t flags);
    SysResult<void> remove_xattr(Target target, std::string_view name);
    SysResult<std::string> list_xattrs(Target target);
    SysResult<void> sync(Target target, uint16_t flags = 0);
    void forget(NodeId node);

    size_t node_count() const { return nodes_used_; }

  private:
    struct Mount {
        uint64_t token;
        uint32_t flags;
        UniqueFd fd;
    };
    struct Node {
        UniqueFd fd;
        uint32_t generation = 0;
        uint32_t mount = 0;  // index in mounts_
        uint32_t references = 0;
        uint32_t next_free = 0;
    };
    // A directory with the last component of a path: where names are made and removed. Good until the next place but
    // one.
    struct Place {
        UniqueFd owned;  // of the parent, if it is neither a node nor in directories_
        int parent = -1;
        std::string name;
        uint32_t mount = 0;
    };

    SysResult<Node*> find(NodeId id);
    SysResult<NodeId> add_node(UniqueFd fd, uint32_t mount);
    SysResult<UniqueFd> resolve(const Target& target, uint32_t* mount = nullptr);
    SysResult<Place> place(const Target& target, bool for_change);
    SysResult<int> directory_of(NodeId node, const UniqueFd& fd, std::string_view path);
    SysResult<void> check_writable(uint32_t mount);
    bool is_shared(uint32_t mount);
    SysResult<UniqueFd> reopen(int path_fd, uint32_t mode, int flags);
    std::string proc_name(int fd) const { return std::to_string(fd); }
    SysResult<void> append_listing(int directory, uint64_t& cookie, uint16_t flags, std::string& into, size_t room,
                                   bool& complete);
    static void tell_parent(const Place& place, uint16_t flags, Entry& entry);
    SysResult<Entry> finish_new(Place& place, uint32_t mode, uint32_t uid, uint32_t gid, uint16_t flags);

    const Limits limits_;
    UniqueFd proc_self_fd_;
    std::mutex mounts_mutex_;
    std::vector<Mount> mounts_;  // guarded by mounts_mutex_; grows only
    std::vector<Node> nodes_;
    uint32_t first_free_ = 0;
    size_t nodes_used_ = 0;

    // Directories in which names were made or removed lately, by how they were asked for. Only of trees that nobody
    // else changes, and only until something there is renamed or a directory removed.
    struct Directory {
        NodeId node = 0;
        std::string path;
        UniqueFd fd;
        uint64_t used = 0;
    };
    static constexpr size_t kDirectories = 8;
    Directory directories_[kDirectories];
    uint64_t directory_uses_ = 0;
    void forget_directories();

    KeptFiles made_;
    // The directory that was synced last; forgotten with directories_.
    Directory synced_;
};

}  // namespace casemate::fileserver
