#include "fileserver/host_calls.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace casemate::fileserver {

SysResult<UniqueFd> open_beneath(int directory, const std::string& path, int flags) {
    open_how how{};
    how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    // O_PATH|O_NOFOLLOW of a link in last place is what we want; RESOLVE_NO_SYMLINKS allows exactly that.
    for (int tries = 0; tries < 32; ++tries) {
        long fd = ::syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how));
        if (fd >= 0) return UniqueFd(static_cast<int>(fd));
        if (errno != EAGAIN) return last_errno();
    }
    return Errno(EAGAIN);
}

namespace {

SysResult<Attributes> call_statx(int fd, const char* name, int flags) {
    struct statx info;
    if (::statx(fd, name, flags | AT_SYMLINK_NOFOLLOW | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME,
                &info) != 0)
        return last_errno();
    Attributes a;
    a.inode = info.stx_ino;
    a.device = makedev(info.stx_dev_major, info.stx_dev_minor);
    a.size = info.stx_size;
    a.blocks = info.stx_blocks;
    a.special_device = makedev(info.stx_rdev_major, info.stx_rdev_minor);
    a.access_time = info.stx_atime.tv_sec;
    a.access_nsec = info.stx_atime.tv_nsec;
    a.modification_time = info.stx_mtime.tv_sec;
    a.modification_nsec = info.stx_mtime.tv_nsec;
    a.change_time = info.stx_ctime.tv_sec;
    a.change_nsec = info.stx_ctime.tv_nsec;
    if (info.stx_mask & STATX_BTIME) {
        a.birth_time = info.stx_btime.tv_sec;
        a.birth_nsec = info.stx_btime.tv_nsec;
    }
    a.mode = info.stx_mode;
    a.links = info.stx_nlink;
    a.uid = info.stx_uid;
    a.gid = info.stx_gid;
    a.block_size = info.stx_blksize;
    return a;
}

}  // namespace

SysResult<Attributes> read_attributes(int fd) { return call_statx(fd, "", AT_EMPTY_PATH); }
SysResult<Attributes> read_attributes_at(int directory, const char* name) { return call_statx(directory, name, 0); }

SysResult<std::string> read_link_fd(int fd) {
    char text[kMaxPathBytes];
    ssize_t n = ::readlinkat(fd, "", text, sizeof(text));
    if (n < 0) return last_errno();
    return std::string(text, static_cast<size_t>(n));
}

}  // namespace casemate::fileserver
