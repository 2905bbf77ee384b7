// File systems whose files the sentry makes up: proc, sysfs, devpts, the cgroup view.
//
// A SyntheticDirectory lists and looks up names by code or from a fixed table; a TextFile's contents are made when it
// is opened (proc files that a program reads twice through one descriptor show the moment of the first read, as
// seq_file does after a rewind: reading from 0 makes them anew).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sentry/vfs/inode.h"

namespace casemate::sentry {

class SyntheticInode : public Inode {
  public:
    SyntheticInode(Ref<FileSystem> file_system, uint32_t mode, uint32_t uid = 0, uint32_t gid = 0);

    SysResult<void> stat(struct stat& out) override;
    uint32_t mode() override { return mode_.load(std::memory_order_relaxed); }
    uint32_t uid() override { return uid_.load(std::memory_order_relaxed); }
    uint32_t gid() override { return gid_.load(std::memory_order_relaxed); }
    uint64_t number() const { return number_; }

  protected:
    void set_owner(uint32_t uid, uint32_t gid) {
        uid_.store(uid, std::memory_order_relaxed);
        gid_.store(gid, std::memory_order_relaxed);
    }
    void set_mode(uint32_t permissions) {
        mode_.store((mode() & S_IFMT) | (permissions & 07777), std::memory_order_relaxed);
    }

  private:
    const uint64_t number_;
    std::atomic<uint32_t> mode_, uid_, gid_;
    const timespec made_;
};

class SyntheticDirectory : public SyntheticInode {
  public:
    explicit SyntheticDirectory(Ref<FileSystem> file_system, uint32_t mode = 0555, uint32_t uid = 0, uint32_t gid = 0)
        : SyntheticInode(std::move(file_system), S_IFDIR | mode, uid, gid) {}
    // Fixed entries, before the directory is published.
    void add(std::string name, Ref<Inode> inode) { fixed_.emplace(std::move(name), std::move(inode)); }

    SysResult<Ref<Inode>> lookup(std::string_view name) override;
    // A fixed entry stays what it is; a directory with more names decides about those.
    bool revalidate_child(std::string_view name, Inode* child) override;
    SysResult<std::shared_ptr<const Listing>> listing() override;
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;

  protected:
    // More names than the fixed ones. `task`: who lists (null when a union does).
    virtual void list(Task* task, std::vector<Listing::Entry>& into);

  private:
    friend class SyntheticDirectoryFile;
    void list_all(Task* task, std::vector<Listing::Entry>& into);
    std::map<std::string, Ref<Inode>, std::less<>> fixed_;
};

class SyntheticLink final : public SyntheticInode {
  public:
    using Target = std::function<SysResult<std::string>(Task&)>;
    SyntheticLink(Ref<FileSystem> file_system, Target target)
        : SyntheticInode(std::move(file_system), S_IFLNK | 0777), target_(std::move(target)) {}
    SysResult<std::string> read_link(Task& task) override { return target_(task); }
    SysResult<Ref<File>> open(Task&, const Path&, int) override { return Errno(ELOOP); }

  private:
    Target target_;
};

class TextFile : public SyntheticInode {
  public:
    using Make = std::function<SysResult<std::string>(Task&)>;
    using Take = std::function<SysResult<void>(Task&, std::string_view)>;
    // `make`: the contents for the reading task. `take`: what a write does with its whole text; null: EACCES at open.
    TextFile(Ref<FileSystem> file_system, uint32_t mode, Make make, Take take = nullptr)
        : SyntheticInode(std::move(file_system), S_IFREG | mode), make_(std::move(make)), take_(std::move(take)) {}
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;
    // proc files may be opened with O_TRUNC: nothing happens.
    SysResult<void> change(const AttributeChange& change) override;

  private:
    friend class TextFileHandle;
    Make make_;
    Take take_;
};

// A file system made of one root directory.
class SyntheticFileSystem : public FileSystem {
  public:
    SyntheticFileSystem(const char* type, long magic) : type_(type), magic_(magic) {}
    const char* type() const override { return type_; }
    SysResult<Ref<Inode>> root() override { return root_; }
    SysResult<void> statfs(struct statfs& out) override;
    // Once, before it is mounted. Root and file system hold each other: one made lives as long as the pod.
    void set_root(Ref<Inode> root) { root_ = std::move(root); }

  protected:
    const char* const type_;
    const long magic_;
    Ref<Inode> root_;
};

}  // namespace casemate::sentry
