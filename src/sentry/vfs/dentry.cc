#include "sentry/vfs/dentry.h"

#include <functional>

namespace casemate::sentry {

namespace {

uint32_t hash_name(std::string_view name) { return static_cast<uint32_t>(std::hash<std::string_view>{}(name)); }

}  // namespace

struct Dentry::Children {
    SmallMutex mutex;
    std::vector<Dentry*> buckets{std::vector<Dentry*>(8)};  // guarded by mutex; a power of two
    size_t count = 0;

    Dentry* find(std::string_view name, uint32_t hash) const {
        for (Dentry* one = buckets[hash & (buckets.size() - 1)]; one != nullptr; one = one->next_in_bucket_)
            if (one->hash_ == hash && one->name_ == name) return one;
        return nullptr;
    }
    void insert(Dentry& dentry) {
        if (count >= buckets.size() * 2) grow();
        Dentry*& bucket = buckets[dentry.hash_ & (buckets.size() - 1)];
        dentry.next_in_bucket_ = bucket;
        bucket = &dentry;
        dentry.listed_ = true;
        ++count;
    }
    void remove(Dentry& dentry) {
        if (!dentry.listed_) return;
        Dentry** link = &buckets[dentry.hash_ & (buckets.size() - 1)];
        while (*link != &dentry) link = &(*link)->next_in_bucket_;
        *link = dentry.next_in_bucket_;
        dentry.listed_ = false;
        --count;
    }
    void grow() {
        std::vector<Dentry*> old(buckets.size() * 4);
        old.swap(buckets);
        for (Dentry* one : old)
            while (one != nullptr) {
                Dentry* next = one->next_in_bucket_;
                Dentry*& bucket = buckets[one->hash_ & (buckets.size() - 1)];
                one->next_in_bucket_ = bucket;
                bucket = one;
                one = next;
            }
    }
};

Dentry::Dentry(Ref<Inode> inode, Ref<Dentry> parent, std::string name, uint32_t hash)
    : inode_(inode.release()), parent_(std::move(parent)), name_(std::move(name)), hash_(hash) {}

Dentry::~Dentry() {
    delete children_.load(std::memory_order_acquire);
    if (Inode* inode = inode_or_null()) inode->unref();
    // A long chain of parents dies by iteration, not recursion: a guest can make directories very deep.
    Ref<Dentry> parent = std::move(parent_);
    while (parent && parent->ref_count() == 1) {
        Ref<Dentry> above;
        {
            // We own the only reference; a lookup that finds the parent meanwhile only raises the count.
            std::lock_guard lock(parent->name_mutex_);
            above = parent->parent_;
        }
        parent = std::move(above);
    }
}

Ref<Dentry> Dentry::create_root(Ref<Inode> inode) {
    Ref<Dentry> dentry = Ref<Dentry>::adopt(new Dentry(std::move(inode), nullptr, "/", 0));
    dentry->root_ = true;
    return dentry;
}

Ref<Dentry> Dentry::create_disconnected(Ref<Inode> inode, std::string name) {
    Ref<Dentry> dentry = Ref<Dentry>::adopt(new Dentry(std::move(inode), nullptr, std::move(name), 0));
    dentry->unlinked_.store(true, std::memory_order_release);
    return dentry;
}

Dentry::Children& Dentry::children() {
    Children* known = children_.load(std::memory_order_acquire);
    if (known != nullptr) return *known;
    auto fresh = std::make_unique<Children>();
    if (children_.compare_exchange_strong(known, fresh.get(), std::memory_order_acq_rel)) return *fresh.release();
    return *known;
}

void Dentry::last_ref_dropped() {
    remove_from_parent();
    delete this;
}

void Dentry::remove_from_parent() {
    Ref<Dentry> parent;
    {
        std::lock_guard lock(name_mutex_);
        parent = parent_;
    }
    if (!parent) return;
    Children& siblings = parent->children();
    std::lock_guard lock(siblings.mutex);
    siblings.remove(*this);
}

Ref<Dentry> Dentry::cached_child(std::string_view name) {
    Children* known = children_.load(std::memory_order_acquire);
    if (known == nullptr) return nullptr;
    uint32_t hash = hash_name(name);
    std::lock_guard lock(known->mutex);
    Dentry* found = known->find(name, hash);
    if (found == nullptr || !found->try_ref()) return nullptr;
    if (!found->used_.load(std::memory_order_relaxed)) found->used_.store(true, std::memory_order_relaxed);
    return Ref<Dentry>::adopt(found);
}

SysResult<Ref<Dentry>> Dentry::child(std::string_view name) {
    Inode* directory = inode_or_null();
    FileSystem& file_system = directory->file_system();
    if (Ref<Dentry> found = cached_child(name)) {
        if (!file_system.names_can_change() || found->mounts_here.load(std::memory_order_acquire) != 0 ||
            directory->revalidate_child(name, found->inode_or_null())) {
            if (!found->kept_.load(std::memory_order_relaxed) &&
                (!file_system.names_can_change() || !found->negative()))
                file_system.dentry_cache().keep(*found);
            return found;
        }
        found->forget();
    }
    std::lock_guard lock(directory_mutex_);
    return child_locked(name);
}

SysResult<Ref<Dentry>> Dentry::child_locked(std::string_view name) {
    Inode* directory = inode_or_null();
    FileSystem& file_system = directory->file_system();
    bool changing = file_system.names_can_change();
    if (Ref<Dentry> found = cached_child(name)) {
        if (!changing || found->mounts_here.load(std::memory_order_acquire) != 0 ||
            directory->revalidate_child(name, found->inode_or_null()))
            return found;
        found->forget();
    }
    if (name.size() > 255) return Errno(ENAMETOOLONG);
    if (unlinked()) return Errno(ENOENT);
    uint32_t hash = hash_name(name);
    auto inode = directory->lookup(name);
    if (inode.ok()) return add_child(name, hash, inode.take_value(), true);
    if (inode.error() != Errno(ENOENT)) return inode.error();
    return add_child(name, hash, nullptr, !changing);
}

Ref<Dentry> Dentry::unseen_child_locked(std::string_view name) {
    if (unlinked() || cached_child(name)) return nullptr;
    return add_child(name, hash_name(name), nullptr, false);
}

Ref<Dentry> Dentry::add_child(std::string_view name, uint32_t hash, Ref<Inode> inode, bool keep) {
    Ref<Dentry> dentry = Ref<Dentry>::adopt(new Dentry(std::move(inode), Ref<Dentry>(this), std::string(name), hash));
    {
        Children& table = children();
        std::lock_guard lock(table.mutex);
        // A dying dentry of the same name may still be listed.
        if (Dentry* dying = table.find(name, hash)) table.remove(*dying);
        table.insert(*dentry);
    }
    if (keep) inode_or_null()->file_system().dentry_cache().keep(*dentry);
    return dentry;
}

Ref<Dentry> Dentry::parent() const {
    std::lock_guard lock(name_mutex_);
    return parent_ ? parent_ : Ref<Dentry>(const_cast<Dentry*>(this));
}

std::string Dentry::name() const {
    std::lock_guard lock(name_mutex_);
    return name_;
}

bool Dentry::is_descendant_of(const Dentry& ancestor) const {
    Ref<Dentry> at(const_cast<Dentry*>(this));
    while (true) {
        if (at.get() == &ancestor) return true;
        Ref<Dentry> above = at->parent();
        if (above == at) return false;
        at = std::move(above);
    }
}

void Dentry::set_inode_locked(Ref<Inode> inode) {
    FileSystem& file_system = inode->file_system();
    inode_.store(inode.release(), std::memory_order_release);
    file_system.dentry_cache().keep(*this);
}

void Dentry::unlinked_locked() {
    unlinked_.store(true, std::memory_order_release);
    Inode* inode = inode_or_null();
    remove_from_parent();
    if (inode == nullptr) return;
    FileSystem& file_system = inode->file_system();
    file_system.dentry_cache().drop(*this);
    if (!file_system.names_can_change()) {
        // The next lookup of the name needs no question to the file system.
        Ref<Dentry> above = parent();
        std::string gone = name();
        if (above.get() != this) above->add_child(gone, hash_name(gone), nullptr, true);
    }
}

void Dentry::forget() {
    Inode* inode = inode_or_null();
    remove_from_parent();
    Ref<Dentry> above = parent();
    if (Inode* directory = above->inode_or_null()) {
        if (inode != nullptr) unlinked_.store(true, std::memory_order_release);
        directory->file_system().dentry_cache().drop(*this);
    }
}

void Dentry::insert_into(Dentry& parent) {
    Children& table = parent.children();
    std::lock_guard lock(table.mutex);
    if (Dentry* stale = table.find(name_, hash_)) table.remove(*stale);
    table.insert(*this);
}

void Dentry::renamed_locked(Ref<Dentry> new_parent, std::string new_name) {
    Ref<Dentry> old_parent = parent();
    std::string old_name = name();
    remove_from_parent();
    {
        std::lock_guard lock(name_mutex_);
        hash_ = hash_name(new_name);
        name_ = std::move(new_name);
        parent_ = new_parent;
    }
    insert_into(*new_parent);
    FileSystem& file_system = inode_or_null()->file_system();
    if (!file_system.names_can_change() && old_parent.get() != this)
        old_parent->add_child(old_name, hash_name(old_name), nullptr, true);
}

void Dentry::exchanged_locked(Dentry& other) {
    Ref<Dentry> my_parent = parent(), other_parent = other.parent();
    std::string my_name = name(), other_name = other.name();
    remove_from_parent();
    other.remove_from_parent();
    auto place = [](Dentry& dentry, Ref<Dentry> at, std::string as) {
        {
            std::lock_guard lock(dentry.name_mutex_);
            dentry.hash_ = hash_name(as);
            dentry.name_ = std::move(as);
            dentry.parent_ = at;
        }
        dentry.insert_into(*at);
    };
    place(*this, other_parent, std::move(other_name));
    place(other, my_parent, std::move(my_name));
}

DentryCache::~DentryCache() { clear(); }

void DentryCache::unlink(Dentry& dentry) {
    (dentry.newer_ != nullptr ? dentry.newer_->older_ : newest_) = dentry.older_;
    (dentry.older_ != nullptr ? dentry.older_->newer_ : oldest_) = dentry.newer_;
    dentry.newer_ = dentry.older_ = nullptr;
    --count_;
}

void DentryCache::keep(Dentry& dentry) {
    if (dentry.kept_.load(std::memory_order_acquire)) return;
    std::vector<Ref<Dentry>> victims;  // dropped outside of the lock
    std::lock_guard lock(mutex_);
    if (dentry.kept_.load(std::memory_order_relaxed) || dentry.unlinked()) return;
    auto push = [this](Dentry& one) {
        one.older_ = newest_;
        one.newer_ = nullptr;
        (newest_ != nullptr ? newest_->newer_ : oldest_) = &one;
        newest_ = &one;
        ++count_;
    };
    dentry.ref();
    dentry.kept_.store(true, std::memory_order_release);
    push(dentry);
    size_t capacity = capacity_.load(std::memory_order_relaxed);
    for (size_t tries = 0; count_ > capacity && tries < 64; ++tries) {
        Dentry& oldest = *oldest_;
        unlink(oldest);
        if (oldest.used_.exchange(false, std::memory_order_relaxed)) {
            push(oldest);
            continue;
        }
        oldest.kept_.store(false, std::memory_order_release);
        victims.push_back(Ref<Dentry>::adopt(&oldest));
    }
    // victims is declared before the lock: it is destroyed after the unlock.
}

void DentryCache::drop(Dentry& dentry) {
    Ref<Dentry> victim;
    std::lock_guard lock(mutex_);
    if (!dentry.kept_.load(std::memory_order_relaxed)) return;
    unlink(dentry);
    dentry.kept_.store(false, std::memory_order_release);
    victim = Ref<Dentry>::adopt(&dentry);
}

void DentryCache::clear() {
    while (true) {
        Ref<Dentry> victim;
        std::lock_guard lock(mutex_);
        if (oldest_ == nullptr) return;
        Dentry& oldest = *oldest_;
        unlink(oldest);
        oldest.kept_.store(false, std::memory_order_release);
        victim = Ref<Dentry>::adopt(&oldest);
    }
}

}  // namespace casemate::sentry
