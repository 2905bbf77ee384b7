#include "sentry/vfs/mount.h"

#include <algorithm>
#include <unordered_map>

#include "sentry/kernel/task.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

namespace {

constexpr size_t kMaxMounts = 100'000;  // fs.mount-max

}  // namespace

// The table work, all under the lock. What it takes out of the table lands in `dropped` and is released by the caller
// after the lock.
struct MountLinks {
    struct Dropped {
        std::vector<Ref<Mount>> mounts;
        std::vector<Ref<Dentry>> dentries;
        std::vector<Path> paths;
    };

    struct Table {
        std::mutex mutex;
        std::vector<Mount*> attached;   // of all namespaces
        FsContext* contexts = nullptr;  // first of the list
        uint64_t last_mount_id = 20, last_group = 0, last_namespace = 0xf0000000;
    };
    static Table& table() {
        static Table table;
        return table;
    }

    static Mount* find_child(const Mount& parent, const Dentry* at) {
        for (Mount* child : parent.children_)
            if (child->mountpoint_.get() == at) return child;
        return nullptr;
    }

    // Hangs `mount` (with what hangs on it already) below `parent`.
    static void connect(Ref<Mount> mount, Mount& parent, Ref<Dentry> at) {
        Mount& m = *mount;
        m.parent_ = &parent;
        at->mounts_here.fetch_add(1, std::memory_order_acq_rel);
        m.mountpoint_ = std::move(at);
        parent.children_.push_back(&m);
        if (parent.namespace_ != nullptr) enter(std::move(mount), *parent.namespace_);
    }
    static void enter(Ref<Mount> mount, MountNamespace& name_space) {
        Mount& m = *mount;
        m.namespace_ = &name_space;
        table().attached.push_back(&m);
        name_space.mounts_.push_back(std::move(mount));
    }

    static void unlink_from_parent(Mount& mount, Dropped& dropped) {
        if (mount.parent_ == nullptr) return;
        std::erase(mount.parent_->children_, &mount);
        mount.mountpoint_->mounts_here.fetch_sub(1, std::memory_order_acq_rel);
        dropped.dentries.push_back(std::move(mount.mountpoint_));
        mount.parent_ = nullptr;
    }

    // Takes a mount and all below it out of its namespace.
    static void disconnect_tree(Mount& mount, Dropped& dropped) {
        std::vector<Mount*> tree{&mount};
        for (size_t i = 0; i < tree.size(); ++i)
            tree.insert(tree.end(), tree[i]->children_.begin(), tree[i]->children_.end());
        for (size_t i = tree.size(); i-- > 0;) {
            Mount& one = *tree[i];
            unlink_from_parent(one, dropped);
            std::erase(table().attached, &one);
            if (MountNamespace* name_space = one.namespace_) {
                one.namespace_ = nullptr;
                auto place = std::find_if(name_space->mounts_.begin(), name_space->mounts_.end(),
                                          [&](const Ref<Mount>& m) { return m.get() == &one; });
                if (place != name_space->mounts_.end()) {
                    dropped.mounts.push_back(std::move(*place));
                    name_space->mounts_.erase(place);
                }
            }
            one.peer_group_ = one.master_group_ = 0;
        }
    }

    static Ref<Mount> clone_mount(const Mount& from, Ref<Dentry> root) {
        auto copy = make_ref<Mount>(from.file_system_, std::move(root), from.flags(), from.source_, from.options_);
        copy->peer_group_ = from.peer_group_;
        copy->master_group_ = from.master_group_;
        return copy;
    }

    // A detached copy of the tree at `from`, seen from `root`. The copies are owned through `owned`, top first.
    static Ref<Mount> clone_tree(const Mount& from, Ref<Dentry> root, bool recursive, std::vector<Ref<Mount>>& owned) {
        Ref<Mount> top = clone_mount(from, root);
        owned.push_back(top);
        if (!recursive) return top;
        for (Mount* child : from.children_) {
            if (child->unbindable_ || !child->mountpoint_->is_descendant_of(*root)) continue;
            Ref<Mount> copy = clone_tree(*child, child->root_, true, owned);
            connect(copy, *top, child->mountpoint_);
        }
        return top;
    }

