#include "linux/path.h"

#include <dirent.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace casemate::linux {

SysResult<UniqueFd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode) {
    int fd;
    do {
        fd = ::openat(dir_fd, path.c_str(), flags | O_CLOEXEC, mode);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

SysResult<UniqueFd> open(const std::string& path, int flags, mode_t mode) {
    return open_at(AT_FDCWD, path, flags, mode);
}

SysResult<UniqueFd> openat2(int dir_fd, const std::string& path, uint64_t flags, uint64_t resolve, mode_t mode) {
    struct open_how how = {};
    how.flags = flags | O_CLOEXEC;
    how.mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? mode : 0;
    how.resolve = resolve;
    // EAGAIN: a rename raced with ".." under RESOLVE_IN_ROOT or RESOLVE_BENEATH; the kernel asks to try again.
    for (int attempt = 0; attempt < 100; attempt++) {
        long fd = ::syscall(SYS_openat2, dir_fd, path.c_str(), &how, sizeof how);
        if (fd >= 0) return UniqueFd(static_cast<int>(fd));
        if (errno != EINTR && errno != EAGAIN) return last_errno();
    }
    return Errno(EAGAIN);
}

SysResult<UniqueFd> open_in_root(int root_fd, const std::string& path, uint64_t flags, mode_t mode) {
    return openat2(root_fd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode);
}

SysResult<void> mkdir_p(std::string_view path, mode_t mode) { return mkdir_p_at(AT_FDCWD, path, mode); }

SysResult<void> mkdir_p_at(int dir_fd, std::string_view path, mode_t mode) {
    std::string text(path);
    while (text.size() > 1 && text.back() == '/') text.pop_back();
    if (text.empty()) return Errno(ENOENT);
    // The common case first: the parent is there.
    if (::mkdirat(dir_fd, text.c_str(), mode) == 0) return {};
    if (errno == ENOENT) {
        size_t slash = text.rfind('/');
        if (slash == std::string::npos || slash == 0) return last_errno();
        TRY(mkdir_p_at(dir_fd, std::string_view(text).substr(0, slash), mode));
        if (::mkdirat(dir_fd, text.c_str(), mode) == 0) return {};
    }
    if (errno != EEXIST) return last_errno();
    struct stat st;
    if (::fstatat(dir_fd, text.c_str(), &st, 0) < 0) return last_errno();
    if (!S_ISDIR(st.st_mode)) return Errno(ENOTDIR);
    return {};
}

SysResult<UniqueFd> mkdir_p_in_root(int root_fd, std::string_view path, mode_t mode) {
    constexpr uint64_t kFlags = O_PATH | O_DIRECTORY;
    std::string done = "/";
    UniqueFd at = TRY(open_in_root(root_fd, done, kFlags));
    size_t position = 0;
    while (position < path.size()) {
        size_t end = std::min(path.find('/', position), path.size());
        std::string name(path.substr(position, end - position));
        position = end + 1;
        if (name.empty() || name == ".") continue;
        done += name + "/";
        auto next = open_in_root(root_fd, done, kFlags);
        if (!next.ok() && next.error().value == ENOENT && name != "..") {
            // A dangling link stays ENOENT: mkdirat answers EEXIST and the second open fails again.
            if (::mkdirat(at.get(), name.c_str(), mode) < 0 && errno != EEXIST) return last_errno();
            next = open_in_root(root_fd, done, kFlags);
        }
        at = TRY(std::move(next));
    }
    return at;
}

namespace {

SysResult<void> empty_directory(UniqueFd dir_fd, int depth) {
    if (depth > 512) return Errno(ELOOP);
    DIR* dir = ::fdopendir(dir_fd.get());
    if (dir == nullptr) return last_errno();
    int fd = dir_fd.release();
    int failure = 0;
    while (dirent* entry = ::readdir(dir)) {
        std::string_view name = entry->d_name;
        if (name == "." || name == "..") continue;
        if (::unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT) continue;
        if (errno != EISDIR && errno != EPERM && errno != ENOTEMPTY) {
            failure = errno;
            continue;
        }
        // NO_XDEV: what a forgotten bind mount shows is not ours to remove (EXDEV).
        auto child =
            openat2(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
        if (!child.ok()) {
            failure = child.error().value;
            continue;
        }
        auto emptied = empty_directory(child.take_value(), depth + 1);
        if (!emptied.ok())
            failure = emptied.error().value;
        else if (::unlinkat(fd, entry->d_name, AT_REMOVEDIR) < 0 && errno != ENOENT)
            failure = errno;
    }
    ::closedir(dir);
    if (failure != 0) return Errno(failure);
    return {};
}

}  // namespace

SysResult<void> remove_tree(const std::string& path) {
    if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
    if (errno != EISDIR && errno != EPERM) return last_errno();
    auto dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!dir.ok()) return dir.take_error();
    TRY(empty_directory(dir.take_value(), 0));
    if (::rmdir(path.c_str()) < 0 && errno != ENOENT) return last_errno();
    return {};
}

SysResult<std::string> read_link(const std::string& path) {
    std::string text(PATH_MAX, 0);
    ssize_t size = ::readlink(path.c_str(), text.data(), text.size());
    if (size < 0) return last_errno();
    text.resize(static_cast<size_t>(size));
    return text;
}

bool path_exists(const std::string& path) { return ::faccessat(AT_FDCWD, path.c_str(), F_OK, 0) == 0; }

}  // namespace casemate::linux
