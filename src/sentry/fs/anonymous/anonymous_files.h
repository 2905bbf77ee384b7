// Inodes without a name in the tree: pipes, sockets, eventfds, epoll instances, memfds.
#pragma once

#include <atomic>
#include <string>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class Kernel;
struct Credentials;

class AnonymousFiles final : public FileSystem {
  public:
    const char* type() const override { return "anon_inodefs"; }
    SysResult<Ref<Inode>> root() override { return Errno(ENOENT); }
    SysResult<void> statfs(struct statfs& out) override;
    uint64_t next_inode_number() { return next_.fetch_add(1, std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> next_{1};
};

class AnonymousInode : public Inode {
  public:
    // `mode`: type and permission bits; type 0 for what Linux calls an anonymous inode.
    AnonymousInode(Ref<FileSystem> files, uint64_t number, uint32_t mode, const Credentials& owner);

    uint64_t number() const { return number_; }
    SysResult<void> stat(struct stat& out) override;
    uint32_t mode() override { return mode_.load(std::memory_order_relaxed); }
    uint32_t uid() override { return uid_.load(std::memory_order_relaxed); }
    uint32_t gid() override { return gid_.load(std::memory_order_relaxed); }
    SysResult<void> change(const AttributeChange& change) override;
    // Through /proc/self/fd: ENXIO, as Linux answers for all but pipes (which fs/pipe opens again).
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;

  private:
    const uint64_t number_;
    std::atomic<uint32_t> mode_, uid_, gid_;
    SmallMutex mutex_;
    timespec accessed_, modified_, changed_;  // guarded by mutex_
};

// A place for a File of this kind: `label` is "[eventfd]" for "anon_inode:[eventfd]"; for pipes and sockets the name is
// made of the inode number ("pipe:[7]") when `label` is "pipe" or "socket".
Path anonymous_place(Kernel& kernel, const Credentials& owner, uint32_t mode, const char* label);

}  // namespace casemate::sentry