    static void enter_tree(Mount& top, MountNamespace& name_space, std::vector<Ref<Mount>>& owned) {
        (void)top;
        for (Ref<Mount>& one : owned)
            if (one->namespace_ == nullptr) enter(one, name_space);
    }

    static size_t tree_size(const Mount& mount) {
        size_t n = 1;
        for (Mount* child : mount.children_) n += tree_size(*child);
        return n;
    }

    // Attaches a detached tree and lets it appear at the peers and slaves of the parent.
    static SysResult<void> attach_tree(Ref<Mount> mount, std::vector<Ref<Mount>>& owned, Mount& parent,
                                       Ref<Dentry> at) {
        if (parent.namespace_ == nullptr) return Errno(EINVAL);
        if (parent.namespace_->mounts_.size() + owned.size() > kMaxMounts) return Errno(ENOSPC);
        uint64_t group = parent.peer_group_;
        if (group != 0)
            for (Ref<Mount>& one : owned)
                if (one->peer_group_ == 0) one->peer_group_ = ++table().last_group;
        std::vector<std::pair<Mount*, bool>> receivers;  // mount, as a slave
        if (group != 0) {
            std::vector<uint64_t> groups{group};
            for (size_t i = 0; i < groups.size(); ++i)
                for (Mount* other : table().attached) {
                    if (other == &parent) continue;
                    bool peer = other->peer_group_ == groups[i];
                    bool slave = other->master_group_ == groups[i];
                    if (!peer && !slave) continue;
                    receivers.emplace_back(other, i > 0 || slave);
                    if (slave && other->peer_group_ != 0 &&
                        std::find(groups.begin(), groups.end(), other->peer_group_) == groups.end())
                        groups.push_back(other->peer_group_);
                }
        }
        connect(mount, parent, at);
        enter_tree(*mount, *parent.namespace_, owned);
        for (auto [receiver, as_slave] : receivers) {
            if (!at->is_descendant_of(*receiver->root_) || find_child(*receiver, at.get()) != nullptr) continue;
            if (receiver->namespace_ == nullptr || receiver->namespace_->mounts_.size() + owned.size() > kMaxMounts)
                continue;
            std::vector<Ref<Mount>> copies;
            Ref<Mount> copy = clone_tree(*mount, mount->root_, true, copies);
            if (as_slave)
                for (Ref<Mount>& one : copies) {
                    one->master_group_ = one->peer_group_;
                    one->peer_group_ = receiver->peer_group_ != 0 ? ++table().last_group : 0;
                }
            connect(copy, *receiver, at);
            enter_tree(*copy, *receiver->namespace_, copies);
        }
        return {};
    }

    static void detach_tree(Mount& mount, Dropped& dropped) {
        Mount* parent = mount.parent_;
        Ref<Dentry> at = mount.mountpoint_;
        uint64_t group = parent != nullptr ? parent->peer_group_ : 0;
        Dentry* root = mount.root_.get();
        if (group != 0) {
            std::vector<uint64_t> groups{group};
            std::vector<Mount*> victims;
            for (size_t i = 0; i < groups.size(); ++i)
                for (Mount* other : table().attached) {
                    if (other == parent) continue;
                    bool slave = other->master_group_ == groups[i];
                    if (other->peer_group_ != groups[i] && !slave) continue;
                    if (Mount* child = find_child(*other, at.get()))
                        if (child->root_.get() == root && child->children_.empty()) victims.push_back(child);
                    if (slave && other->peer_group_ != 0 &&
                        std::find(groups.begin(), groups.end(), other->peer_group_) == groups.end())
                        groups.push_back(other->peer_group_);
                }
            for (Mount* victim : victims)
                if (victim->parent_ != nullptr && victim != &mount) disconnect_tree(*victim, dropped);
        }
        disconnect_tree(mount, dropped);
        dropped.dentries.push_back(std::move(at));
    }

