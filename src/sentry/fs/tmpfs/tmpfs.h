// tmpfs: files in guest memory: /tmp, /run, /dev/shm, memfd, and the upper layer of overlays.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "sentry/fs/tmpfs/file_data.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/inode.h"

namespace casemate::sentry {

struct TmpfsOptions {
    uint64_t size = 0;    // bytes; 0: no limit of its own
    uint64_t inodes = 0;  // 0: no limit
    uint32_t mode = 01777;
    uint32_t uid = 0, gid = 0;
    // mount(8)'s: size=, nr_blocks=, nr_inodes=, mode=, uid=, gid=; `total` is what percentages are of. EINVAL.
    static SysResult<TmpfsOptions> parse(std::string_view text, uint64_t total);
};

class TmpfsInode;

class TmpfsFileSystem final : public FileSystem {
  public:
    // `store`: where the content lies instead of in `memory`.
    static Ref<TmpfsFileSystem> create(MemoryFile& memory, const TmpfsOptions& options, const char* type = "tmpfs",
                                       std::unique_ptr<MemoryFile> store = nullptr);

    const char* type() const override { return type_; }
    SysResult<Ref<Inode>> root() override;
    SysResult<void> statfs(struct statfs& out) override;
    SysResult<void> reconfigure(std::string_view options) override;

    MemoryFile& memory() const { return memory_; }
    const Ref<SpaceAccount>& space() const { return space_; }
    // EEXIST and names are the caller's business. ENOSPC.
    SysResult<Ref<TmpfsInode>> make(const NewInode& properties);

  private:
    friend class TmpfsInode;
    TmpfsFileSystem(MemoryFile& memory, const TmpfsOptions& options, const char* type,
                    std::unique_ptr<MemoryFile> store);
    void drop_caches() override;

    MemoryFile& memory_;
    const char* const type_;
    const TmpfsOptions options_;
    const Ref<SpaceAccount> space_;
    std::atomic<uint64_t> inodes_{0}, inode_limit_, last_number_{0};
    std::mutex root_mutex_;
    Ref<TmpfsInode> root_;  // guarded by root_mutex_; a cycle that drop_caches() breaks
};

class TmpfsInode : public Inode {
  public:
    TmpfsInode(Ref<TmpfsFileSystem> file_system, const NewInode& properties, uint64_t number);
    ~TmpfsInode() override;

    TmpfsFileSystem& tmpfs() const { return static_cast<TmpfsFileSystem&>(file_system()); }
    uint64_t number() const { return number_; }
    SysResult<void> stat(struct stat& out) override;
    uint32_t mode() override { return mode_.load(std::memory_order_relaxed); }
    uint32_t uid() override { return uid_.load(std::memory_order_relaxed); }
    uint32_t gid() override { return gid_.load(std::memory_order_relaxed); }
    std::optional<timespec> birth_time() override { return born_; }
    SysResult<void> change(const AttributeChange& change) override;
    SysResult<std::string> read_link(Task&) override { return link_text(); }
    SysResult<std::string> link_text() override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    SysResult<std::string> get_xattr(std::string_view name) override;
    SysResult<void> set_xattr(std::string_view name, std::string_view value, int flags) override;
    SysResult<void> remove_xattr(std::string_view name) override;
    SysResult<std::vector<std::string>> list_xattrs() override;

    void touch(bool modified);  // access time, or modification and change time
    void touch_change();
    // Names of it come and go. False: it has none and was never O_TMPFILE's (link: ENOENT).
    bool add_link();
    void remove_link();
    void set_links(uint32_t links);
    void allow_first_link() { linkable_ = true; }

  protected:
    const uint64_t number_;
    const timespec born_;
    const uint64_t device_;
    std::atomic<uint32_t> mode_, uid_, gid_;
    SmallMutex mutex_;
    timespec accessed_, modified_, changed_;                                   // guarded by mutex_
    uint32_t links_ = 1;                                                       // guarded by mutex_
    bool linkable_ = false;                                                    // guarded by mutex_
    std::string link_text_;                                                    // immutable
    std::unique_ptr<std::map<std::string, std::string, std::less<>>> xattrs_;  // guarded by mutex_
};

class TmpfsRegular final : public TmpfsInode {
  public:
    TmpfsRegular(Ref<TmpfsFileSystem> file_system, const NewInode& properties, uint64_t number);
    FileData& data() const { return *data_; }
    SysResult<size_t> read_content(IoBuffer& into, int64_t offset) override { return data_->read(into, offset); }
    SysResult<size_t> write_content(IoBuffer& from, int64_t offset) override {
        return data_->write(from, offset, false);
    }
    SysResult<void> stat(struct stat& out) override;
    SysResult<void> change(const AttributeChange& change) override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;

  private:
    const Ref<FileData> data_;
};

class TmpfsDirectory final : public TmpfsInode {
  public:
    using TmpfsInode::TmpfsInode;
    SysResult<void> stat(struct stat& out) override;
    SysResult<Ref<Inode>> lookup(std::string_view name) override;
    SysResult<std::shared_ptr<const Listing>> listing() override;
    SysResult<Ref<Inode>> create(std::string_view name, const NewInode& properties) override;
    SysResult<void> link(std::string_view name, Inode& target) override;
    SysResult<void> unlink(std::string_view name, Inode& target) override;
    SysResult<void> remove_directory(std::string_view name, Inode& target) override;
    SysResult<void> rename(std::string_view name, Inode& source, Inode& new_parent, std::string_view new_name,
                           Inode* target, uint32_t flags) override;
    SysResult<Ref<Inode>> create_unnamed(const NewInode& properties) override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    bool empty();

    // Entries behind `after` in order of age.
    void list_entries(int64_t after, const EmitEntry& emit);

  private:
    friend class TmpfsFileSystem;
    struct Entry {
        std::string name;
        Ref<TmpfsInode> inode;
    };
    void add_locked(std::string_view name, Ref<TmpfsInode> inode);
    Ref<TmpfsInode> remove_locked(std::string_view name);
    void clear();

    std::mutex names_mutex_;
    std::map<int64_t, Entry> entries_;                       // guarded by names_mutex_; by cookie
    std::unordered_map<std::string_view, int64_t> by_name_;  // guarded by names_mutex_; views into entries_
    int64_t last_cookie_ = 0;                                // guarded by names_mutex_
    uint32_t subdirectories_ = 0;                            // guarded by names_mutex_
};

class TmpfsFile final : public File {
  public:
    TmpfsFile(Path path, int flags, Ref<TmpfsRegular> inode) : File(std::move(path), flags), inode_(std::move(inode)) {}
    SysResult<int64_t> seek(Task& task, int64_t offset, int whence) override;
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    SysResult<int64_t> control(Task& task, int command, uint64_t argument) override;
    SysResult<void> truncate(Task& task, int64_t size) override;
    SysResult<void> allocate(Task& task, int mode, int64_t offset, int64_t size) override;
    SysResult<void> sync(Task&, bool) override { return {}; }
    SysResult<void> prepare_map(Task& task, MapRequest& request) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    const Ref<TmpfsRegular> inode_;
};

// memfd_create(2): an unnamed file with seals. `name` is shown as "/memfd:NAME (deleted)".
SysResult<Ref<File>> create_memfd(Task& task, std::string_view name, bool allow_sealing, bool executable);

}  // namespace casemate::sentry
