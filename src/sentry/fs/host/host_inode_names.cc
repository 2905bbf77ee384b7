// HostInode: making, removing and renaming.
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>

#include "sentry/fs/host/host_file.h"
#include "sentry/fs/host/host_names.h"

namespace casemate::sentry {

using fileserver::Op;
using fileserver::Request;

SysResult<Ref<Inode>> HostInode::create(std::string_view name, const NewInode& properties) {
    if (host().read_only()) return Errno(EROFS);
    Address address = TRY(address_of(name));
    Op op;
    switch (properties.mode & S_IFMT) {
        case S_IFREG:
            op = Op::kCreate;
            break;
        case S_IFDIR:
            op = Op::kMakeDirectory;
            break;
        case S_IFLNK:
            op = Op::kSymlink;
            break;
        default:
            op = Op::kMakeNode;
    }
    Request request = request_of(op, address.node);
    request.mode = properties.mode;
    TRY(check_foreign(S_IWOTH));
    TRY(put_owner(properties.uid, properties.gid, request));
    request.device = properties.device;
    request.flags |= parent_flag();
    if (op == Op::kCreate && host().shared()) request.flags |= fileserver::kFlagExisting;
    auto answer = TRY(host().client().call(request, address.path, {}, properties.link_target));
    if (op == Op::kCreate && answer.reply.value == EEXIST) {
        // What is there will be looked up next.
        Names::Hint hint;
        hint.name = std::string(name);
        hint.exists = true;
        hint.attributes = answer.reply.attributes;
        hint.when = monotonic_now();
        std::lock_guard lock(mutex_);
        names_locked().add_hint(std::move(hint));
        return Errno(EEXIST);
    }
    if (op == Op::kCreate && !answer.fd) return Errno(EIO);
    Ref<HostInode> child = host().intern(answer.reply.attributes, this, name);
    child->made_here_.store(true, std::memory_order_relaxed);
    Ref<HostFd> fd = answer.fd ? make_ref<HostFd>(std::move(answer.fd)) : nullptr;
    bool new_directory = op == Op::kMakeDirectory && !host().shared();
    {
        std::lock_guard lock(child->mutex_);
        child->take_attributes(answer.reply.attributes);
        if (fd) {
            child->write_fd_ = fd;
            child->written_ = true;
        }
        if (op == Op::kSymlink) child->link_text_ = std::string(properties.link_target);
        if (new_directory) child->names_locked().complete = true;
        if (!host().shared()) child->xattrs_known_ = !new_directory;
    }
    if (op == Op::kMakeNode) {
        std::lock_guard lock(host().mutex_);
        host().pinned_.push_back(child);
    }
    if (fd) host().keep_descriptor(*child);
    if (new_directory) host().keep_names(*child);
    name_added(name, *child);
    take_own(answer);
    return Ref<Inode>(child);
}

SysResult<Ref<Inode>> HostInode::create_unnamed(const NewInode& properties) {
    if (host().read_only()) return Errno(EROFS);
    Address address = TRY(this->address());
    Request request = request_of(Op::kCreateUnnamed, address.node);
    request.mode = properties.mode;
    TRY(check_foreign(S_IWOTH));
    TRY(put_owner(properties.uid, properties.gid, request));
    auto answer = TRY(host().client().call(request, address.path));
    Ref<HostInode> child = host().intern(answer.reply.attributes, nullptr, {});
    {
        std::lock_guard lock(host().mutex_);
        child->node_ = answer.reply.node;
    }
    std::lock_guard lock(child->mutex_);
    child->write_fd_ = make_ref<HostFd>(std::move(answer.fd));
    child->written_ = true;
    return Ref<Inode>(child);
}

SysResult<void> HostInode::link(std::string_view name, Inode& target) {
    if (host().read_only()) return Errno(EROFS);
    TRY(check_foreign(S_IWOTH));
    auto& file = static_cast<HostInode&>(target);
    Address from = TRY(file.address());
    Address to = TRY(address_of(name));
    Request request = request_of(Op::kLink, from.node);
    request.node2 = to.node;
    request.flags |= parent_flag();
    auto answer = TRY(host().client().call(request, from.path, to.path));
    {
        std::lock_guard lock(file.mutex_);
        if (file.posted_ < answer.number) file.take_attributes(answer.reply.attributes);
    }
    {
        Ref<HostInode> old;
        std::lock_guard lock(host().mutex_);
        old = std::move(file.parent_);
        file.parent_ = Ref<HostInode>(this);
        file.name_ = std::string(name);
        file.lost_ = false;
    }
    name_added(name, file);
    take_own(answer);
    return {};
}

SysResult<void> HostInode::unlink(std::string_view name, Inode& target) {
    TRY(check_foreign(S_IWOTH));
    auto& file = static_cast<HostInode&>(target);
    Address address = TRY(address_of(name));
    if (host().read_only()) return Errno(EROFS);
    Request request = request_of(Op::kUnlink, address.node);
    bool whole, others;
    {
        std::lock_guard lock(host().mutex_);
        whole = file.parent_.get() == this && file.name_ == name;
    }
    {
        std::lock_guard lock(file.mutex_);
        others = file.attributes_.links > 1;
    }
    // A file that is open, or has other names while it was known by this one, must be found without it.
    bool keep = file.open_files_.load(std::memory_order_relaxed) > 0 || (whole && others);
    // What the pod itself put there it can take away: nobody waits for the answer.
    if (!host().shared() && !keep && file.made_here_.load(std::memory_order_relaxed)) {
        uint64_t number = host().client().post(request, address.path);
        file.lost_name(0, whole);
        name_removed(name);
        for (HostInode* changed : {this, &file}) {
            std::lock_guard lock(changed->mutex_);
            changed->posted_ = number;
        }
        return {};
    }
    request.flags |= parent_flag();
    if (keep) request.flags |= fileserver::kFlagKeepNode;
    auto answer = TRY(host().client().call(request, address.path));
    const auto& gone = answer.reply.attributes;
    if (keep && (gone.inode != file.key_.inode || gone.device != file.key_.device)) {
        // Others had put another file in its place.
        host().client().forget(answer.reply.node);
        name_removed(name);
        return {};
    }
    file.lost_name(answer.reply.node, whole);
    name_removed(name);
    take_own(answer);
    return {};
}

SysResult<void> HostInode::remove_directory(std::string_view name, Inode& target) {
    TRY(check_foreign(S_IWOTH));
    auto& directory = static_cast<HostInode&>(target);
    Address address = TRY(address_of(name));
    Request request = request_of(Op::kRemoveDirectory, address.node);
    request.flags |= parent_flag();
    auto answer = TRY(host().client().call(request, address.path));
    directory.lost_name(0);
    name_removed(name);
    take_own(answer);
    return {};
}

SysResult<void> HostInode::rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                                  Inode* target, uint32_t flags) {
    if (host().read_only()) return Errno(EROFS);
    auto& moved = static_cast<HostInode&>(source);
    auto& directory = static_cast<HostInode&>(new_parent);
    auto* replaced = static_cast<HostInode*>(target);
    TRY(check_foreign(S_IWOTH));
    TRY(directory.check_foreign(S_IWOTH));
    Address from = TRY(address_of(name));
    Address to = TRY(directory.address_of(new_name));
    Request request = request_of(Op::kRename, from.node);
    request.node2 = to.node;
    request.value = flags;
    bool exchange = flags & RENAME_EXCHANGE;
    if (replaced != nullptr && !exchange && replaced->open_files_.load(std::memory_order_relaxed) > 0)
        request.flags |= fileserver::kFlagKeepNode;
    auto answer = TRY(host().client().call(request, from.path, to.path));
    name_removed(name);
    directory.name_removed(new_name);
    auto place = [&](HostInode& inode, HostInode& parent, std::string_view as) {
        Ref<HostInode> old;
        {
            std::lock_guard lock(host().mutex_);
            old = std::move(inode.parent_);
            inode.parent_ = Ref<HostInode>(&parent);
            inode.name_ = std::string(as);
            inode.lost_ = false;
        }
        inode.forget_attributes();
        parent.name_added(as, inode);
    };
    if (replaced != nullptr && !exchange) replaced->lost_name(answer.reply.node);
    place(moved, directory, new_name);
    if (exchange) place(*replaced, *this, name);
    return {};
}