    static void list(Mount& mount, std::vector<MountNamespace::Entry>& into) {
        MountNamespace::Entry entry{};
        entry.id = mount.id_;
        entry.parent_id = mount.parent_ != nullptr ? mount.parent_->id_ : mount.id_;
        entry.mount = Ref<Mount>(&mount);
        if (mount.parent_ != nullptr) entry.mountpoint = Path(Ref<Mount>(mount.parent_), mount.mountpoint_);
        entry.peer_group = mount.peer_group_;
        entry.master_group = mount.master_group_;
        entry.propagation = (mount.peer_group_ != 0 ? MS_SHARED : 0) | (mount.master_group_ != 0 ? MS_SLAVE : 0) |
                            (mount.unbindable_ ? MS_UNBINDABLE : 0);
        if (entry.propagation == 0) entry.propagation = MS_PRIVATE;
        into.push_back(std::move(entry));
        for (Mount* child : mount.children_) list(*child, into);
    }

    static void set_propagation(Mount& mount, uint64_t type) {
        mount.unbindable_ = false;
        switch (type) {
            case MS_SHARED:
                if (mount.peer_group_ == 0) mount.peer_group_ = ++table().last_group;
                break;
            case MS_SLAVE: {
                if (mount.peer_group_ == 0) break;
                bool alone = true;
                for (Mount* other : table().attached)
                    if (other != &mount && other->peer_group_ == mount.peer_group_) alone = false;
                if (!alone) mount.master_group_ = mount.peer_group_;
                mount.peer_group_ = 0;
                break;
            }
            default:
                mount.peer_group_ = mount.master_group_ = 0;
                mount.unbindable_ = type == MS_UNBINDABLE;
        }
    }

    static void add_context(FsContext& context) {
        std::lock_guard lock(table().mutex);
        context.next_ = table().contexts;
        if (context.next_ != nullptr) context.next_->previous_ = &context;
        table().contexts = &context;
    }
    static void remove_context(FsContext& context) {
        std::lock_guard lock(table().mutex);
        if (context.next_ != nullptr) context.next_->previous_ = context.previous_;
        (context.previous_ != nullptr ? context.previous_->next_ : table().contexts) = context.next_;
    }
    // Everybody who stands on `from` (as root or working directory) stands on `to` afterwards.
    static void move_contexts(const Path& from, const Path& to, Dropped& dropped) {
        for (FsContext* context = table().contexts; context != nullptr; context = context->next_) {
            std::lock_guard lock(context->mutex_);
            for (Path* place : {&context->root_, &context->working_directory_})
                if (*place == from) {
                    dropped.paths.push_back(std::move(*place));
                    *place = to;
                }
        }
    }
};

SysResult<Ref<Mount>> Mount::create(Ref<FileSystem> file_system, uint64_t flags, std::string source,
                                    std::string options) {
    Ref<Dentry> root = TRY(file_system->root_dentry());
    return make_ref<Mount>(std::move(file_system), std::move(root), flags, std::move(source), std::move(options));
}

Mount::Mount(Ref<FileSystem> file_system, Ref<Dentry> root, uint64_t flags, std::string source, std::string options)
    : file_system_(std::move(file_system)),
      root_(std::move(root)),
      flags_(flags & kFlags),
      source_(std::move(source)),
      options_(std::move(options)) {
    static std::atomic<uint64_t> last_id{20};
    id_ = last_id.fetch_add(1, std::memory_order_relaxed) + 1;
    file_system_->mount_added();
}

Mount::~Mount() {
    root_.reset();
    file_system_->mount_removed();
}

Ref<MountNamespace> Mount::mount_namespace() const {
    std::lock_guard lock(MountLinks::table().mutex);
    if (namespace_ == nullptr || !namespace_->try_ref()) return nullptr;
    return Ref<MountNamespace>::adopt(namespace_);
}

