// Names of Unix sockets: in the tree, abstract, chosen by the sentry; and finding a socket by its name.
#include <fmt/core.h>

#include <cstddef>

#include "sentry/kernel/task.h"
#include "sentry/net/network.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/vfs.h"

namespace casemate::sentry {
namespace {

constexpr size_t kPathOffset = offsetof(sockaddr_un, sun_path);

// sun_path's bytes; a name in the tree ends before its first NUL. EINVAL.
SysResult<std::string> path_of(const SocketAddress& address) {
    if (address.size <= kPathOffset || address.size > sizeof(sockaddr_un) || address.family() != AF_UNIX)
        return Errno(EINVAL);
    std::string path(reinterpret_cast<const char*>(address.bytes) + kPathOffset, address.size - kPathOffset);
    if (path[0] != 0) path.resize(strnlen(path.data(), path.size()));
    return path;
}

}  // namespace

SocketAddress UnixName::address() const {
    SocketAddress address(AF_UNIX);
    size_t length = path_.size() + (abstract() ? 0 : 1);
    memset(address.bytes + kPathOffset, 0, length);
    memcpy(address.bytes + kPathOffset, path_.data(), path_.size());
    address.size = kPathOffset + length;
    return address;
}

Ref<UnixSocket> UnixName::socket() {
    std::lock_guard lock(mutex_);
    if (socket_ == nullptr || !socket_->try_ref()) return nullptr;
    return Ref<UnixSocket>::adopt(socket_);
}
bool UnixName::release(UnixSocket& socket) {
    std::lock_guard lock(mutex_);
    if (socket_ != &socket) return false;
    socket_ = nullptr;
    return true;
}

SysResult<void> UnixSocket::bind_abstract(const std::string& path) {
    auto fresh = make_ref<UnixName>(path, *this);
    if (!network().claim_abstract(path, *fresh)) return Errno(EADDRINUSE);
    std::lock_guard lock(mutex_);
    name_ = std::move(fresh);
    return {};
}

SysResult<void> UnixSocket::bind_path(Task& task, const std::string& path) {
    auto made = make_node(task, AT_FDCWD, path, S_IFSOCK | 0777, 0);
    if (!made.ok()) return Errno(made.error().value == EEXIST ? EADDRINUSE : made.error().value);
    WalkOptions options;
    options.follow_last = false;
    Path place = TRY(walk(task, AT_FDCWD, path, options));
    if (!S_ISSOCK(place.inode().mode())) return Errno(EADDRINUSE);  // somebody was faster
    auto fresh = make_ref<UnixName>(path, *this);
    {
        std::lock_guard lock(place.inode().attachment_mutex());
        if (place.inode().attachment()) return Errno(EADDRINUSE);
        place.inode().attachment() = Ref<RefCounted>(fresh);
    }
    std::lock_guard lock(mutex_);
    place_ = std::move(place);
    name_ = std::move(fresh);
    return {};
}

SysResult<void> UnixSocket::autobind() {
    std::lock_guard bind_lock(bind_mutex_);
    if (name()) return {};
    static std::atomic<uint32_t> next{0};
    for (uint32_t tries = 0; tries < 0x100000; tries++) {
        std::string path = fmt::format("{:05x}", next.fetch_add(1, std::memory_order_relaxed) & 0xfffff);
        path.insert(path.begin(), '\0');
        auto bound = bind_abstract(path);
        if (bound.ok() || bound.error().value != EADDRINUSE) return bound;
    }
    return Errno(ENOSPC);
}

SysResult<void> UnixSocket::bind(Task& task, const SocketAddress& address) {
    if (address.size == kPathOffset && address.family() == AF_UNIX) return autobind();
    std::string path = TRY(path_of(address));
    std::lock_guard bind_lock(bind_mutex_);
    if (name()) return Errno(EINVAL);
    return path[0] == 0 ? bind_abstract(path) : bind_path(task, path);
}

SysResult<Ref<UnixSocket>> UnixSocket::find(Task& task, const SocketAddress& address) {
    std::string path = TRY(path_of(address));
    Ref<UnixName> found;
    if (path[0] == 0) {
        found = network().find_abstract(path);
    } else {
        Path place = TRY(walk(task, AT_FDCWD, path));
        Inode& inode = place.inode();
        TRY(check_permission(task, inode, kMayWrite));
        if (!S_ISSOCK(inode.mode())) return Errno(ECONNREFUSED);
        std::lock_guard lock(inode.attachment_mutex());
        // SAFETY: what hangs on a socket's inode is a UnixName.
        found = Ref<UnixName>(static_cast<UnixName*>(inode.attachment().get()));
    }
    if (!found) return Errno(ECONNREFUSED);
    Ref<UnixSocket> socket = found->socket();
    if (!socket) return Errno(ECONNREFUSED);
    if (socket->type() != type()) return Errno(EPROTOTYPE);
    return socket;
}

void UnixSocket::unbind() {
    Ref<UnixName> mine = name();
    if (!mine || !mine->release(*this)) return;
    if (mine->abstract()) network().release_abstract(mine->path(), *mine);
    Path place;
    std::lock_guard lock(mutex_);
    std::swap(place, place_);
}

}  // namespace casemate::sentry
