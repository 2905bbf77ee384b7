// HostInode: addresses and attributes of host files.
#include <fcntl.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "sentry/fs/host/host_file.h"
#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Attributes;
using fileserver::Op;
using fileserver::Request;

namespace {

// Paths longer than this get a node on the way, so that requests stay within the protocol's bound.
constexpr size_t kLongPath = 3000;

void stat_of(const Attributes& a, struct stat& out) {
    out = {};
    out.st_ino = a.inode;
    out.st_mode = a.mode;
    out.st_nlink = a.links;
    out.st_uid = a.uid;
    out.st_gid = a.gid;
    out.st_rdev = a.special_device;
    out.st_size = static_cast<off_t>(a.size);
    out.st_blksize = a.block_size != 0 ? a.block_size : 4096;
    out.st_blocks = static_cast<blkcnt_t>(a.blocks);
    out.st_atim = {a.access_time, a.access_nsec};
    out.st_mtim = {a.modification_time, a.modification_nsec};
    out.st_ctim = {a.change_time, a.change_nsec};
}

void take_stat(const struct stat& s, Attributes& a) {
    a.size = static_cast<uint64_t>(s.st_size);
    a.blocks = static_cast<uint64_t>(s.st_blocks);
    a.links = static_cast<uint32_t>(s.st_nlink);
    a.access_time = s.st_atim.tv_sec;
    a.access_nsec = static_cast<uint32_t>(s.st_atim.tv_nsec);
    a.modification_time = s.st_mtim.tv_sec;
    a.modification_nsec = static_cast<uint32_t>(s.st_mtim.tv_nsec);
    a.change_time = s.st_ctim.tv_sec;
    a.change_nsec = static_cast<uint32_t>(s.st_ctim.tv_nsec);
}

bool later(const timespec& a, const timespec& b) {
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

}  // namespace

HostInode::HostInode(Ref<HostFileSystem> file_system, const Attributes& attributes)
    : Inode(std::move(file_system)),
      key_{attributes.device, attributes.inode},
      mode_(attributes.mode),
      attributes_(attributes),
      heard_(monotonic_now()) {
    show_owner(attributes.uid, attributes.gid);
}

void HostInode::last_ref_dropped() {
    HostFileSystem& fs = host();
    Ref<HostInode> parent;
    {
        std::lock_guard lock(fs.mutex_);
        if (in_table_) {
            in_table_ = false;
            fs.inodes_.erase(key_);
        }
        if (descriptor_slot_ >= 0) fs.descriptors_.slots[static_cast<size_t>(descriptor_slot_)] = nullptr;
        if (names_slot_ >= 0) fs.names_.slots[static_cast<size_t>(names_slot_)] = nullptr;
        if (!lost_) parent = parent_;
    }
    // The parent's table of names takes the attributes over, so that a lookup later on needs no question.
    if (parent && !fs.shared()) {
        bool sure =
            attributes_known_ && !written_ && posted_ == 0 && (attributes_.links == 1 || S_ISDIR(attributes_.mode));
        std::lock_guard lock(parent->mutex_);
        if (parent->names_ && parent->names_->complete) {
            auto found = parent->names_->entries.find(std::string_view(name_));
            if (found != parent->names_->entries.end()) {
                if (sure) found->second.attributes = attributes_;
                found->second.has_attributes = sure;
                ++parent->names_->version;
            }
        }
    }
    delete this;
}

HostInode::~HostInode() {
    HostFileSystem& fs = host();
    if (node_ != 0 && node_ != fs.root_node_) fs.client().forget(node_);
    // Deep trees must not be taken down by recursion.
    Ref<HostInode> parent = std::move(parent_);
    while (parent && parent->ref_count() == 1) {
        Ref<HostInode> above;
        {
            std::lock_guard lock(fs.mutex_);
            above = parent->parent_;
        }
        parent = std::move(above);
    }
}

// --- Addresses ---

HostInode::Address HostInode::address_locked(std::string_view name, Ref<HostInode>* too_deep) {
    Address address;
    address.path = std::string(name);
    HostInode* at = this;
    while (at->node_ == 0) {
        if (at->lost_ || !at->parent_) return Address();
        address.path.insert(0, address.path.empty() ? at->name_ : at->name_ + "/");
        at = at->parent_.get();
        if (at->node_ == 0 && address.path.size() > kLongPath) {
            *too_deep = Ref<HostInode>(at);
            return address;
        }
    }
    address.node = at->node_;
    return address;
}

SysResult<HostInode::Address> HostInode::address_of(std::string_view name) {
    while (true) {
        Ref<HostInode> deep;
        {
            std::lock_guard lock(host().mutex_);
            Address address = address_locked(name, &deep);
            if (!deep) {
                if (address.node == 0) return Errno(ESTALE);
                return address;
            }
        }
        // A node for the directory up there cuts the path.
        Address above = TRY(deep->address());
        Request request = request_of(Op::kGetAttributes, above.node);
        request.flags = fileserver::kFlagWantAnyNode;
        auto answer = TRY(host().client().call(request, above.path));
        std::lock_guard lock(host().mutex_);
        if (deep->node_ == 0)
            deep->node_ = answer.reply.node;
        else
            host().client().forget(answer.reply.node);
    }
}

SysResult<HostInode::Address> HostInode::address() { return address_of({}); }

// --- Attributes ---

void HostInode::take_attributes(const Attributes& attributes) {
    attributes_ = attributes;
    attributes_known_ = true;
    heard_ = monotonic_now();
    mode_.store(attributes.mode, std::memory_order_relaxed);
    show_owner(attributes.uid, attributes.gid);
}

void HostInode::show_owner(uint32_t uid, uint32_t gid) {
    auto user = host().ids().uids.inside(uid), group = host().ids().gids.inside(gid);
    uid_.store(user.value_or(IdMap::kOverflow), std::memory_order_relaxed);
    gid_.store(group.value_or(IdMap::kOverflow), std::memory_order_relaxed);
    unknown_owner_.store(static_cast<uint8_t>((user ? 0 : kUnknownUser) | (group ? 0 : kUnknownGroup)),
                         std::memory_order_relaxed);
}

SysResult<void> HostInode::check_foreign(uint32_t wanted) {
    uint8_t unknown = unknown_owner_.load(std::memory_order_relaxed);
    if (unknown == 0) return {};
    uint32_t mode = this->mode(), granted = mode;
    if (!(unknown & kUnknownGroup)) granted |= mode >> 3;
    if (!(unknown & kUnknownUser)) granted |= mode >> 6;
    return (granted & wanted) == wanted ? SysResult<void>() : Errno(EACCES);
}

SysResult<void> HostInode::put_owner(uint32_t uid, uint32_t gid, Request& request) const {
    auto user = host().ids().uids.outside(uid), group = host().ids().gids.outside(gid);
    if (!user || !group) return Errno(EOVERFLOW);
    request.uid = *user;
    request.gid = *group;
    return {};
}

void HostInode::forget_attributes() {
    std::lock_guard lock(mutex_);
    attributes_known_ = false;
}

bool HostInode::fresh_locked() const {
    if (!attributes_known_) return false;
    return !host().shared() || monotonic_now() - heard_ < HostFileSystem::kSharedValidity;
}

SysResult<void> HostInode::refresh() {
    Address address = TRY(this->address());
    Request request = request_of(Op::kGetAttributes, address.node);
    auto answer = TRY(host().client().call(request, address.path));
    const Attributes& a = answer.reply.attributes;
    if (a.inode != key_.inode || a.device != key_.device) return Errno(ESTALE);
    std::lock_guard lock(mutex_);
    if (posted_ < answer.number) {
        take_attributes(a);
        posted_ = 0;
    }
    return {};
}

SysResult<void> HostInode::stat(struct stat& out) {
    bool ask = false;
    {
        std::lock_guard lock(mutex_);
        const Ref<HostFd>& fd = write_fd_ ? write_fd_ : read_fd_;
        bool pending = posted_ > host().client().done();
        // Who writes through a descriptor tells us so, but for mappings and the host's own copying.
        const bool written =
            written_ && (moved_.load(std::memory_order_acquire) || written_unseen_.load(std::memory_order_acquire));
        if (fd && !pending && (written || host().shared() || !attributes_known_)) {
            // The descriptor knows best, and costs no round trip. All but the owner, whose id this process's own user
            // namespace does not know: of a change by others (there is one only if the change time is another) the file
            // server tells.
            struct stat now;
            moved_.store(false, std::memory_order_seq_cst);
            if (::fstat(fd->fd.get(), &now) == 0) {
                ask = host().shared() && !write_fd_ &&
                      (now.st_ctim.tv_sec != attributes_.change_time ||
                       static_cast<uint32_t>(now.st_ctim.tv_nsec) != attributes_.change_nsec);
                take_stat(now, attributes_);
                settled_.store(later(now.st_atim, now.st_mtim) && later(now.st_atim, now.st_ctim),
                               std::memory_order_relaxed);
                attributes_.mode = now.st_mode;
                take_attributes(attributes_);
            }
        } else {
            ask = pending || !fresh_locked() || (written && !fd);
        }
    }
    if (ask) {
        auto asked = refresh();
        // Of a file without a name what was last known is as good as it gets.
        if (!asked.ok() && asked.error() != Errno(ESTALE)) return asked;
    }
    std::lock_guard lock(mutex_);
    stat_of(attributes_, out);
    out.st_uid = uid_.load(std::memory_order_relaxed);
    out.st_gid = gid_.load(std::memory_order_relaxed);
    out.st_dev = file_system().device();
    return {};
}

uint64_t HostInode::link_count() {
    std::lock_guard lock(mutex_);
    return attributes_.links;
}

std::optional<timespec> HostInode::birth_time() {
    std::lock_guard lock(mutex_);
    if (attributes_.birth_time == 0) return std::nullopt;
    return timespec{attributes_.birth_time, attributes_.birth_nsec};
}

SysResult<void> HostInode::change(const AttributeChange& change) {
    if (host().read_only()) return Errno(EROFS);
    Request request = request_of(Op::kSetAttributes, 0);
    if (unknown_owner_.load(std::memory_order_relaxed) != 0 && (change.mode || change.uid || change.gid))
        return Errno(EPERM);
    if (change.size || change.access_time || change.modification_time) TRY(check_foreign(S_IWOTH));
    if (change.mode) {
        request.valid |= fileserver::kSetMode;
        request.mode = *change.mode;
    }
    if (change.uid) {
        request.valid |= fileserver::kSetUid;
        auto uid = host().ids().uids.outside(*change.uid);
        if (!uid) return Errno(EINVAL);
        request.uid = *uid;
    }
    if (change.gid) {
        request.valid |= fileserver::kSetGid;
        auto gid = host().ids().gids.outside(*change.gid);
        if (!gid) return Errno(EINVAL);
        request.gid = *gid;
    }
    auto time = [&](const std::optional<timespec>& wanted, uint32_t set, uint32_t now, int64_t& seconds,
                    uint32_t& nsec) {
        if (!wanted || wanted->tv_nsec == UTIME_OMIT) return;
        if (wanted->tv_nsec == UTIME_NOW) {
            request.valid |= now;
            return;
        }
        request.valid |= set;
        seconds = wanted->tv_sec;
        nsec = static_cast<uint32_t>(wanted->tv_nsec);
    };
    time(change.access_time, fileserver::kSetAccessTime, fileserver::kSetAccessNow, request.access_time,
         request.access_nsec);
    time(change.modification_time, fileserver::kSetModificationTime, fileserver::kSetModificationNow,
         request.modification_time, request.modification_nsec);
    if (change.size) {
        // Who opens it for writing next needs the descriptor anyway.
        Ref<HostFd> writable = TRY(descriptor(true));
        const uint32_t mode = this->mode();
        settle_times();
        if (::ftruncate(writable->fd.get(), *change.size) != 0) return last_errno();
        was_cut();
        if (!change.mode) keep_mode(mode);
    }
    if (request.valid == 0) return {};
    Address address = TRY(this->address());
    request.node = address.node;
    // Mode and times of the pod's own tree cannot fail for reasons that we do not know: nobody waits for the answer.
    // The owner that it has already, neither.
    bool may_fail = (change.uid && *change.uid != uid()) || (change.gid && *change.gid != gid());
    if (!host().shared() && !may_fail) {
        std::lock_guard lock(mutex_);
        posted_ = host().client().post(request, address.path);
        if (change.access_time || change.modification_time) times_posted_.store(true, std::memory_order_release);
        if (change.mode) {
            attributes_.mode = (attributes_.mode & S_IFMT) | *change.mode;
            mode_.store(attributes_.mode, std::memory_order_relaxed);
        }
        attributes_known_ = false;
        return {};
    }
    auto answer = TRY(host().client().call(request, address.path));
    std::lock_guard lock(mutex_);
    take_attributes(answer.reply.attributes);
    return {};
}

void HostInode::settle_times() {
    if (times_posted_.load(std::memory_order_acquire)) [[unlikely]] {
        times_posted_.store(false, std::memory_order_relaxed);
        host().client().flush();
    }
}

void HostInode::keep_mode(uint32_t mode) {
    if (!(mode & (S_ISUID | S_ISGID))) [[likely]]
        return;
    AttributeChange change;
    change.mode = mode & 07777;
    (void)this->change(change);
}

}  // namespace casemate::sentry