Path Mount::follow_down(Path path) {
    while (path.dentry->mounts_here.load(std::memory_order_acquire) != 0) {
        Ref<Mount> above;
        {
            std::lock_guard lock(MountLinks::table().mutex);
            above = Ref<Mount>(MountLinks::find_child(*path.mount, path.dentry.get()));
        }
        if (!above) break;
        Ref<Dentry> root = above->root_;
        path = Path(std::move(above), std::move(root));
    }
    return path;
}

Path Mount::mountpoint() const {
    std::lock_guard lock(MountLinks::table().mutex);
    if (parent_ == nullptr) return Path();
    return Path(Ref<Mount>(parent_), mountpoint_);
}

MountNamespace::MountNamespace(Ref<Mount> root) {
    std::lock_guard lock(MountLinks::table().mutex);
    id_ = ++MountLinks::table().last_namespace;
    root_ = root.get();
    MountLinks::enter(std::move(root), *this);
}

Ref<MountNamespace> MountNamespace::create(Ref<Mount> root) {
    return Ref<MountNamespace>::adopt(new MountNamespace(std::move(root)));
}

MountNamespace::~MountNamespace() {
    MountLinks::Dropped dropped;
    std::lock_guard lock(MountLinks::table().mutex);
    while (!mounts_.empty()) MountLinks::disconnect_tree(*mounts_.front(), dropped);
}

Path MountNamespace::root() {
    Path bottom;
    {
        std::lock_guard lock(MountLinks::table().mutex);
        bottom = Path(Ref<Mount>(root_), root_->root_);
    }
    return Mount::follow_down(std::move(bottom));
}

SysResult<void> MountNamespace::attach(Ref<Mount> mount, const Path& where) {
    Path at = Mount::follow_down(where);
    bool directory = S_ISDIR(mount->root()->inode_or_null()->mode());
    if (directory != static_cast<bool>(S_ISDIR(at.inode().mode()))) return Errno(ENOTDIR);
    if (at.dentry->unlinked()) return Errno(ENOENT);
    std::vector<Ref<Mount>> owned{mount};
    std::lock_guard lock(MountLinks::table().mutex);
    if (at.mount->namespace_ != this || mount->namespace_ != nullptr) return Errno(EINVAL);
    return MountLinks::attach_tree(std::move(mount), owned, *at.mount, at.dentry);
}

SysResult<void> MountNamespace::detach(const Path& where, int flags) {
    if (flags & ~(MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW)) return Errno(EINVAL);
    if (where.dentry != where.mount->root()) return Errno(EINVAL);
    MountLinks::Dropped dropped;
    std::lock_guard lock(MountLinks::table().mutex);
    Mount& mount = *where.mount;
    if (mount.namespace_ != this || &mount == root_) return Errno(EINVAL);
    if (!(flags & MNT_DETACH)) {
        // One reference is the namespace's, one the caller's path.
        if (!mount.children_.empty() || mount.ref_count() > 2) return Errno(EBUSY);
    }
    MountLinks::detach_tree(mount, dropped);
    return {};
}

SysResult<void> MountNamespace::move(const Path& from, const Path& to) {
    if (from.dentry != from.mount->root()) return Errno(EINVAL);
    Path at = Mount::follow_down(to);
    if (static_cast<bool>(S_ISDIR(from.inode().mode())) != static_cast<bool>(S_ISDIR(at.inode().mode())))
        return Errno(ENOTDIR);
    if (at.dentry->unlinked()) return Errno(ENOENT);
    MountLinks::Dropped dropped;
    std::lock_guard lock(MountLinks::table().mutex);
    Mount& mount = *from.mount;
    if (mount.namespace_ != this || at.mount->namespace_ != this || &mount == root_) return Errno(EINVAL);
    if (mount.parent_->peer_group_ != 0) return Errno(EINVAL);
    for (Mount* above = at.mount.get(); above != nullptr; above = above->parent_)
        if (above == &mount) return Errno(ELOOP);
    if (at.mount->peer_group_ != 0) {
        // What moves below a shared mount would have to appear at its peers: that is a copy, made by attach_tree.
        std::vector<Ref<Mount>> owned{Ref<Mount>(&mount)};
        MountLinks::unlink_from_parent(mount, dropped);
        std::erase(MountLinks::table().attached, &mount);
        std::erase_if(mounts_, [&](const Ref<Mount>& m) { return m.get() == &mount; });
        mount.namespace_ = nullptr;
        return MountLinks::attach_tree(Ref<Mount>(&mount), owned, *at.mount, at.dentry);
    }
    MountLinks::unlink_from_parent(mount, dropped);
    mount.parent_ = at.mount.get();
    at.dentry->mounts_here.fetch_add(1, std::memory_order_acq_rel);
    mount.mountpoint_ = at.dentry;
    at.mount->children_.push_back(&mount);
    return {};
}

