// Inode and FileSystem: what a file system implements. Everything above (path walk, permission checks, dentry cache,
// mounts, descriptors) is in vfs/ and the same for all.
//
// Operations get the Credentials of the caller only where they decide owner or mode of something new; permission checks
// were made by the caller. Names are single components, never "." or "..", at most 255 bytes, without '/' and NUL.
// Thread-safe; directory operations of one directory are serialised by the vfs (the Dentry's lock).
#pragma once

#include <sys/stat.h>
#include <sys/statfs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

struct Credentials;
class Dentry;
class DentryCache;
class Inode;
class InodeLocks;    // POSIX, OFD, flock locks; vfs/locks.h
class InodeWatches;  // inotify; vfs/events.h

class FileSystem : public RefCounted {
  public:
    virtual const char* type() const = 0;  // as in /proc/mounts
    virtual SysResult<Ref<Inode>> root() = 0;
    virtual SysResult<void> statfs(struct statfs& out) = 0;
    virtual SysResult<void> sync() { return {}; }
    uint64_t device() const { return device_; }  // st_dev; unique in this sentry
    // Whether names may change behind the vfs (proc, shared host trees): each walk then asks Inode::revalidate_child,
    // and negative answers are not kept.
    virtual bool names_can_change() const { return false; }
    // remount: the file system's own options; EINVAL for what it does not know.
    virtual SysResult<void> reconfigure(std::string_view options);

    DentryCache& dentry_cache() { return *dentry_cache_; }
    // Held over a rename between two directories, so that no directory becomes its own ancestor.
    std::mutex& rename_mutex() { return rename_mutex_; }
    // The one dentry of root(): every mount of this file system shares it.
    SysResult<Ref<Dentry>> root_dentry();
    // Mounts come and go; with the last one the cached dentries are dropped.
    void mount_added() { mounts_.fetch_add(1, std::memory_order_relaxed); }
    void mount_removed();

  protected:
    FileSystem();
    ~FileSystem() override;
    // The last mount is gone: whatever keeps inodes (and so this file system) alive is let go.
    virtual void drop_caches() {}

  private:
    uint64_t device_;
    std::unique_ptr<DentryCache> dentry_cache_;
    std::mutex rename_mutex_;
    std::mutex root_mutex_;
    Ref<Dentry> root_dentry_;  // guarded by root_mutex_; dropped with the last mount
    std::atomic<uint32_t> mounts_{0};

  public:
    // Inotify watches on inodes here: while 0, events cost one load.
    std::atomic<uint32_t> watch_count{0};
};

// A directory's names as a file system tells them, without "." and "..".
struct Listing {
    struct Entry {
        std::string name;
        uint64_t inode = 0;
        uint8_t type = 0;  // DT_*
    };
    std::vector<Entry> entries;
};

// What chmod, chown, truncate, utimensat change; absent fields stay.
struct AttributeChange {
    std::optional<uint32_t> mode;  // permission bits
    std::optional<uint32_t> uid, gid;
    std::optional<int64_t> size;
    std::optional<timespec> access_time, modification_time;  // tv_nsec UTIME_NOW allowed
};

struct NewInode {
    uint32_t mode = 0;  // type and permission bits, umask applied
    uint32_t uid = 0, gid = 0;
    uint64_t device = 0;           // of a device node
    std::string_view link_target;  // of a symlink
};

class Inode : public RefCounted {
  public:
    explicit Inode(Ref<FileSystem> file_system);
    ~Inode() override;

    FileSystem& file_system() const { return *file_system_; }
    virtual SysResult<void> stat(struct stat& out) = 0;  // st_dev from file_system().device() unless it says otherwise
    // Type bits (S_IFMT), permission bits, owner: cheap, from memory; the walk asks at each component.
    virtual uint32_t mode() = 0;
    virtual uint32_t uid() = 0;
    virtual uint32_t gid() = 0;
    uint32_t type() { return mode() & S_IFMT; }
    virtual std::optional<timespec> birth_time() { return std::nullopt; }
    virtual SysResult<void> change(const AttributeChange& change);  // EPERM by default

