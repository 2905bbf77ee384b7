// HostInode: addresses, attributes and names of host files.
#include <dirent.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <sys/sysmacros.h>

#include <cstring>

#include "sentry/fs/host/host_file.h"
#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Attributes;
using fileserver::ListEntry;
using fileserver::NodeId;
using fileserver::Op;
using fileserver::Request;

namespace {

// Paths longer than this get a node on the way, so that requests stay within the protocol's bound.
constexpr size_t kLongPath = 3000;
// A directory is listed as a whole at this lookup that had to ask, unless it is bigger than kWorthKnowing.
constexpr uint32_t kMissesUntilListed = 2;
constexpr size_t kWorthKnowing = 8192;

Request request_of(Op op, NodeId node) {
    Request request;
    request.op = static_cast<uint16_t>(op);
    request.node = node;
    return request;
}

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

// --- Names ---

HostInode::Names& HostInode::names_locked() {
    if (!names_) names_ = std::make_unique<Names>();
    return *names_;
}

SysResult<Ref<Inode>> HostInode::lookup(std::string_view name) {
    if (!S_ISDIR(mode())) return Errno(ENOTDIR);
    for (int round = 0;; ++round) {
        std::optional<Names::Hint> hint;
        std::optional<Attributes> known;
        bool list = false, fetch = false;
        {
            std::lock_guard lock(mutex_);
            Names& names = names_locked();
            hint = names.take_hint(name);
            if (hint && host().shared() && monotonic_now() - hint->when > HostFileSystem::kSharedValidity) hint.reset();
            if (const Attributes* ahead = hint ? nullptr : names.ahead.find(name)) {
                known = *ahead;
            } else if (!hint && names.complete) {
                auto found = names.entries.find(name);
                if (found == names.entries.end()) return Errno(ENOENT);
                if (found->second.has_attributes) {
                    known = found->second.attributes;
                    // From now on the inode knows better; it gives them back at its end.
                    found->second.has_attributes = false;
                } else {
                    fetch = round == 0;
                }
            } else if (!hint && !host().shared() && !names.too_big) {
                list = ++names.misses >= kMissesUntilListed;
            }
        }
        if (hint && !hint->exists) return Errno(ENOENT);
        if (hint || known) {
            Ref<HostInode> child = host().intern(known ? *known : hint->attributes, this, name);
            if (hint && (hint->fd || !hint->link_text.empty())) {
                Ref<HostFd> fd = hint->fd ? make_ref<HostFd>(std::move(hint->fd)) : nullptr;
                {
                    std::lock_guard lock(child->mutex_);
                    if (fd && !child->read_fd_) child->read_fd_ = fd;
                    if (child->link_text_.empty()) child->link_text_ = std::move(hint->link_text);
                }
                if (fd) host().keep_descriptor(*child);
            }
            return Ref<Inode>(child);
        }
        if (round == 2) return Errno(ENOENT);
        if (round == 0 && fetch_ahead(name)) continue;
        if (list) {
            auto loaded = load_names(kWorthKnowing, false);
            if (!loaded.ok() && loaded.error() != Errno(EFBIG)) return loaded.error();
            if (loaded.ok()) continue;
        }
        if (fetch && fetch_attributes(name).ok()) continue;
        TRY(look_up_path(name, false));
    }
}

SysResult<void> HostInode::fetch_attributes(std::string_view name) {
    constexpr uint32_t kMostAtOnce = 256;
    std::vector<std::string> asked;
    std::string names;
    uint32_t version;
    {
        std::lock_guard lock(mutex_);
        Names& known = names_locked();
        if (!known.complete || !known.listing) return Errno(ENODATA);
        // One that is asked for alone stays alone.
        uint32_t most = known.asked;
        known.asked = std::min(kMostAtOnce, most == 0 ? 8 : most * 4);
        if (most == 0) return Errno(ENODATA);
        const auto& listed = known.listing->entries;
        size_t at = known.cursor < listed.size() ? known.cursor : 0, tries = 0;
        for (; tries < listed.size() && listed[at].name != name; ++tries) at = at + 1 < listed.size() ? at + 1 : 0;
        if (tries == listed.size()) return Errno(ENODATA);
        for (; at < listed.size() && asked.size() < most; ++at) {
            auto found = known.entries.find(std::string_view(listed[at].name));
            if (found == known.entries.end() || found->second.has_attributes) continue;
            asked.push_back(listed[at].name);
            names.append(listed[at].name).push_back('\0');
        }
        known.cursor = at;
        version = known.version;
    }
    Address address = TRY(this->address());
    Request request = request_of(Op::kAttributesOf, address.node);
    auto answer = TRY(host().client().call(request, address.path, {}, names));
    if (answer.data.size() < asked.size() * sizeof(Attributes)) return Errno(EIO);
    std::lock_guard outer(host().mutex_);
    std::lock_guard lock(mutex_);
    Names& known = names_locked();
    if (!known.complete || known.version != version) return Errno(ENODATA);
    for (size_t i = 0; i < asked.size(); ++i) {
        Attributes attributes;
        std::memcpy(&attributes, answer.data.data() + i * sizeof(attributes), sizeof(attributes));
        auto found = known.entries.find(std::string_view(asked[i]));
        if (attributes.inode == 0 || found == known.entries.end()) continue;
        // Of a file in use its inode knows more; what another name may change is not believed.
        if (host().inodes_.contains(HostFileSystem::Key{attributes.device, attributes.inode})) continue;
        if (attributes.links > 1 && !S_ISDIR(attributes.mode)) continue;
        found->second.attributes = attributes;
        found->second.has_attributes = true;
    }
    return {};
}

bool HostInode::fetch_ahead(std::string_view name) {
    constexpr size_t kMostAtOnce = 64;
    constexpr uint32_t kMostStrays = 8;
    std::vector<std::string> asked;
    std::string names;
    {
        std::lock_guard lock(mutex_);
        if (!names_ || !names_->ahead.order) return false;
        Names::Ahead& ahead = names_->ahead;
        const auto& listed = ahead.order->entries;
        // Who goes through the directory comes to the next one; everybody else asks alone.
        const bool next = ahead.cursor < listed.size() && listed[ahead.cursor].name == name;
        if (!next) {
            size_t at = 0;
            if (++ahead.strays > kMostStrays) {
                ahead.order.reset();
                return false;
            }
            if (ahead.cursor > 0 && listed[ahead.cursor - 1].name == name) return false;
            while (at < listed.size() && listed[at].name != name) ++at;
            ahead.cursor = at == listed.size() ? 0 : at + 1;
            ahead.asked = 0;
            return false;
        }
        ahead.strays = 0;
        ahead.asked = std::min(kMostAtOnce, ahead.asked == 0 ? 4 : ahead.asked * 4);
        for (size_t at = ahead.cursor; at < listed.size() && asked.size() < ahead.asked; ++at) {
            asked.push_back(listed[at].name);
            names.append(listed[at].name).push_back('\0');
        }
        ahead.cursor += asked.size();
    }
    auto address = this->address();
    if (!address.ok()) return false;
    Request request = request_of(Op::kAttributesOf, address->node);
    const Nanoseconds when = monotonic_now();
    auto answer = host().client().call(request, address->path, {}, names);
    if (!answer.ok()) return false;
    std::lock_guard lock(mutex_);
    Names::Ahead& ahead = names_locked().ahead;
    ahead.attributes.clear();
    ahead.when = when;
    for (size_t i = 0; i < asked.size() && (i + 1) * sizeof(Attributes) <= answer->data.size(); ++i) {
        Attributes attributes;
        std::memcpy(&attributes, answer->data.data() + i * sizeof(attributes), sizeof(attributes));
        if (attributes.inode != 0) ahead.attributes.emplace(std::move(asked[i]), attributes);
    }
    return ahead.attributes.contains(name);
}

void HostInode::prefetch(std::string_view rest, bool open) {
    if (!S_ISDIR(mode())) return;
    // As much of the path as can be asked for as it stands.
    std::string path;
    size_t components = 0;
    std::string first;
    while (path.size() < 1000) {
        size_t begin = rest.find_first_not_of('/');
        if (begin == std::string_view::npos) break;
        rest.remove_prefix(begin);
        size_t end = rest.find('/');
        std::string_view name = rest.substr(0, end);
        if (name == "." || name == ".." || name.size() > NAME_MAX || name.find('\0') != std::string_view::npos) break;
        if (!path.empty()) path += '/';
        path += name;
        if (components++ == 0) first = std::string(name);
        if (end == std::string_view::npos) {
            rest = {};
            break;
        }
        rest.remove_prefix(end);
    }
    if (components == 0) return;
    bool whole = rest.find_first_not_of('/') == std::string_view::npos;
    if (components == 1 && !(whole && open)) return;  // lookup() does it
    {
        std::lock_guard lock(mutex_);
        if (names_) {
            if (names_->complete && !host().shared()) {
                // Only a file to be opened at once is worth a question that lookup() could answer alone.
                auto found = names_->entries.find(std::string_view(first));
                if (found == names_->entries.end()) return;
                if (components == 1 && (found->second.type != DT_REG || found->second.has_attributes)) return;
                if (components > 1 && found->second.has_attributes) return;
            }
            for (const Names::Hint& hint : names_->hints)
                if (hint.name == first &&
                    (!host().shared() || monotonic_now() - hint.when < HostFileSystem::kSharedValidity))
                    return;
            // A directory about to be listed answers this and all that follows.
            if (!host().shared() && components == 1 && !names_->complete && !names_->too_big &&
                names_->misses + 1 >= kMissesUntilListed)
                return;
        }
        ++names_locked().misses;
    }
    (void)look_up_path(path, open && whole);
}

SysResult<void> HostInode::look_up_path(std::string_view path, bool open) {
    Address address = TRY(this->address());
    if (address.path.size() + path.size() + 2 > fileserver::kMaxPathBytes) return Errno(ENAMETOOLONG);
    // The server walks from our node through our own path, whose attributes come back too.
    size_t own = 0;
    if (!address.path.empty()) {
        own = 1 + static_cast<size_t>(std::count(address.path.begin(), address.path.end(), '/'));
        address.path += '/';
    }
    address.path += path;
    Request request = request_of(Op::kLookup, address.node);
    if (open) request.flags |= fileserver::kFlagWantOpen;
    auto answer = TRY(host().client().call(request, address.path));
    size_t count = answer.reply.count;
    if (count > 4096 || answer.data.size() < count * sizeof(Attributes)) return Errno(EIO);
    if (count < own)
        return Errno(answer.reply.value == ENOENT || answer.reply.value == 0 ? ESTALE : answer.reply.value);
    std::vector<Attributes> found(count);
    std::memcpy(found.data(), answer.data.data(), count * sizeof(Attributes));
    std::string link_text = answer.data.substr(count * sizeof(Attributes));
    Nanoseconds now = monotonic_now();

    Ref<HostInode> at(this);
    size_t index = own;
    bool any = false;
    while (!path.empty()) {
        size_t end = path.find('/');
        std::string_view name = path.substr(0, end);
        path = end == std::string_view::npos ? std::string_view() : path.substr(end + 1);
        Names::Hint hint;
        hint.name = std::string(name);
        hint.when = now;
        if (index >= count) {
            if (answer.reply.value == ENOENT) {
                std::lock_guard lock(at->mutex_);
                at->names_locked().add_hint(std::move(hint));
                return {};
            }
            if (any || answer.reply.value == 0) return {};
            return Errno(static_cast<int>(answer.reply.value));
        }
        hint.exists = true;
        hint.attributes = found[index];
        bool last_found = index + 1 == count;
        if (last_found) {
            if (S_ISLNK(found[index].mode)) hint.link_text = link_text;
            if (path.empty()) hint.fd = std::move(answer.fd);
        }
        bool directory = S_ISDIR(found[index].mode);
        {
            std::lock_guard lock(at->mutex_);
            at->names_locked().add_hint(std::move(hint));
        }
        any = true;
        ++index;
        if (!directory) return {};
        if (!path.empty()) {
            // The hints of the next one hang on its inode, which must live until the walk gets there.
            at = host().intern(found[index - 1], at.get(), name);
            host().keep_recent(at);
        }
    }
    return {};
}

bool HostInode::revalidate_child(std::string_view name, Inode* child) {
    auto* known = static_cast<HostInode*>(child);
    if (known == nullptr) return false;
    auto same = [&](const Attributes& a) {
        if (a.inode != known->key_.inode || a.device != known->key_.device) return false;
        std::lock_guard lock(known->mutex_);
        if ((known->attributes_.mode & S_IFMT) != (a.mode & S_IFMT)) return false;
        // What a change of our own made unknown is not known from a hint of before.
        if (known->attributes_known_) known->take_attributes(a);
        return true;
    };
    {
        std::lock_guard lock(known->mutex_);
        if (known->fresh_locked()) return true;
    }
    for (int round = 0; round < 2; ++round) {
        {
            std::lock_guard lock(mutex_);
            Names& names = names_locked();
            if (const Attributes* ahead = names.ahead.find(name)) return same(*ahead);
            for (size_t i = 0; i < names.hints.size(); ++i) {
                Names::Hint& hint = names.hints[i];
                if (hint.name != name || monotonic_now() - hint.when > HostFileSystem::kSharedValidity) continue;
                if (!hint.exists || !same(hint.attributes)) return false;
                return true;
            }
        }
        if (round == 0 && !fetch_ahead(name) && !look_up_path(name, false).ok()) return false;
    }
    return false;
}

SysResult<void> HostInode::load_names(size_t give_up_at, bool below_too) {
    Address address = TRY(this->address());
    Names fresh;
    fresh.complete = true;
    // In the server's order, which is the order of what it sends ahead.
    auto order = std::make_shared<Listing>();
    uint64_t cookie = 0;
    struct Section {
        std::string path;
        bool sibling = false;
        Names names;
        std::shared_ptr<Listing> order = std::make_shared<Listing>();
    };
    std::vector<Section> sections;
    Names* into = &fresh;
    Listing* listed = order.get();
    std::string siblings;
    if (below_too) siblings = following_siblings();
    do {
        Request request = request_of(Op::kList, address.node);
        request.value = cookie;
        if (below_too) request.flags = fileserver::kFlagPrefetch;
        auto answer = TRY(host().client().call(request, address.path, {}, siblings));
        std::string_view data = answer.data;
        while (data.size() >= sizeof(ListEntry)) {
            ListEntry entry;
            std::memcpy(&entry, data.data(), sizeof(entry));
            bool with = entry.kind == ListEntry::kWithAttributes;
            size_t head = sizeof(entry) + (with ? sizeof(Attributes) : 0);
            if (entry.record_size > data.size() || entry.record_size < head + entry.name_size) return Errno(EIO);
            std::string name(data.substr(head, entry.name_size));
            if (entry.kind == ListEntry::kSection || entry.kind == ListEntry::kSiblingSection) {
                sections.emplace_back();
                sections.back().sibling = entry.kind == ListEntry::kSiblingSection;
                sections.back().path = std::move(name);
                into = &sections.back().names;
                into->complete = true;
                listed = sections.back().order.get();
            } else {
                Names::Entry known;
                known.type = entry.type;
                known.inode = entry.inode;
                if (with) {
                    std::memcpy(&known.attributes, data.data() + sizeof(entry), sizeof(Attributes));
                    // Another name of a file may change what we know under this one.
                    known.has_attributes = known.attributes.links <= 1 || S_ISDIR(known.attributes.mode);
                }
                listed->entries.push_back(Listing::Entry{name, known.inode, known.type});
                into->entries.emplace(std::move(name), known);
            }
            data.remove_prefix(entry.record_size);
        }
        if (answer.reply.value != 0 && answer.reply.value == cookie) return Errno(EIO);
        cookie = answer.reply.value;
        if (cookie != 0 && fresh.entries.size() > give_up_at) {
            std::lock_guard lock(mutex_);
            names_locked().too_big = true;
            return Errno(EFBIG);
        }
    } while (cookie != 0);
    {
        std::lock_guard lock(mutex_);
        Names& names = names_locked();
        fresh.hints = std::move(names.hints);
        fresh.version = names.version + 1;
        fresh.listing = std::move(order);
        names = std::move(fresh);
    }
    host().keep_names(*this);
    Ref<HostInode> parent;
    {
        std::lock_guard lock(host().mutex_);
        parent = parent_;
    }
    for (auto& [path, sibling, names, section_order] : sections) {
        // Parents come before their children, so the way down is known.
        Ref<HostInode> at = sibling ? parent : Ref<HostInode>(this);
        std::string_view rest = path;
        while (at && !rest.empty()) {
            size_t end = rest.find('/');
            at = at->known_directory(rest.substr(0, end));
            rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
        }
        if (!at) continue;
        bool taken = false;
        {
            std::lock_guard lock(at->mutex_);
            Names& known = at->names_locked();
            if (!known.complete) {
                names.hints = std::move(known.hints);
                names.version = known.version + 1;
                names.listing = std::move(section_order);
                known = std::move(names);
                taken = true;
            }
        }
        if (taken) {
            host().keep_names(*at);
            host().keep_recent(at);
        }
    }
    return {};
}

// A directory among the names that are known, without asking; null: cannot tell.
Ref<HostInode> HostInode::known_directory(std::string_view name) {
    Attributes attributes;
    uint64_t number = 0;
    {
        std::lock_guard lock(mutex_);
        if (!names_ || !names_->complete) return nullptr;
        auto found = names_->entries.find(name);
        if (found == names_->entries.end() || found->second.type != DT_DIR) return nullptr;
        number = found->second.inode;
        if (found->second.has_attributes) attributes = found->second.attributes;
    }
    if (attributes.inode != 0) return host().intern(attributes, this, name);
    std::lock_guard lock(host().mutex_);
    auto live = host().inodes_.find(HostFileSystem::Key{key_.device, number});
    if (live == host().inodes_.end() || live->second->parent_.get() != this || live->second->name_ != name ||
        !live->second->try_ref())
        return nullptr;
    return Ref<HostInode>::adopt(live->second);
}

// The directories that stand behind this one in its parent, for the server to send along.
std::string HostInode::following_siblings() {
    constexpr size_t kSiblings = 96;
    Ref<HostInode> parent;
    std::string own;
    {
        std::lock_guard lock(host().mutex_);
        parent = parent_;
        own = name_;
    }
    if (!parent) return {};
    std::shared_ptr<const Listing> listing;
    {
        std::lock_guard lock(parent->mutex_);
        if (!parent->names_ || !parent->names_->complete) return {};
        listing = parent->names_->listing;
    }
    if (!listing) return {};
    std::string names;
    size_t count = 0;
    bool behind = false;
    for (const Listing::Entry& entry : listing->entries) {
        if (!behind) {
            behind = entry.name == own;
            continue;
        }
        if (entry.type != DT_DIR) continue;
        names += entry.name;
        names += '\0';
        if (++count == kSiblings) break;
    }
    return names;
}

SysResult<std::shared_ptr<const Listing>> HostInode::listing() {
    if (!S_ISDIR(mode())) return Errno(ENOTDIR);
    // Who lists a directory and then one in it is about to list them all.
    bool walking = false;
    if (!host().shared()) {
        Ref<HostInode> parent;
        {
            std::lock_guard lock(host().mutex_);
            parent = parent_;
        }
        was_listed_.store(true, std::memory_order_relaxed);
        walking = parent && parent->was_listed_.load(std::memory_order_relaxed);
    }
    for (int round = 0; round < 3; ++round) {
        {
            std::lock_guard lock(mutex_);
            if (names_ && names_->complete && (!host().shared() || round > 0)) {
                if (!names_->listing) {
                    auto made = std::make_shared<Listing>();
                    made->entries.reserve(names_->entries.size());
                    for (const auto& [name, entry] : names_->entries)
                        made->entries.push_back(Listing::Entry{name, entry.inode, entry.type});
                    names_->listing = std::move(made);
                }
                auto listing = names_->listing;
                // Shared trees: names are not believed any longer than this.
                if (host().shared()) {
                    names_->ahead = {.order = listing};
                    names_->complete = false;
                    names_->listing.reset();
                    names_->entries.clear();
                }
                return listing;
            }
        }
        TRY(load_names(SIZE_MAX, walking));
    }
    return Errno(EIO);
}

void HostInode::name_added(std::string_view name, HostInode& child) {
    Names::Entry entry;
    entry.type = static_cast<uint8_t>((child.mode() & S_IFMT) >> 12);
    entry.inode = child.key_.inode;
    std::lock_guard lock(mutex_);
    attributes_known_ = false;
    if (!names_) return;
    ++names_->version;
    (void)names_->take_hint(name);
    names_->ahead.forget(name);
    if (!names_->complete) return;
    names_->entries.insert_or_assign(std::string(name), entry);
    names_->listing.reset();
}

void HostInode::name_removed(std::string_view name) {
    std::lock_guard lock(mutex_);
    attributes_known_ = false;
    if (!names_) return;
    ++names_->version;
    (void)names_->take_hint(name);
    names_->ahead.forget(name);
    auto found = names_->entries.find(name);
    if (found != names_->entries.end()) names_->entries.erase(found);
    names_->listing.reset();
}

void HostInode::take_own(const HostFiles::Answer& answer) {
    const Attributes& own = answer.reply.parent;
    std::lock_guard lock(mutex_);
    if (own.inode == key_.inode && own.device == key_.device && posted_ < answer.number) {
        take_attributes(own);
        posted_ = 0;
    }
}

void HostInode::lost_name(NodeId node, bool whole) {
    Ref<HostInode> old_parent;
    bool gone;
    {
        std::lock_guard lock(mutex_);
        gone = attributes_.links <= 1 || S_ISDIR(attributes_.mode);
        if (attributes_.links > 0) attributes_.links = S_ISDIR(attributes_.mode) ? 0 : attributes_.links - 1;
        attributes_known_ = attributes_known_ && gone;
        was_written();
    }
    Ref<HostInode> pin;
    std::lock_guard lock(host().mutex_);
    uint32_t type = mode() & S_IFMT;
    if (type == S_IFIFO || type == S_IFSOCK || type == S_IFCHR)
        for (Ref<HostInode>& one : host().pinned_)
            if (one.get() == this) {
                pin = std::move(one);
                one = std::move(host().pinned_.back());
                host().pinned_.pop_back();
                break;
            }
    if (whole) lost_ = true;
    if (node != 0) {
        if (node_ == 0)
            node_ = node;
        else
            host().client().forget(node);
    }
    if (gone && in_table_) {
        in_table_ = false;
        host().inodes_.erase(key_);
    }
}

}  // namespace casemate::sentry
