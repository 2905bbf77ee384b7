// FuseDirectory: saved with a snapshot of the guest, and found again.
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "fileserver/fuse_directory.h"
#include "fileserver/host_calls.h"
#include "fileserver/path_check.h"

namespace casemate::fileserver {

namespace {

// Of an open descriptor, as /proc tells it; empty if it cannot.
std::string path_of(int proc_self_fd, int fd) {
    char text[PATH_MAX];
    ssize_t size = ::readlinkat(proc_self_fd, std::to_string(fd).c_str(), text, sizeof(text));
    return size > 0 && size < static_cast<ssize_t>(sizeof(text)) ? std::string(text, static_cast<size_t>(size)) : "";
}

}  // namespace

void FuseDirectory::save(virtio::StateWriter& writer) {
    std::string root = path_of(proc_self_fd_.get(), root_.get());
    if (root.empty() || root.back() != '/') root.push_back('/');
    writer.number(next_node_);
    writer.number(next_handle_);
    writer.number(static_cast<uint32_t>(nodes_.size()));
    for (const auto& [id, node] : nodes_) {
        std::string path = node.fd ? path_of(proc_self_fd_.get(), node.fd.get()) : "";
        writer.number(id);
        writer.number(node.lookups);
        // Without a path (removed, moved out by the host) it is stale afterwards.
        writer.text(path.starts_with(root) ? path.substr(root.size()) : "");
    }
    writer.number(static_cast<uint32_t>(handles_.size()));
    for (const auto& [number, open_file] : handles_) {
        writer.number(number);
        writer.number(open_file.node);
        writer.number(static_cast<int32_t>(open_file.flags));
        writer.number(static_cast<uint8_t>(open_file.directory));
    }
}

SysResult<void> FuseDirectory::restore(virtio::StateReader& reader) {
    forget_all();
    next_node_ = TRY(reader.number<uint64_t>());
    next_handle_ = TRY(reader.number<uint64_t>());
    uint32_t count = TRY(reader.number<uint32_t>());
    for (uint32_t i = 0; i < count; ++i) {
        uint64_t id = TRY(reader.number<uint64_t>());
        uint64_t lookups = TRY(reader.number<uint64_t>());
        std::string path(TRY(reader.text()));
        if (id <= FUSE_ROOT_ID || id >= next_node_ || nodes_.size() >= options_.max_nodes) return Errno(EBADMSG);
        Node& node = nodes_[id];
        node.lookups = lookups;
        if (path.empty() || !check_path(path).ok()) continue;
        auto fd = open_beneath(root_.get(), path, O_PATH | O_NOFOLLOW);
        if (!fd.ok()) continue;
        auto attributes = read_attributes(fd->get());
        if (!attributes.ok()) continue;
        node.inode = {attributes->device, attributes->inode};
        if (!by_inode_.emplace(node.inode, id).second) continue;
        node.fd = std::move(*fd);
    }
    count = TRY(reader.number<uint32_t>());
    for (uint32_t i = 0; i < count; ++i) {
        uint64_t number = TRY(reader.number<uint64_t>());
        uint64_t node = TRY(reader.number<uint64_t>());
        int flags = TRY(reader.number<int32_t>()) & (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC | O_DIRECTORY);
        bool directory = TRY(reader.number<uint8_t>()) != 0;
        if (number >= next_handle_ || handles_.size() >= options_.max_handles) return Errno(EBADMSG);
        Handle& made = handles_[number];
        made.node = node;
        made.flags = flags;
        made.directory = directory;
        auto fd = node_fd(node);
        if (!fd.ok() || ((flags & O_ACCMODE) != O_RDONLY && options_.read_only)) continue;
        auto opened = reopen(*fd, flags);
        if (opened.ok()) made.fd = std::move(*opened);
    }
    return {};
}

}  // namespace casemate::fileserver