SysResult<void> MountNamespace::bind(const Path& from, const Path& to, bool recursive) {
    Path at = Mount::follow_down(to);
    if (static_cast<bool>(S_ISDIR(from.inode().mode())) != static_cast<bool>(S_ISDIR(at.inode().mode())))
        return Errno(ENOTDIR);
    if (at.dentry->unlinked()) return Errno(ENOENT);
    std::vector<Ref<Mount>> owned;
    Ref<Mount> copy;
    MountLinks::Dropped dropped;
    std::lock_guard lock(MountLinks::table().mutex);
    if (at.mount->namespace_ != this || from.mount->namespace_ == nullptr) return Errno(EINVAL);
    if (from.mount->unbindable_) return Errno(EINVAL);
    copy = MountLinks::clone_tree(*from.mount, from.dentry, recursive, owned);
    auto result = MountLinks::attach_tree(copy, owned, *at.mount, at.dentry);
    if (!result.ok()) MountLinks::disconnect_tree(*copy, dropped);
    return result;
}

SysResult<void> MountNamespace::set_propagation(const Path& where, uint64_t type, bool recursive) {
    if (where.dentry != where.mount->root()) return Errno(EINVAL);
    std::lock_guard lock(MountLinks::table().mutex);
    if (where.mount->namespace_ != this) return Errno(EINVAL);
    std::vector<Mount*> tree{where.mount.get()};
    for (size_t i = 0; i < tree.size(); ++i) {
        MountLinks::set_propagation(*tree[i], type);
        if (recursive) tree.insert(tree.end(), tree[i]->children_.begin(), tree[i]->children_.end());
    }
    return {};
}

SysResult<void> MountNamespace::set_flags(const Path& where, uint64_t set, uint64_t clear, bool recursive) {
    if (where.dentry != where.mount->root()) return Errno(EINVAL);
    std::lock_guard lock(MountLinks::table().mutex);
    if (where.mount->namespace_ != this) return Errno(EINVAL);
    std::vector<Mount*> tree{where.mount.get()};
    for (size_t i = 0; i < tree.size(); ++i) {
        tree[i]->set_flags((tree[i]->flags() & ~clear) | set);
        if (recursive) tree.insert(tree.end(), tree[i]->children_.begin(), tree[i]->children_.end());
    }
    return {};
}

SysResult<Ref<MountNamespace>> MountNamespace::clone(FsContext& follow) {
    Path root = follow.root(), working = follow.working_directory();
    std::vector<Ref<Mount>> owned;
    std::unordered_map<const Mount*, Mount*> copies;
    Ref<MountNamespace> result;
    std::unique_lock lock(MountLinks::table().mutex);
    // Breadth first, so that parents have their copies before the children ask for them.
    std::vector<Mount*> tree{root_};
    for (size_t i = 0; i < tree.size(); ++i) {
        Mount& from = *tree[i];
        tree.insert(tree.end(), from.children_.begin(), from.children_.end());
        Ref<Mount> copy = MountLinks::clone_mount(from, from.root_);
        copy->unbindable_ = from.unbindable_;
        copies[&from] = copy.get();
        owned.push_back(copy);
        if (from.parent_ != nullptr) MountLinks::connect(copy, *copies[from.parent_], from.mountpoint_);
    }
    Ref<Mount> top = owned.front();
    lock.unlock();
    result = MountNamespace::create(top);
    lock.lock();
    MountLinks::enter_tree(*top, *result, owned);
    auto moved = [&](const Path& path) {
        auto found = copies.find(path.mount.get());
        return found == copies.end() ? path : Path(Ref<Mount>(found->second), path.dentry);
    };
    Path new_root = moved(root), new_working = moved(working);
    lock.unlock();
    follow.set_root(new_root);
    follow.set_working_directory(new_working);
    return result;
}

