// The inode behind a standard stream of the host, so that /dev/stdin and /proc/PID/fd/N lead back to it. Opening it
// gives the same open file again: the host's descriptor cannot be opened anew from inside.
#pragma once

#include "sentry/fs/anonymous/anonymous_files.h"
#include "sentry/vfs/file_observer.h"

namespace casemate::sentry {

class HostStreamInode final : public AnonymousInode, private FileObserver {
  public:
    using AnonymousInode::AnonymousInode;
    // Once, when the stream exists.
    void bind(File& stream);
    SysResult<Ref<File>> open(Task& task, const Path& path, int flags) override;

  private:
    void file_gone() override { stream_ = nullptr; }
    File* stream_ = nullptr;  // guarded by file_observers_mutex()
};

// A place for a stream that is about to be made: its inode is bound to it afterwards.
struct StreamPlace {
    Ref<HostStreamInode> inode;
    Path path;
};
StreamPlace host_stream_place(Kernel& kernel, const Credentials& owner, std::string name);

}  // namespace casemate::sentry