    // Directories. lookup: ENOENT if absent. The caller keeps the results in dentries.
    virtual SysResult<Ref<Inode>> lookup(std::string_view name);
    // Where names can change: whether `name` still names `child` (null: still nothing). False costs a new lookup and a
    // new dentry, so what never changes (most of proc) should answer true.
    virtual bool revalidate_child(std::string_view name, Inode* child);
    // Where names can change: whether making and unlinking find out by themselves what a name names by now (EEXIST,
    // ENOENT, EISDIR), so that looking first would be one more question.
    virtual bool finds_out_itself() { return false; }
    // A hint before lookups: `rest` of the path is about to be walked from here, and its end opened if `open`.
    virtual void prefetch(std::string_view rest, bool open);
    // The whole directory at once, for unions; shared and immutable, so it may come from a cache. ENOTDIR.
    virtual SysResult<std::shared_ptr<const Listing>> listing();
    virtual SysResult<Ref<Inode>> create(std::string_view name, const NewInode& properties);  // any type; EEXIST
    virtual SysResult<void> link(std::string_view name, Inode& target);
    virtual SysResult<void> unlink(std::string_view name, Inode& target);
    virtual SysResult<void> remove_directory(std::string_view name, Inode& target);
    // RENAME_NOREPLACE and RENAME_EXCHANGE in `flags`; `target` is what the new name names now, or null.
    virtual SysResult<void> rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                                   Inode* target, uint32_t flags);
    // O_TMPFILE: an unnamed regular file that link() may name later.
    virtual SysResult<Ref<Inode>> create_unnamed(const NewInode& properties);

    virtual SysResult<std::string> read_link(Task& task);
    // The same for links whose text does not depend on who asks, and the bytes of a regular file, without a task: what
    // a union needs to copy a file up. EOPNOTSUPP by default.
    virtual SysResult<std::string> link_text();
    virtual SysResult<size_t> read_content(IoBuffer& into, int64_t offset);
    virtual SysResult<size_t> write_content(IoBuffer& from, int64_t offset);
    // A link that jumps instead of being parsed (/proc/PID/{exe,cwd,root,fd/N}); nullopt: an ordinary link.
    virtual SysResult<std::optional<Path>> magic_link(Task& task);

    // Opens it: device nodes, FIFOs and sockets are dispatched by the vfs before this is asked.
    virtual SysResult<Ref<File>> open(Task& task, const Path& path, int flags) = 0;

    virtual SysResult<std::string> get_xattr(std::string_view name);
    virtual SysResult<void> set_xattr(std::string_view name, std::string_view value, int flags);
    virtual SysResult<void> remove_xattr(std::string_view name);
    virtual SysResult<std::vector<std::string>> list_xattrs();

    // State that any inode may need, made on first use; null if never used and !create.
    InodeLocks* locks(bool create);
    InodeWatches* watches() const { return watches_.load(std::memory_order_acquire); }
    // Takes `fresh` unless there are watches already; returns those that hold now.
    InodeWatches* install_watches(std::unique_ptr<InodeWatches> fresh);
    // The FIFO or socket bound to this inode (vfs keeps it here): owned, null if none.
    Ref<RefCounted>& attachment() { return attachment_; }
    SmallMutex& attachment_mutex() { return attachment_mutex_; }

  private:
    friend class WriteHold;
    void drop_watches();

    Ref<FileSystem> file_system_;
    SmallMutex attachment_mutex_;
    std::atomic<int32_t> writers_{0};  // below 0: it is executed, so many times
    Ref<RefCounted> attachment_;
    std::atomic<InodeLocks*> locks_{nullptr};
    std::atomic<InodeWatches*> watches_{nullptr};
};

}  // namespace casemate::sentry
