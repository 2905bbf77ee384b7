#include "linux/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>

#include "base/scope_exit.h"
#include "linux/path.h"

namespace casemate::linux {

SysResult<std::string> read_fd(int fd, size_t limit) {
    std::string text;
    size_t filled = 0;
    for (;;) {
        // One byte past the limit tells a file that is too large from one that just fits.
        if (filled == text.size()) text.resize(std::min(limit + 1, std::max<size_t>(4096, filled * 2)));
        ssize_t size = ::read(fd, text.data() + filled, text.size() - filled);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return last_errno();
        if (size == 0) break;
        filled += static_cast<size_t>(size);
        if (filled > limit) return Errno(EFBIG);
    }
    text.resize(filled);
    return text;
}

SysResult<std::string> read_file_at(int dir_fd, const std::string& path, size_t limit) {
    UniqueFd fd = TRY(open_at(dir_fd, path, O_RDONLY | O_NOCTTY));
    return read_fd(fd.get(), limit);
}

SysResult<std::string> read_file(const std::string& path, size_t limit) { return read_file_at(AT_FDCWD, path, limit); }

SysResult<void> write_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t size = ::write(fd, bytes.data(), bytes.size());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return last_errno();
        bytes.remove_prefix(static_cast<size_t>(size));
    }
    return {};
}

SysResult<void> write_existing_at(int dir_fd, const std::string& path, std::string_view bytes) {
    UniqueFd fd = TRY(open_at(dir_fd, path, O_WRONLY));
    for (;;) {
        ssize_t size = ::write(fd.get(), bytes.data(), bytes.size());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return last_errno();
        if (static_cast<size_t>(size) != bytes.size()) return Errno(EIO);
        return {};
    }
}

SysResult<void> write_existing(const std::string& path, std::string_view bytes) {
    return write_existing_at(AT_FDCWD, path, bytes);
}

SysResult<void> write_file_atomic(const std::string& path, std::string_view bytes, mode_t mode, Durability durability) {
    size_t slash = path.rfind('/');
    std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    std::string temporary = directory + (slash == std::string::npos ? "/." : ".") + path.substr(slash + 1) + "." +
                            std::to_string(::gettid());
    // A file of a crashed writer with the same thread id may lie there.
    ::unlink(temporary.c_str());
    UniqueFd fd = TRY(open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode));
    ScopeExit remove([&] { ::unlink(temporary.c_str()); });
    TRY(write_all(fd.get(), bytes));
    if (durability == Durability::kSynced && ::fsync(fd.get()) < 0) return last_errno();
    if (::rename(temporary.c_str(), path.c_str()) < 0) return last_errno();
    remove.dismiss();
    if (durability == Durability::kSynced) {
        UniqueFd dir = TRY(open(directory, O_RDONLY | O_DIRECTORY));
        if (::fsync(dir.get()) < 0) return last_errno();
    }
    return {};
}

SysResult<FileLock> FileLock::acquire(const std::string& path, bool wait, mode_t mode) {
    UniqueFd fd = TRY(open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NOCTTY, mode));
    return acquire(std::move(fd), wait);
}

SysResult<FileLock> FileLock::acquire(UniqueFd fd, bool wait) {
    while (::flock(fd.get(), LOCK_EX | (wait ? 0 : LOCK_NB)) < 0)
        if (errno != EINTR) return last_errno();
    return FileLock(std::move(fd));
}

}  // namespace casemate::linux
