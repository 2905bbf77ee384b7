// Mounts and mount namespaces: which file system is seen where.
//
// One lock (in mount.cc) guards the links of all mounts of all namespaces, since propagation crosses namespaces. It is
// taken after directory mutexes and held for table work only; references that it drops are released behind it.
#pragma once

#include <sys/mount.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class FileSystem;
class MountNamespace;
class Task;

class Mount final : public RefCounted {
  public:
    // Flags a mount has by itself (of MS_*); all others belong to the file system or to mount(2).
    static constexpr uint64_t kFlags =
        MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_NOSYMFOLLOW;

    // A mount of the whole file system. Not attached anywhere yet.
    static SysResult<Ref<Mount>> create(Ref<FileSystem> file_system, uint64_t flags, std::string source,
                                        std::string options);
    Mount(Ref<FileSystem> file_system, Ref<Dentry> root, uint64_t flags, std::string source, std::string options);
    ~Mount() override;

    FileSystem& file_system() const { return *file_system_; }
    const Ref<Dentry>& root() const { return root_; }
    uint64_t id() const { return id_; }
    // MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME...: per mount.
    uint64_t flags() const { return flags_.load(std::memory_order_relaxed); }
    void set_flags(uint64_t flags) { flags_.store(flags & kFlags, std::memory_order_relaxed); }
    bool read_only() const { return flags() & MS_RDONLY; }
    const std::string& source() const { return source_; }    // first column of /proc/mounts
    const std::string& options() const { return options_; }  // of the file system, behind the flags

    // The namespace it is attached in; null: detached.
    Ref<MountNamespace> mount_namespace() const;
    // Down: the mount on top of `path`, or itself. Up: the mountpoint below a mount's root; empty at the top.
    static Path follow_down(Path path);
    Path mountpoint() const;

  private:
    friend class MountNamespace;
    friend struct MountLinks;

    Ref<FileSystem> file_system_;
    Ref<Dentry> root_;
    uint64_t id_;
    std::atomic<uint64_t> flags_;
    std::string source_, options_;
    // Guarded by the lock of mounts:
    MountNamespace* namespace_ = nullptr;
    Mount* parent_ = nullptr;
    Ref<Dentry> mountpoint_;
    std::vector<Mount*> children_;
    uint64_t peer_group_ = 0;    // shared with the mounts of this group; 0: not shared
    uint64_t master_group_ = 0;  // slave of this group; 0: not a slave
    bool unbindable_ = false;
};

// The tree of mounts that a set of tasks sees.
class MountNamespace final : public RefCounted {
  public:
    // `root` becomes "/".
    static Ref<MountNamespace> create(Ref<Mount> root);
    ~MountNamespace() override;

    Path root();
    // Puts `mount` on `where` (a directory on a directory, else a file on a file).
    SysResult<void> attach(Ref<Mount> mount, const Path& where);
    SysResult<void> detach(const Path& where, int flags);  // umount2
    SysResult<void> move(const Path& from, const Path& to);
    // A bind mount: the tree at `from` (with the mounts below it when `recursive`) appears at `to`.
    SysResult<void> bind(const Path& from, const Path& to, bool recursive);
    // MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE.
    SysResult<void> set_propagation(const Path& where, uint64_t type, bool recursive);
    // CLONE_NEWNS: a copy of the tree; root and working directory of `follow` are moved over to it.
    SysResult<Ref<MountNamespace>> clone(class FsContext& follow);
    SysResult<void> pivot_root(Task& task, const Path& new_root, const Path& put_old);
    // Changes the flags of the mount at `where` (and below it).
    SysResult<void> set_flags(const Path& where, uint64_t set, uint64_t clear, bool recursive);

    Path follow_down(Path path) { return Mount::follow_down(std::move(path)); }
    Path mountpoint_of(const Mount& mount) { return mount.mountpoint(); }

    struct Entry {
        uint64_t id, parent_id;
        Ref<Mount> mount;
        Path mountpoint;
        uint64_t propagation;  // MS_SHARED, MS_SLAVE (both may be set), MS_UNBINDABLE or MS_PRIVATE
        uint64_t peer_group, master_group;
    };
    std::vector<Entry> snapshot();  // for /proc/mounts and mountinfo, parents first
    uint64_t id() const { return id_; }

  private:
    friend struct MountLinks;
    friend class Mount;
    explicit MountNamespace(Ref<Mount> root);

    uint64_t id_;
    // Guarded by the lock of mounts:
    Mount* root_ = nullptr;
    std::vector<Ref<Mount>> mounts_;
};

// Root, working directory and umask: what CLONE_FS shares.
class FsContext final : public RefCounted {
  public:
    FsContext(Path root, Path working_directory, uint32_t umask);
    ~FsContext() override;
    Ref<FsContext> clone();
    Path root();
    Path working_directory();
    void set_root(Path path);
    void set_working_directory(Path path);
    uint32_t umask() const { return umask_.load(std::memory_order_relaxed); }
    uint32_t set_umask(uint32_t mask) { return umask_.exchange(mask & 0777); }

  private:
    friend struct MountLinks;
    SmallMutex mutex_;
    Path root_, working_directory_;  // guarded by mutex_
    std::atomic<uint32_t> umask_;
    // List of all contexts, for pivot_root; guarded by the lock of mounts.
    FsContext* next_ = nullptr;
    FsContext* previous_ = nullptr;
};

}  // namespace casemate::sentry
