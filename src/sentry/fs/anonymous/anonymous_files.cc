#include "sentry/fs/anonymous/anonymous_files.h"

#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <time.h>

#include <mutex>
#include <string_view>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/kernel.h"

namespace casemate::sentry {
namespace {

timespec now() {
    timespec time{};
    clock_gettime(CLOCK_REALTIME, &time);
    return time;
}

}  // namespace

SysResult<void> AnonymousFiles::statfs(struct statfs& out) {
    out = {};
    out.f_type = ANON_INODE_FS_MAGIC;
    out.f_bsize = 4096;
    out.f_namelen = 255;
    return {};
}

AnonymousInode::AnonymousInode(Ref<FileSystem> files, uint64_t number, uint32_t mode, const Credentials& owner)
    : Inode(std::move(files)), number_(number), mode_(mode), uid_(owner.fsuid), gid_(owner.fsgid) {
    accessed_ = modified_ = changed_ = now();
}

SysResult<void> AnonymousInode::stat(struct stat& out) {
    out = {};
    out.st_dev = file_system().device();
    out.st_ino = number_;
    out.st_mode = mode();
    out.st_nlink = 1;
    out.st_uid = uid();
    out.st_gid = gid();
    out.st_blksize = 4096;
    std::lock_guard lock(mutex_);
    out.st_atim = accessed_;
    out.st_mtim = modified_;
    out.st_ctim = changed_;
    return {};
}

SysResult<void> AnonymousInode::change(const AttributeChange& change) {
    if (change.size) return Errno(EINVAL);
    if (change.mode) mode_.store((mode() & S_IFMT) | (*change.mode & 07777), std::memory_order_relaxed);
    if (change.uid) uid_.store(*change.uid, std::memory_order_relaxed);
    if (change.gid) gid_.store(*change.gid, std::memory_order_relaxed);
    auto resolve = [](const timespec& time) { return time.tv_nsec == UTIME_NOW ? now() : time; };
    std::lock_guard lock(mutex_);
    if (change.access_time) accessed_ = resolve(*change.access_time);
    if (change.modification_time) modified_ = resolve(*change.modification_time);
    changed_ = now();
    return {};
}

SysResult<Ref<File>> AnonymousInode::open(Task&, const Path&, int) { return Errno(ENXIO); }

Path anonymous_place(Kernel& kernel, const Credentials& owner, uint32_t mode, const char* label) {
    auto& files = static_cast<AnonymousFiles&>(kernel.anonymous_files());
    uint64_t number = files.next_inode_number();
    auto inode = make_ref<AnonymousInode>(Ref<FileSystem>(&files), number, mode, owner);
    std::string_view text = label;
    std::string name = text.starts_with("anon_inode:") ? std::string(text)
                       : text.starts_with("[")         ? fmt::format("anon_inode:{}", text)
                                                       : fmt::format("{}:[{}]", text, number);
    return Path(nullptr, Dentry::create_disconnected(Ref<Inode>(std::move(inode)), std::move(name)));
}

}  // namespace casemate::sentry
