// overlay: a writable layer over read-only ones, as Linux's overlayfs: copy-up, whiteouts, opaque directories.
//
// It works on inodes of other file systems, usually tmpfs over a host tree: `casemate do` shows the host's root so. A
// directory that no writer touched costs nothing over the lower one: its cached listing is handed on as it is.
// Whiteouts are character devices 0:0, opaque directories have the attribute user.overlay.opaque. A directory that
// exists below cannot be renamed (EXDEV, as overlayfs without redirect_dir answers; mv copies then).
//
// Locks: the vfs holds the directory mutexes over changes of names; OverlayInode::copy_mutex_ (parents before children)
// over copy-up; OverlayFileSystem::mutex_ guards places and tables and is held over no file operation.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

class OverlayInode;

class OverlayFileSystem final : public FileSystem {
  public:
    // Roots of the layers: `upper` may be null (read-only); `lowers` from the top down, at least one. The layers stay
    // in use as if mounted.
    static SysResult<Ref<OverlayFileSystem>> create(Ref<Inode> upper, std::vector<Ref<Inode>> lowers);

    const char* type() const override { return "overlay"; }
    SysResult<Ref<Inode>> root() override;
    SysResult<void> statfs(struct statfs& out) override;
    SysResult<void> sync() override;

  private:
    friend class OverlayInode;
    OverlayFileSystem(Ref<Inode> upper, std::vector<Ref<Inode>> lowers);
    ~OverlayFileSystem() override;
    void drop_caches() override;

    // The overlay's inode for a name: one object for all names of a file.
    SysResult<Ref<OverlayInode>> intern(Ref<Inode> upper, std::vector<Ref<Inode>> lowers, OverlayInode* parent,
                                        std::string_view name);
    void upper_gone(Inode* upper);

    const Ref<Inode> upper_root_;
    const std::vector<Ref<Inode>> lower_roots_;
    std::mutex mutex_;
    std::unordered_map<const Inode*, OverlayInode*> inodes_;  // guarded by mutex_; by layer inode, not owned
    // Numbers that files had before they were copied up, and the inodes that must outlive their dentries: sockets and
    // FIFOs made here, files with several names below of which one was copied up.
    struct Kept {
        Ref<Inode> upper;
        uint64_t number = 0;
    };
    std::unordered_map<const Inode*, Kept> numbers_;              // guarded by mutex_
    std::unordered_map<const Inode*, Ref<OverlayInode>> pinned_;  // guarded by mutex_
};

class OverlayInode final : public Inode {
  public:
    SysResult<void> stat(struct stat& out) override;
    uint32_t mode() override { return real().mode(); }
    uint32_t uid() override { return real().uid(); }
    uint32_t gid() override { return real().gid(); }
    std::optional<timespec> birth_time() override { return real().birth_time(); }
    SysResult<void> change(const AttributeChange& change) override;
    SysResult<Ref<Inode>> lookup(std::string_view name) override;
    void prefetch(std::string_view rest, bool open) override;
    SysResult<std::shared_ptr<const Listing>> listing() override;
    SysResult<Ref<Inode>> create(std::string_view name, const NewInode& properties) override;
    SysResult<void> link(std::string_view name, Inode& target) override;
    SysResult<void> unlink(std::string_view name, Inode& target) override;
    SysResult<void> remove_directory(std::string_view name, Inode& target) override;
    SysResult<void> rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                           Inode* target, uint32_t flags) override;
    SysResult<Ref<Inode>> create_unnamed(const NewInode& properties) override;
    SysResult<std::string> read_link(Task& task) override { return real().read_link(task); }
    SysResult<std::string> link_text() override { return real().link_text(); }
    SysResult<size_t> read_content(IoBuffer& into, int64_t offset) override {
        return real().read_content(into, offset);
    }
    SysResult<size_t> write_content(IoBuffer& from, int64_t offset) override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    SysResult<std::string> get_xattr(std::string_view name) override;
    SysResult<void> set_xattr(std::string_view name, std::string_view value, int flags) override;
    SysResult<void> remove_xattr(std::string_view name) override;
    SysResult<std::vector<std::string>> list_xattrs() override;
    SysResult<void> sync_names(Task& task);  // fsync of a directory: what the upper one holds of it

  private:
    friend class OverlayFileSystem;
    OverlayInode(Ref<OverlayFileSystem> file_system, Ref<Inode> upper, std::vector<Ref<Inode>> lowers, uint64_t number);
    ~OverlayInode() override;
    void last_ref_dropped() override;

    OverlayFileSystem& overlay() const { return static_cast<OverlayFileSystem&>(file_system()); }
    // The layer's inode that shows: the upper one once there is one. Both live as long as this.
    Inode& real() const {
        Inode* upper = upper_.load(std::memory_order_acquire);
        return upper != nullptr ? *upper : *lowers_.front();
    }
    Inode* upper() const { return upper_.load(std::memory_order_acquire); }
    // Makes sure there is an upper inode. `with_content` false: the caller truncates at once. EROFS without an upper.
    SysResult<void> copy_up(bool with_content = true);
    SysResult<void> copy_content(Inode& from, Inode& to);
    SysResult<void> copy_attributes(Inode& from, Inode& to);
    // Of a directory: what the layers below have under `name` (whiteouts end it).
    SysResult<std::vector<Ref<Inode>>> look_below(std::string_view name);
    // The upper directory's whiteout of `name`, if any, goes away; true if there was one.
    SysResult<bool> remove_whiteout(std::string_view name);
    SysResult<void> put_whiteout(std::string_view name);
    SysResult<void> make_opaque(Inode& directory);
    SysResult<void> clear_whiteouts();
    SysResult<bool> empty();
    void moved(OverlayInode* parent, std::string_view name);
    void gone();

    const std::vector<Ref<Inode>> lowers_;  // files: one or none; directories: from the top down
    const uint64_t number_;
    std::atomic<Inode*> upper_{nullptr};  // owned reference; set once
    std::mutex copy_mutex_;
    std::atomic<bool> unlinked_{false};

    // Guarded by OverlayFileSystem::mutex_: where it is.
    Ref<OverlayInode> parent_;
    std::string name_;
};

class OverlayDirectory final : public DirectoryFile {
  public:
    OverlayDirectory(Path path, int flags, Ref<OverlayInode> inode)
        : DirectoryFile(std::move(path), flags), inode_(std::move(inode)) {}

    SysResult<void> sync(Task& task, bool) override { return inode_->sync_names(task); }
    bool syncs_at_once() override { return false; }

  protected:
    SysResult<void> list(Task& task, int64_t after, const EmitEntry& emit) override;
    void rewound() override { listing_.reset(); }

  private:
    const Ref<OverlayInode> inode_;
    std::shared_ptr<const Listing> listing_;
};

// mount(2) of type overlay: lowerdir=A:B, upperdir=, workdir= (accepted, not needed).
SysResult<Ref<FileSystem>> mount_overlay(Task& task, std::string_view options);

}  // namespace casemate::sentry
