// The operations that file syscalls are made of: walk a path, then act on what it names, with all checks of Linux
// (search and write permission, sticky bits, read-only mounts, trailing slashes, O_* rules).
//
// docs: ARCHITECTURE.md "Files"; path_walk.cc is the walk, dentry.h the cache, mount.h the tree of mounts.
#pragma once

#include <linux/openat2.h>

#include <string>
#include <string_view>

#include "sentry/kernel/credentials.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"

namespace casemate::sentry {

// How a walk treats its last component and what bounds it.
struct WalkOptions {
    bool follow_last = true;  // resolve a symlink in last place
    bool directory = false;   // ENOTDIR unless a directory
    bool empty_path = false;  // AT_EMPTY_PATH: "" names the start
    bool will_open = false;   // a hint: the caller opens what it finds
    uint64_t resolve = 0;     // RESOLVE_* of openat2
};

// Start of a relative path: `dirfd` (AT_FDCWD or a descriptor). EBADF, ENOTDIR.
SysResult<Path> walk_start(Task& task, int dirfd, std::string_view path);
// Resolves `path` to an existing file. ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EXDEV...
SysResult<Path> walk(Task& task, int dirfd, std::string_view path, const WalkOptions& options = {});
// Resolves all but the last component. `name` is it (views into `path`), `trailing_slash` if slashes follow.
// The last component may be "." or ".." (kind tells) or the path may be the root.
struct ParentWalk {
    Path parent;
    std::string name;
    bool trailing_slash = false;
    enum class Last { kName, kDot, kDotDot, kRoot } last = Last::kName;
};
SysResult<ParentWalk> walk_parent(Task& task, int dirfd, std::string_view path, const WalkOptions& options = {});

// open(2): the whole of it, O_CREAT, O_EXCL, O_TRUNC, O_TMPFILE, O_PATH, O_DIRECTORY, O_NOFOLLOW, FIFOs and devices.
SysResult<Ref<File>> open(Task& task, int dirfd, std::string_view path, int flags, uint32_t mode, uint64_t resolve = 0);
// For the loader and the kernel itself: an opened executable; EACCES unless a regular file with execute permission
// on a mount without noexec.
SysResult<Ref<File>> open_executable(Task& task, int dirfd, std::string_view path, int at_flags);

SysResult<void> make_node(Task& task, int dirfd, std::string_view path, uint32_t mode, uint64_t device);
SysResult<void> make_directory(Task& task, int dirfd, std::string_view path, uint32_t mode);
SysResult<void> make_symlink(Task& task, std::string_view target, int dirfd, std::string_view path);
SysResult<void> make_link(Task& task, int old_dirfd, std::string_view old_path, int new_dirfd,
                          std::string_view new_path, int at_flags);
SysResult<void> remove(Task& task, int dirfd, std::string_view path, bool directory);
SysResult<void> rename(Task& task, int old_dirfd, std::string_view old_path, int new_dirfd, std::string_view new_path,
                       uint32_t flags);
SysResult<void> change_attributes(Task& task, const Path& path, const AttributeChange& change);

// O_TRUNC's and truncate(2)'s part: regular file, write permission.
SysResult<void> truncate_path(Task& task, const Path& path, int64_t size);

constexpr int kMayExec = 1, kMayWrite = 2, kMayRead = 4;
// kMayRead, kMayWrite, kMayExec of `inode` with fsuid, groups and capabilities. EACCES.
SysResult<void> check_permission(const Credentials& credentials, Inode& inode, int mask);
SysResult<void> check_permission(Task& task, Inode& inode, int mask);
SysResult<void> check_writable_mount(const Path& path);
// Owner (fsuid) or CAP_FOWNER.
bool owner_or_capable(Task& task, Inode& inode);
// Opens what `path` names with all checks but the walk's; for magic links and descriptors reopened.
SysResult<Ref<File>> open_path(Task& task, const Path& path, int flags);
// Writing to a file takes its set-user-id bits away (unless CAP_FSETID).
void drop_privileged_bits(Task& task, Inode& inode);

// "/a/b" as seen from the task's root; "(unreachable)" prefix outside of it; " (deleted)" behind an unlinked name.
std::string path_text(Task& task, const Path& path);

}  // namespace casemate::sentry
