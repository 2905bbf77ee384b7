#include "sentry/fs/host/host_fs.h"

#include <sys/vfs.h>

#include <cstring>

#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Attributes;
using fileserver::Op;
using fileserver::Request;

SysResult<Ref<HostFileSystem>> HostFileSystem::create(HostFiles& client, uint64_t token, IdMaps ids,
                                                      std::string origin) {
    Request request;
    request.op = static_cast<uint16_t>(Op::kAttach);
    request.value = token;
    auto answer = TRY(client.call(request));
    Ref<HostFileSystem> file_system = Ref<HostFileSystem>::adopt(
        new HostFileSystem(client, answer.reply.value & fileserver::kMountReadOnly,
                           answer.reply.value & fileserver::kMountShared, std::move(ids), std::move(origin)));
    file_system->root_node_ = answer.reply.node;
    file_system->root_attributes_ = answer.reply.attributes;
    return file_system;
}

HostFileSystem::~HostFileSystem() { client_.forget(root_node_); }

SysResult<Ref<Inode>> HostFileSystem::root() {
    Ref<HostInode> root = intern(root_attributes_, nullptr, {});
    std::lock_guard lock(mutex_);
    root->node_ = root_node_;
    return Ref<Inode>(root);
}

SysResult<void> HostFileSystem::statfs(struct statfs& out) {
    Request request;
    request.op = static_cast<uint16_t>(Op::kStatfs);
    request.node = root_node_;
    auto answer = TRY(client_.call(request));
    if (answer.data.size() != sizeof(out)) return Errno(EIO);
    std::memcpy(&out, answer.data.data(), sizeof(out));
    return {};
}

SysResult<void> HostFileSystem::sync() {
    if (read_only_) return {};
    Request request;
    request.op = static_cast<uint16_t>(Op::kSync);
    request.node = root_node_;
    TRY(client_.call(request));
    return {};
}

void HostFileSystem::took_to_sync(Nanoseconds time) {
    const Nanoseconds before = sync_time_.load(std::memory_order_relaxed);
    sync_time_.store(std::max(time, before - before / 8), std::memory_order_relaxed);
}

Ref<HostInode> HostFileSystem::intern(const Attributes& attributes, HostInode* parent, std::string_view name) {
    Key key{attributes.device, attributes.inode};
    Ref<HostInode> inode;
    Ref<HostInode> old_parent;  // released behind the lock
    std::lock_guard lock(mutex_);
    auto found = inodes_.find(key);
    if (found != inodes_.end()) {
        HostInode& known = *found->second;
        bool same = (known.mode() & S_IFMT) == (attributes.mode & S_IFMT);
        if (same && known.try_ref()) {
            inode = Ref<HostInode>::adopt(&known);
        } else {
            known.in_table_ = false;
            inodes_.erase(found);
        }
    }
    if (!inode) {
        inode = Ref<HostInode>::adopt(new HostInode(Ref<HostFileSystem>(this), attributes));
        inode->in_table_ = true;
        inodes_.emplace(key, inode.get());
    } else {
        std::lock_guard inner(inode->mutex_);
        if (!inode->attributes_known_ || shared_) inode->take_attributes(attributes);
    }
    if (parent != nullptr && inode->node_ == 0) {
        old_parent = std::move(inode->parent_);
        inode->parent_ = Ref<HostInode>(parent);
        inode->name_ = std::string(name);
        inode->lost_ = false;
    }
    return inode;
}

void HostFileSystem::remove_from_table(HostInode& inode) {
    std::lock_guard lock(mutex_);
    if (!inode.in_table_) return;
    inode.in_table_ = false;
    inodes_.erase(inode.key_);
}

Ref<HostInode> HostFileSystem::enter_ring(Ring& ring, size_t capacity, int32_t HostInode::*slot, HostInode& inode) {
    std::lock_guard lock(mutex_);
    if (inode.*slot >= 0) return nullptr;
    size_t at = ring.next;
    Ref<HostInode> overrun;
    if (ring.slots.size() < capacity) {
        at = ring.slots.size();
        ring.slots.push_back(nullptr);
    } else {
        ring.next = (ring.next + 1) % capacity;
        if (HostInode* old = ring.slots[at]) {
            old->*slot = -1;
            if (old->try_ref()) overrun = Ref<HostInode>::adopt(old);
        }
    }
    ring.slots[at] = &inode;
    inode.*slot = static_cast<int32_t>(at);
    return overrun;
}

void HostFileSystem::keep_descriptor(HostInode& inode) {
    Ref<HostInode> overrun = enter_ring(descriptors_, kDescriptorsKept, &HostInode::descriptor_slot_, inode);
    if (!overrun) return;
    Ref<HostFd> read, write;  // closed behind the lock, by whoever uses them last
    Ref<Mappable> read_map, write_map;
    Ref<HostWindow> window;
    std::lock_guard lock(overrun->mutex_);
    read = std::move(overrun->read_fd_);
    write = std::move(overrun->write_fd_);
    read_map = std::move(overrun->read_map_);
    write_map = std::move(overrun->write_map_);
    window = overrun->take_window_locked();
    if (write) overrun->attributes_known_ = false;
}

void HostFileSystem::keep_names(HostInode& directory) {
    Ref<HostInode> overrun = enter_ring(names_, kDirectoriesKept, &HostInode::names_slot_, directory);
    if (!overrun) return;
    std::unique_ptr<HostInode::Names> gone;
    std::lock_guard lock(overrun->mutex_);
    gone = std::move(overrun->names_);
}

void HostFileSystem::keep_recent(Ref<HostInode> inode) {
    Ref<HostInode> old;
    std::lock_guard lock(mutex_);
    if (recent_.size() < kRecent) {
        recent_.push_back(std::move(inode));
        return;
    }
    old = std::move(recent_[next_recent_]);
    recent_[next_recent_] = std::move(inode);
    next_recent_ = (next_recent_ + 1) % kRecent;
}

void HostFileSystem::drop_caches() {
    std::vector<Ref<HostInode>> old, pinned;
    std::lock_guard lock(mutex_);
    old.swap(recent_);
    pinned.swap(pinned_);
    next_recent_ = 0;
}

}  // namespace casemate::sentry
