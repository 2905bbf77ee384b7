// tmpfs: regular files, open files, memfd.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/ioctl.h>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/address_space.h"
#include "sentry/vfs/dentry.h"

namespace casemate::sentry {

TmpfsRegular::TmpfsRegular(Ref<TmpfsFileSystem> file_system, const NewInode& properties, uint64_t number)
    : TmpfsInode(file_system, properties, number),
      data_(make_ref<FileData>(file_system->memory(), file_system->space())) {}

SysResult<void> TmpfsRegular::stat(struct stat& out) {
    TRY(TmpfsInode::stat(out));
    out.st_size = static_cast<off_t>(data_->size());
    out.st_blocks = static_cast<blkcnt_t>(data_->bytes_used() / 512);
    return {};
}

SysResult<void> TmpfsRegular::change(const AttributeChange& change) {
    if (change.size) {
        TRY(data_->resize(*change.size));
        touch(true);
    }
    return TmpfsInode::change(change);
}

SysResult<Ref<File>> TmpfsRegular::open(Task&, const Path& path, int flags) {
    return Ref<File>(make_ref<TmpfsFile>(path, flags, Ref<TmpfsRegular>(this)));
}

SysResult<size_t> TmpfsFile::read_at(Task&, IoBuffer& into, int64_t offset) {
    size_t n = TRY(inode_->data().read(into, offset));
    if (!(flags() & O_NOATIME)) inode_->touch(false);
    return n;
}

SysResult<size_t> TmpfsFile::write_at(Task&, IoBuffer& from, int64_t& offset, bool append) {
    size_t n = TRY(inode_->data().write(from, offset, append));
    if (n != 0) inode_->touch(true);
    return n;
}

SysResult<int64_t> TmpfsFile::seek(Task&, int64_t offset, int whence) {
    if (whence == SEEK_DATA || whence == SEEK_HOLE) {
        int64_t found = TRY(whence == SEEK_DATA ? inode_->data().seek_data(offset) : inode_->data().seek_hole(offset));
        std::lock_guard lock(position_mutex_);
        position_ = found;
        return found;
    }
    return seek_within(offset, whence, static_cast<int64_t>(inode_->data().size()));
}

SysResult<int64_t> TmpfsFile::ioctl(Task& task, uint64_t command, uint64_t argument) {
    if (command != FIONREAD) return Errno(ENOTTY);
    int64_t left;
    {
        std::lock_guard lock(position_mutex_);
        left = std::max<int64_t>(static_cast<int64_t>(inode_->data().size()) - position_, 0);
    }
    TRY(task.write(UserPtr<int32_t>(argument), static_cast<int32_t>(std::min<int64_t>(left, INT32_MAX))));
    return int64_t{0};
}

SysResult<int64_t> TmpfsFile::control(Task& task, int command, uint64_t argument) {
    switch (command) {
        case F_GET_SEALS:
            return static_cast<int64_t>(inode_->data().seals());
        case F_ADD_SEALS: {
            constexpr uint32_t kKnown =
                F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | 0x20 /* F_SEAL_EXEC */;
            if (!writable()) return Errno(EPERM);
            if (argument & ~uint64_t{kKnown}) return Errno(EINVAL);
            TRY(inode_->data().add_seals(static_cast<uint32_t>(argument)));
            return int64_t{0};
        }
        default:
            return File::control(task, command, argument);
    }
}

SysResult<void> TmpfsFile::truncate(Task&, int64_t size) {
    TRY(inode_->data().resize(size));
    inode_->touch(true);
    return {};
}

SysResult<void> TmpfsFile::allocate(Task&, int mode, int64_t offset, int64_t size) {
    TRY(inode_->data().allocate(mode, offset, size));
    inode_->touch(true);
    return {};
}

SysResult<void> TmpfsFile::prepare_map(Task&, MapRequest& request) {
    uint32_t seals = inode_->data().seals();
    if (request.shared && writable()) {
        if (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) {
            if (request.protection & PROT_WRITE) return Errno(EPERM);
            request.max_protection &= ~PROT_WRITE;
        } else {
            TRY(inode_->data().map_writable());
        }
    }
    request.object = Ref<Mappable>(&inode_->data());
    return {};
}

SysResult<Ref<File>> create_memfd(Task& task, std::string_view name, bool allow_sealing, bool executable) {
    auto files = TmpfsFileSystem::create(task.kernel().memory(), TmpfsOptions());
    NewInode properties;
    properties.mode = S_IFREG | (executable ? 0777 : 0666);
    properties.uid = task.credentials().fsuid;
    properties.gid = task.credentials().fsgid;
    Ref<TmpfsInode> inode = TRY(files->make(properties));
    inode->set_links(0);
    FileData& data = static_cast<TmpfsRegular&>(*inode).data();
    if (allow_sealing) data.allow_seals();
    if (!executable) TRY(data.add_seals(0x20));
    Ref<Dentry> dentry = Dentry::create_disconnected(inode, "/memfd:" + std::string(name));
    return inode->open(task, Path(nullptr, std::move(dentry)), O_RDWR);
}

}  // namespace casemate::sentry
