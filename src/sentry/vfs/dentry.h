// Dentry: a name in a directory and what it names: the cache that makes walks cheap.
//
// A dentry is negative (no inode: the name is known not to exist) or positive; it turns positive at most once and never
// back: a removed name's dentry leaves its parent and a fresh negative one takes the place. Parents list their children
// without owning them; children own their parent. What was looked up lately is kept alive by the DentryCache of its
// file system, of bounded length.
//
// Locks, outer first: FileSystem::rename_mutex(), directory_mutex() of parents, children's lock, DentryCache's lock;
// name_mutex_ is innermost.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class Mount;

class Dentry final : public RefCounted {
  public:
    // The root of a file system.
    static Ref<Dentry> create_root(Ref<Inode> inode);
    // A nameless one (pipes, memfd, O_TMPFILE): shown as `name`.
    static Ref<Dentry> create_disconnected(Ref<Inode> inode, std::string name);
    ~Dentry() override;

    // Looks `name` up in the cache, then in the file system. The answer may be negative. This must be a directory and
    // its directory_mutex() not held by the caller; child_locked is for callers that hold it.
    SysResult<Ref<Dentry>> child(std::string_view name);
    SysResult<Ref<Dentry>> child_locked(std::string_view name);
    // A negative one that nobody looked up (Inode::finds_out_itself), not kept; null if anything is known of the name.
    // Who fails to make it forgets it.
    Ref<Dentry> unseen_child_locked(std::string_view name);
    // The cache only, no revalidation; null: nothing known.
    Ref<Dentry> cached_child(std::string_view name);

    Ref<Inode> inode() const { return Ref<Inode>(inode_or_null()); }  // null: negative
    // Borrowed: lives as long as the dentry.
    Inode* inode_or_null() const { return inode_.load(std::memory_order_acquire); }
    bool negative() const { return inode_or_null() == nullptr; }
    Ref<Dentry> parent() const;  // of a root or a disconnected one: itself
    bool is_root() const { return root_; }
    std::string name() const;
    // Removed from its directory (shown with " (deleted)"), or never in one.
    bool unlinked() const { return unlinked_.load(std::memory_order_acquire); }
    bool is_descendant_of(const Dentry& ancestor) const;  // or the same

    // The lock of a directory: held over create, link, unlink, rename in it (two directories: in address order).
    SmallMutex& directory_mutex() { return directory_mutex_; }
    // Changes of names, with directory_mutex() of the parents held by the caller.
    void set_inode_locked(Ref<Inode> inode);  // negative -> positive
    void unlinked_locked();                   // positive -> gone from its parent
    void renamed_locked(Ref<Dentry> new_parent, std::string new_name);
    void exchanged_locked(Dentry& other);  // RENAME_EXCHANGE
    // Forgets a cached name that turned out stale; users of the dentry keep it.
    void forget();

    // How many mounts sit on this dentry; 0 lets the walk skip the mount table.
    std::atomic<uint32_t> mounts_here{0};

  private:
    friend class DentryCache;
    struct Children;  // hash table of a directory's known names

    Dentry(Ref<Inode> inode, Ref<Dentry> parent, std::string name, uint32_t hash);
    void last_ref_dropped() override;
    Children& children();
    void remove_from_parent();
    void insert_into(Dentry& parent);
    Ref<Dentry> add_child(std::string_view name, uint32_t hash, Ref<Inode> inode, bool keep);

    std::atomic<Inode*> inode_;  // owned reference
    std::atomic<Children*> children_{nullptr};
    mutable SmallMutex name_mutex_;
    SmallMutex directory_mutex_;
    Ref<Dentry> parent_;   // guarded by name_mutex_ (and the directory mutexes for change)
    std::string name_;     // the same
    uint32_t hash_;        // the same
    bool root_ = false;    // immutable
    bool listed_ = false;  // in parent_'s children; guarded by their lock
    std::atomic<bool> unlinked_{false};
    Dentry* next_in_bucket_ = nullptr;  // guarded by the parent's children lock
    // Of DentryCache:
    std::atomic<bool> kept_{false}, used_{false};
    Dentry* newer_ = nullptr;
    Dentry* older_ = nullptr;
};

// Keeps the dentries of one file system that were looked up lately: second chance, bounded.
class DentryCache {
  public:
    explicit DentryCache(size_t capacity) : capacity_(capacity) {}
    ~DentryCache();
    void keep(Dentry& dentry);
    void drop(Dentry& dentry);
    void clear();
    void set_capacity(size_t capacity) { capacity_ = capacity; }

  private:
    void unlink(Dentry& dentry);
    std::mutex mutex_;
    Dentry* newest_ = nullptr;  // guarded by mutex_, as all below
    Dentry* oldest_ = nullptr;
    size_t count_ = 0;
    std::atomic<size_t> capacity_;
};

}  // namespace casemate::sentry