// --- What that changes of what is known ---

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
    const fileserver::Attributes& own = answer.reply.parent;
    std::lock_guard lock(mutex_);
    if (own.inode == key_.inode && own.device == key_.device && posted_ < answer.number) {
        take_attributes(own);
        posted_ = 0;
    }
}

void HostInode::lost_name(fileserver::NodeId node, bool whole) {
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

SysResult<void> HostInode::sync_names() {
    auto address = this->address();
    // A directory that was removed has nothing to lose; and some file systems know no such thing.
    if (host().read_only() || !address.ok()) return {};
    Request request = request_of(Op::kSync, address->node);
    request.flags = fileserver::kFlagThisOnly;
    // What was posted is worked off before.
    auto answer = host().client().call(request, address->path);
    if (!answer.ok() && answer.error() != Errno(ENOENT) && answer.error() != Errno(ESTALE) &&
        answer.error() != Errno(EINVAL))
        return answer.error();
    return {};
}

SysResult<std::string> HostInode::link_text() {
    {
        std::lock_guard lock(mutex_);
        if (!S_ISLNK(attributes_.mode)) return Errno(EINVAL);
        if (!link_text_.empty()) return link_text_;
    }
    Address address = TRY(this->address());
    Request request = request_of(Op::kReadLink, address.node);
    auto answer = TRY(host().client().call(request, address.path));
    std::lock_guard lock(mutex_);
    link_text_ = answer.data;
    return std::move(answer.data);
}

// --- Extended attributes ---

namespace {

// What the pod may see: security.* would be the host's labels, trusted.* its overlays, system.posix_acl_* rules that
// the permission checks here do not know.
SysResult<void> allowed_xattr(std::string_view name) {
    if (name == "user.") return Errno(EINVAL);
    if (name.starts_with("user.") && name.size() > 5) return {};
    if (name == "security.capability") return {};
    return Errno(EOPNOTSUPP);
}

}  // namespace

// Asks once for the names, so that the usual answer (there are none) needs no question.
SysResult<void> HostInode::know_xattrs() {
    {
        std::lock_guard lock(mutex_);
        if (xattrs_known_ && !host().shared()) return {};
    }
    Address address = TRY(this->address());
    Request request = request_of(Op::kListXattrs, address.node);
    auto answer = TRY(host().client().call(request, address.path));
    std::vector<std::string> names;
    for (size_t at = 0; at < answer.data.size();) {
        std::string name(answer.data.c_str() + at);
        at += name.size() + 1;
        if (allowed_xattr(name).ok()) names.push_back(std::move(name));
    }
    std::lock_guard lock(mutex_);
    xattrs_ = std::move(names);
    xattrs_known_ = true;
    return {};
}

SysResult<std::vector<std::string>> HostInode::list_xattrs() {
    if (S_ISLNK(mode())) return std::vector<std::string>();
    TRY(know_xattrs());
    std::lock_guard lock(mutex_);
    return xattrs_;
}

SysResult<std::string> HostInode::get_xattr(std::string_view name) {
    TRY(allowed_xattr(name));
    if (S_ISLNK(mode())) return Errno(ENODATA);
    TRY(know_xattrs());
    {
        std::lock_guard lock(mutex_);
        bool there = false;
        for (const std::string& known : xattrs_) there |= known == name;
        if (!there) return Errno(ENODATA);
    }
    Address address = TRY(this->address());
    Request request = request_of(Op::kGetXattr, address.node);
    auto answer = TRY(host().client().call(request, address.path, {}, name));
    return std::move(answer.data);
}

SysResult<void> HostInode::set_xattr(std::string_view name, std::string_view value, int flags) {
    TRY(check_foreign(S_IWOTH));
    if (host().read_only()) return Errno(EROFS);
    TRY(allowed_xattr(name));
    if (S_ISLNK(mode())) return Errno(EPERM);
    Address address = TRY(this->address());
    Request request = request_of(Op::kSetXattr, address.node);
    request.value = static_cast<uint64_t>(flags);
    TRY(host().client().call(request, address.path, name, value));
    std::lock_guard lock(mutex_);
    xattrs_known_ = false;
    attributes_known_ = false;
    return {};
}

SysResult<void> HostInode::remove_xattr(std::string_view name) {
    TRY(check_foreign(S_IWOTH));
    if (host().read_only()) return Errno(EROFS);
    TRY(allowed_xattr(name));
    if (S_ISLNK(mode())) return Errno(ENODATA);
    Address address = TRY(this->address());
    Request request = request_of(Op::kRemoveXattr, address.node);
    TRY(host().client().call(request, address.path, {}, name));
    std::lock_guard lock(mutex_);
    xattrs_known_ = false;
    attributes_known_ = false;
    return {};
}

}  // namespace casemate::sentry