SysResult<void> MountNamespace::pivot_root(Task& task, const Path& new_root, const Path& put_old) {
    Path old_root = task.fs().root();
    Path put = Mount::follow_down(put_old);
    if (!S_ISDIR(new_root.inode().mode()) || !S_ISDIR(put.inode().mode())) return Errno(ENOTDIR);
    if (new_root.dentry->unlinked() || put.dentry->unlinked()) return Errno(ENOENT);
    if (new_root.dentry != new_root.mount->root() || old_root.dentry != old_root.mount->root()) return Errno(EINVAL);
    if (new_root.mount == old_root.mount) return Errno(EBUSY);
    MountLinks::Dropped dropped;
    std::lock_guard lock(MountLinks::table().mutex);
    Mount& fresh = *new_root.mount;
    Mount& old = *old_root.mount;
    if (fresh.namespace_ != this || old.namespace_ != this || put.mount->namespace_ != this) return Errno(EINVAL);
    if (fresh.parent_ == nullptr || fresh.parent_->peer_group_ != 0) return Errno(EINVAL);
    if (put.mount->peer_group_ != 0 || (old.parent_ != nullptr && old.parent_->peer_group_ != 0)) return Errno(EINVAL);
    // put_old must be at or below new_root, new_root below the old root.
    auto below = [](const Path& path, const Mount& top) {
        Mount* at = path.mount.get();
        while (at != nullptr && at != &top) at = at->parent_;
        return at == &top;
    };
    if (!below(put, fresh) || !below(new_root, old)) return Errno(EINVAL);

    Mount* above = old.parent_;
    Ref<Dentry> above_at = old.mountpoint_;
    MountLinks::unlink_from_parent(fresh, dropped);
    if (above != nullptr) MountLinks::unlink_from_parent(old, dropped);
    auto hang = [](Mount& mount, Mount& parent, const Ref<Dentry>& at) {
        mount.parent_ = &parent;
        at->mounts_here.fetch_add(1, std::memory_order_acq_rel);
        mount.mountpoint_ = at;
        parent.children_.push_back(&mount);
    };
    if (above != nullptr)
        hang(fresh, *above, above_at);
    else
        root_ = &fresh;
    hang(old, *put.mount, put.dentry);
    MountLinks::move_contexts(old_root, new_root, dropped);
    dropped.dentries.push_back(std::move(above_at));
    return {};
}

std::vector<MountNamespace::Entry> MountNamespace::snapshot() {
    std::vector<Entry> entries;
    std::lock_guard lock(MountLinks::table().mutex);
    MountLinks::list(*root_, entries);
    return entries;
}

FsContext::FsContext(Path root, Path working_directory, uint32_t umask)
    : root_(std::move(root)), working_directory_(std::move(working_directory)), umask_(umask & 0777) {
    MountLinks::add_context(*this);
}

FsContext::~FsContext() { MountLinks::remove_context(*this); }

Ref<FsContext> FsContext::clone() { return make_ref<FsContext>(root(), working_directory(), umask()); }

Path FsContext::root() {
    std::lock_guard lock(mutex_);
    return root_;
}

Path FsContext::working_directory() {
    std::lock_guard lock(mutex_);
    return working_directory_;
}

void FsContext::set_root(Path path) {
    std::lock_guard lock(mutex_);
    std::swap(root_, path);
}

void FsContext::set_working_directory(Path path) {
    std::lock_guard lock(mutex_);
    std::swap(working_directory_, path);
}

}  // namespace casemate::sentry
