#include "sentry/fs/host_stream_inode.h"

#include <sys/stat.h>

#include <mutex>

#include "sentry/kernel/kernel.h"

namespace casemate::sentry {

void HostStreamInode::bind(File& stream) {
    std::lock_guard lock(file_observers_mutex());
    stream_ = &stream;
    stream.add_observer(*this);
}

SysResult<Ref<File>> HostStreamInode::open(Task&, const Path&, int) {
    std::lock_guard lock(file_observers_mutex());
    if (stream_ == nullptr || !stream_->try_ref()) return Errno(ENXIO);
    return Ref<File>::adopt(stream_);
}

StreamPlace host_stream_place(Kernel& kernel, const Credentials& owner, std::string name) {
    auto& files = static_cast<AnonymousFiles&>(kernel.anonymous_files());
    auto inode = make_ref<HostStreamInode>(Ref<FileSystem>(&files), files.next_inode_number(), 0600u, owner);
    Path path(nullptr, Dentry::create_disconnected(Ref<Inode>(inode), std::move(name)));
    return {std::move(inode), std::move(path)};
}

}  // namespace casemate::sentry
