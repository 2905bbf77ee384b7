#include "linux/mount_fd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "linux/path.h"

namespace casemate::linux {

SysResult<UniqueFd> fsopen(const char* type) {
    int fd = ::fsopen(type, FSOPEN_CLOEXEC);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

SysResult<void> fsconfig_string(int fs_fd, const char* key, const char* value) {
    if (::fsconfig(fs_fd, FSCONFIG_SET_STRING, key, value, 0) < 0) return last_errno();
    return {};
}

SysResult<void> fsconfig_flag(int fs_fd, const char* key) {
    if (::fsconfig(fs_fd, FSCONFIG_SET_FLAG, key, nullptr, 0) < 0) return last_errno();
    return {};
}

SysResult<void> fsconfig_create(int fs_fd) {
    if (::fsconfig(fs_fd, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) return last_errno();
    return {};
}

SysResult<UniqueFd> fsmount(int fs_fd, uint64_t attributes) {
    int fd = ::fsmount(fs_fd, FSMOUNT_CLOEXEC, static_cast<unsigned>(attributes));
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

std::string fs_message(int fs_fd) {
    std::string text(512, 0);
    ssize_t size = ::read(fs_fd, text.data(), text.size());
    text.resize(size > 0 ? static_cast<size_t>(size) : 0);
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
}

Result<UniqueFd> create_mount(const std::string& type, const std::vector<std::pair<std::string, std::string>>& options,
                              uint64_t attributes) {
    auto context = fsopen(type.c_str());
    if (!context.ok()) return sys_error("mount of type " + type, context.error().value);
    auto failed = [&](std::string_view what, int code) {
        std::string message = fs_message(context->get());
        Error error = sys_error("mount of type " + type + ", " + std::string(what), code);
        return message.empty() ? error : std::move(error).with_context(message);
    };
    for (const auto& [key, value] : options) {
        auto set = value.empty() ? fsconfig_flag(context->get(), key.c_str())
                                 : fsconfig_string(context->get(), key.c_str(), value.c_str());
        if (!set.ok()) return failed("option " + key + (value.empty() ? "" : "=" + value), set.error().value);
    }
    auto created = fsconfig_create(context->get());
    if (!created.ok()) return failed("creation", created.error().value);
    auto mount = fsmount(context->get(), attributes);
    if (!mount.ok()) return failed("fsmount", mount.error().value);
    return mount.take_value();
}

SysResult<UniqueFd> clone_mount(int dir_fd, const std::string& path, bool recursive) {
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT;
    if (recursive) flags |= AT_RECURSIVE;
    if (path.empty()) flags |= AT_EMPTY_PATH;
    int fd = ::open_tree(dir_fd, path.c_str(), flags);
    if (fd < 0) return last_errno();
    return UniqueFd(fd);
}

SysResult<void> set_mount_attributes(int mount_fd, const std::string& path, bool recursive, uint64_t set,
                                     uint64_t clear, uint64_t propagation, int id_map_user_ns_fd) {
    struct mount_attr attributes = {};
    attributes.attr_set = set;
    attributes.attr_clr = clear;
    // The access-time mode is a field of its own within the attributes: setting one means clearing the field.
    if ((set & MOUNT_ATTR__ATIME) != 0) attributes.attr_clr |= MOUNT_ATTR__ATIME;
    attributes.propagation = propagation;
    if (id_map_user_ns_fd >= 0) {
        attributes.attr_set |= MOUNT_ATTR_IDMAP;
        attributes.userns_fd = static_cast<uint64_t>(id_map_user_ns_fd);
    }
    unsigned flags = (recursive ? AT_RECURSIVE : 0u) | (path.empty() ? AT_EMPTY_PATH : 0u);
    if (::mount_setattr(mount_fd, path.c_str(), flags, &attributes, sizeof attributes) < 0) return last_errno();
    return {};
}

SysResult<void> move_mount(int mount_fd, int dir_fd, const std::string& path) {
    unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (path.empty() ? MOVE_MOUNT_T_EMPTY_PATH : 0u);
    if (::move_mount(mount_fd, "", dir_fd, path.c_str(), flags) < 0) return last_errno();
    return {};
}

SysResult<UniqueFd> create_huge_tmpfile() {
    UniqueFd context = TRY(fsopen("tmpfs"));
    TRY(fsconfig_string(context.get(), "huge", "always"));
    TRY(fsconfig_string(context.get(), "size", "100%"));
    TRY(fsconfig_create(context.get()));
    UniqueFd mount = TRY(fsmount(context.get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
    // The mount goes with its descriptor, the file stays.
    return open_at(mount.get(), ".", O_TMPFILE | O_RDWR, 0600);
}

SysResult<void> unmount(const std::string& path, int flags) {
    if (::umount2(path.c_str(), flags) < 0) return last_errno();
    return {};
}

}  // namespace casemate::linux
