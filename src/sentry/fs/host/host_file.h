// Open files of the host: content straight through the donated descriptor.
#pragma once

#include "sentry/fs/host/host_fs.h"
#include "sentry/vfs/directory_file.h"

namespace casemate::sentry {

class HostFile final : public File {
  public:
    HostFile(Path path, int flags, Ref<HostInode> inode, Ref<HostFd> fd);
    ~HostFile() override;

    SysResult<int64_t> seek(Task& task, int64_t offset, int whence) override;
    SysResult<int64_t> ioctl(Task& task, uint64_t command, uint64_t argument) override;
    SysResult<void> truncate(Task& task, int64_t size) override;
    SysResult<void> allocate(Task& task, int mode, int64_t offset, int64_t size) override;
    SysResult<void> sync(Task& task, bool data_only) override;
    bool syncs_at_once() override { return inode_->host().syncs_at_once(); }
    SysResult<void> prepare_map(Task& task, MapRequest& request) override;
    int host_descriptor() override;
    void descriptor_closed(Task& task) override;

  protected:
    SysResult<size_t> read_at(Task& task, IoBuffer& into, int64_t offset) override;
    SysResult<size_t> write_at(Task& task, IoBuffer& from, int64_t& offset, bool append) override;

  private:
    SysResult<int64_t> seek_anywhere(int64_t offset, int whence);

    const Ref<HostInode> inode_;
    const Ref<HostFd> fd_;
};

class HostDirectory final : public DirectoryFile {
  public:
    HostDirectory(Path path, int flags, Ref<HostInode> inode)
        : DirectoryFile(std::move(path), flags), inode_(std::move(inode)) {}

    SysResult<void> sync(Task& task, bool data_only) override;
    bool syncs_at_once() override { return inode_->host().syncs_at_once(); }

  protected:
    SysResult<void> list(Task& task, int64_t after, const EmitEntry& emit) override;
    void rewound() override { listing_.reset(); }

  private:
    const Ref<HostInode> inode_;
    std::shared_ptr<const Listing> listing_;  // as it was when reading began
};

}  // namespace casemate::sentry
