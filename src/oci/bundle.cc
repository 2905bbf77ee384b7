#include "oci/bundle.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "oci/config_parser.h"
#include "oci/json_node.h"

namespace casemate::oci {
namespace {

SysResult<UniqueFd> open_beneath(int directory, const std::string& path, uint64_t flags) {
    open_how how{};
    how.flags = flags | O_CLOEXEC;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
    // EAGAIN: a rename raced with the walk (openat2(2)).
    for (int tries = 0; tries < 100; tries++) {
        long fd = syscall(SYS_openat2, directory, path.c_str(), &how, sizeof how);
        if (fd >= 0) return UniqueFd(static_cast<int>(fd));
        if (errno != EAGAIN && errno != EINTR) break;
    }
    return last_errno();
}

// The path that the kernel knows a descriptor by.
Result<std::string> path_of(int fd) {
    char buffer[PATH_MAX];
    ssize_t size = readlink(fmt::format("/proc/self/fd/{}", fd).c_str(), buffer, sizeof buffer);
    if (size < 0) return sys_error("find the path of an open directory");
    return std::string(buffer, static_cast<size_t>(size));
}

Result<UniqueFd> open_rootfs(int bundle_fd, const std::string& root_path) {
    std::string field = fmt::format("config.json: root.path: \"{}\"", root_path);
    UniqueFd fd;
    if (root_path.starts_with('/')) {
        fd = UniqueFd(open(root_path.c_str(), O_PATH | O_CLOEXEC));
        if (!fd) return sys_error(field);
    } else {
        auto inside = open_beneath(bundle_fd, root_path, O_PATH);
        if (!inside.ok() && inside.error().value == EXDEV)
            return Error(field + " leads out of the bundle, must stay in it or be absolute", EXDEV);
        if (!inside.ok()) return sys_error(field, inside.error().value);
        fd = inside.take_value();
    }
    struct stat status {};
    if (fstat(fd.get(), &status) != 0) return sys_error(field);
    if (!S_ISDIR(status.st_mode)) return Error(field + " is not a directory", ENOTDIR);
    return fd;
}

}  // namespace

Result<std::string> read_regular_file(int fd, size_t most, const std::string& what) {
    struct stat status {};
    if (fstat(fd, &status) != 0) return sys_error(what);
    if (!S_ISREG(status.st_mode)) return Error(what + " is not a regular file", EINVAL);
    auto too_large = [&] { return Error(fmt::format("{} is longer than {} bytes", what, most), EFBIG); };
    if (status.st_size > 0 && static_cast<size_t>(status.st_size) > most) return too_large();
    std::string text;
    char buffer[16384];
    for (;;) {
        ssize_t size = ::read(fd, buffer, sizeof buffer);
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) return sys_error("read " + what);
        if (size == 0) return text;
        if (text.size() + static_cast<size_t>(size) > most) return too_large();
        text.append(buffer, static_cast<size_t>(size));
    }
}

Result<std::string> read_config(int bundle_fd) {
    // O_NONBLOCK: a FIFO of that name must not stop us.
    auto fd = open_beneath(bundle_fd, "config.json", O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd.ok() && fd.error().value == EXDEV)
        return Error("config.json is a link that leads out of the bundle", EXDEV);
    if (!fd.ok()) return sys_error("open the bundle's config.json", fd.error().value);
    return read_regular_file(fd->get(), kMaxJsonSize, "config.json");
}

Result<Spec> load_config(int bundle_fd) {
    std::string text = TRY(read_config(bundle_fd));
    return parse_config(text);
}

Result<UniqueFd> open_in_bundle(int bundle_fd, const std::string& path) {
    if (path.starts_with('/')) {
        UniqueFd fd(open(path.c_str(), O_PATH | O_CLOEXEC));
        if (!fd) return sys_error("open " + path);
        return fd;
    }
    auto fd = open_beneath(bundle_fd, path, O_PATH);
    if (!fd.ok() && fd.error().value == EXDEV)
        return Error(fmt::format("\"{}\" leads out of the bundle, must stay in it or be absolute", path), EXDEV);
    if (!fd.ok()) return sys_error(fmt::format("open \"{}\" in the bundle", path), fd.error().value);
    return fd.take_value();
}

Result<Bundle> open_bundle(const std::string& path) {
    Bundle bundle;
    bundle.directory = UniqueFd(open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!bundle.directory) return sys_error(fmt::format("open the bundle \"{}\"", path));
    bundle.path = TRY(path_of(bundle.directory.get()));
    auto text = read_config(bundle.directory.get());
    if (!text.ok()) return text.take_error().with_context(fmt::format("bundle {}", bundle.path));
    bundle.config = text.take_value();
    auto spec = parse_config(bundle.config);
    if (!spec.ok()) return spec.take_error().with_context(fmt::format("bundle {}", bundle.path));
    bundle.spec = spec.take_value();
    auto rootfs = open_rootfs(bundle.directory.get(), bundle.spec.root.path);
    if (!rootfs.ok()) return rootfs.take_error().with_context(fmt::format("bundle {}", bundle.path));
    bundle.rootfs = rootfs.take_value();
    bundle.rootfs_path = TRY(path_of(bundle.rootfs.get()));
    return bundle;
}

}  // namespace casemate::oci
