#include "sandbox/host_root.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "linux/file.h"
#include "linux/mount_fd.h"
#include "linux/path.h"
#include "linux/process.h"

namespace casemate::sandbox {

namespace {

// File systems of real files; every other one is the host kernel's interface.
constexpr std::string_view kFileTypes[] = {"ext2",     "ext3",  "ext4",     "xfs",    "btrfs",    "f2fs", "overlay",
                                           "tmpfs",    "erofs", "squashfs", "zfs",    "bcachefs", "vfat", "exfat",
                                           "iso9660",  "nfs",   "nfs4",     "cifs",   "smb3",     "9p",   "virtiofs",
                                           "reiserfs", "jfs",   "ntfs3",    "rootfs", "ramfs",    "fuse", "fuseblk"};

struct HostMount {
    std::string path;
    bool files = false;
};

// mountinfo writes space, tab, newline and backslash as octal.
std::string unescape(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size()) {
            out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
            i += 3;
        } else {
            out += text[i];
        }
    }
    return out;
}

std::vector<HostMount> parse_mountinfo(std::string_view text) {
    std::vector<HostMount> mounts;
    while (!text.empty()) {
        size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        size_t field = 0;
        for (int i = 0; i < 4 && field != line.npos; ++i) field = line.find(' ', field == 0 ? 0 : field + 1);
        size_t type = line.find(" - ");
        if (field == line.npos || type == line.npos) continue;
        std::string_view path = line.substr(field + 1);
        path = path.substr(0, path.find(' '));
        std::string_view name = line.substr(type + 3);
        name = name.substr(0, name.find(' '));
        // devtmpfs looks like a tmpfs, but /dev is the kernel's; a tmpfs below /dev and /sys only holds mount points.
        std::string where = unescape(path);
        auto below = [&](std::string_view folder) {
            return where == folder || (where.starts_with(folder) && where[folder.size()] == '/');
        };
        bool files = std::find(std::begin(kFileTypes), std::end(kFileTypes), name) != std::end(kFileTypes) ||
                     name.starts_with("fuse.");
        mounts.push_back({where, files && !below("/dev") && !below("/sys") && !below("/proc")});
    }
    return mounts;
}

// Where the copy is worked on: a tmpfs over a folder that every root has, with something empty to cover what hides.
class Place {
  public:
    static constexpr const char* kCopy = "/mnt/copy";

    static Result<Place> create() {
        if (mount("casemate", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755") != 0)
            return sys_error("mount a tmpfs on /mnt to work on a copy of /");
        Place place;
        place.mounted_ = true;
        UniqueFd file(::open(kFile, O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
        if (!file || mkdir(kCopy, 0755) != 0 || mkdir(kFolder, 0555) != 0) return sys_error("make folders in /mnt");
        return place;
    }
    Place(Place&& other) noexcept : mounted_(std::exchange(other.mounted_, false)) {}
    Place& operator=(Place&&) = delete;
    ~Place() {
        if (mounted_) (void)umount2("/mnt", MNT_DETACH);
    }

    // If it is a mount that is seen there.
    Result<void> cover(const std::string& path) const {
        struct statx status;
        if (statx(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &status) != 0 ||
            (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0)
            return {};
        auto empty = linux::clone_mount(AT_FDCWD, S_ISDIR(status.stx_mode) ? kFolder : kFile, false);
        if (!empty.ok()) return sys_error("clone an empty mount", empty.error().value);
        auto moved = linux::move_mount(empty->get(), AT_FDCWD, path);
        if (!moved.ok()) return sys_error("cover " + path, moved.error().value);
        return {};
    }

  private:
    static constexpr const char *kFolder = "/mnt/folder", *kFile = "/mnt/file";
    Place() = default;
    bool mounted_ = false;
};

}  // namespace

Result<UniqueFd> clone_host_root() {
    auto unshared = linux::unshare(CLONE_NEWNS);
    if (!unshared.ok()) return sys_error("make a mount namespace", unshared.error().value);
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return sys_error("make mounts private");
    auto info = linux::read_file("/proc/self/mountinfo");
    if (!info.ok()) return sys_error("read /proc/self/mountinfo", info.error().value);
    std::vector<HostMount> mounts = parse_mountinfo(*info);

    // What hides: mounts of other kinds, last mounted first so that none is busy with another one on it. They are
    // looked up through the copy, and this process keeps its own /proc.
    auto copy = linux::clone_mount(AT_FDCWD, "/", true);
    if (!copy.ok()) return sys_error("copy the mount tree of /", copy.error().value);
    bool hides = std::any_of(mounts.begin(), mounts.end(), [](const HostMount& mount) { return !mount.files; });
    if (hides) {
        Place place = TRY(Place::create());
        auto moved = linux::move_mount(copy->get(), AT_FDCWD, Place::kCopy);
        if (!moved.ok()) return sys_error("attach the copy of /", moved.error().value);
        for (auto mount = mounts.rbegin(); mount != mounts.rend(); ++mount) {
            if (mount->files || mount->path == "/") continue;
            std::string path = Place::kCopy + mount->path;
            if (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0 || errno == ENOENT) continue;
            // EINVAL: another mount hides it, or it is locked: a user who is not root may not take it away, but cover
            // it.
            if (errno != EINVAL) return sys_error("take " + mount->path + " out of the copy of /");
            TRY(place.cover(path));
        }
        auto again = linux::clone_mount(AT_FDCWD, Place::kCopy, true);
        if (!again.ok()) return sys_error("copy the mount tree of / again", again.error().value);
        copy = std::move(again);
    }
    auto sealed =
        linux::set_mount_attributes(copy->get(), "", true, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV, 0, MS_PRIVATE);
    if (!sealed.ok()) return sys_error("make the copy of / read-only", sealed.error().value);
    return std::move(*copy);
}

}  // namespace casemate::sandbox
