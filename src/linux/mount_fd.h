// The mount API of descriptors (Linux 5.2 and later): a mount is built and changed while detached, and shows up in a
// mount namespace only when it is moved there, or never: a detached mount can be used by openat() on its descriptor.
#pragma once

#include <sys/mount.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

SysResult<UniqueFd> fsopen(const char* type);
SysResult<void> fsconfig_string(int fs_fd, const char* key, const char* value);
SysResult<void> fsconfig_flag(int fs_fd, const char* key);
SysResult<void> fsconfig_create(int fs_fd);
// `attributes` are MOUNT_ATTR_*.
SysResult<UniqueFd> fsmount(int fs_fd, uint64_t attributes);
// What the file system said of a failure ("e tmpfs: Bad value for 'size'"); may be empty.
std::string fs_message(int fs_fd);

// fsopen to fsmount: a new detached mount of `type` with options ("" as value: a flag).
Result<UniqueFd> create_mount(const std::string& type, const std::vector<std::pair<std::string, std::string>>& options,
                              uint64_t attributes);

// A detached copy (bind) of what lies at `path`; `dir_fd` with an empty path copies what the descriptor shows.
SysResult<UniqueFd> clone_mount(int dir_fd, const std::string& path, bool recursive);
// MOUNT_ATTR_* to set and to clear, and MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0.
SysResult<void> set_mount_attributes(int mount_fd, const std::string& path, bool recursive, uint64_t set,
                                     uint64_t clear, uint64_t propagation = 0, int id_map_user_ns_fd = -1);
// Attaches a detached mount at dir_fd/path; a final symbolic link is not followed.
SysResult<void> move_mount(int mount_fd, int dir_fd, const std::string& path);

// The file that backs guest memory: unlinked, on a private detached tmpfs with huge pages always (`huge` false: plain
// memfd, for hosts without). First touch of a page is 15 times cheaper than in a memfd. Needs CAP_SYS_ADMIN in the
// caller's user namespace; see host/jail.h for the rootless way.
SysResult<UniqueFd> create_huge_tmpfile();

// umount2(2).
SysResult<void> unmount(const std::string& path, int flags);

}  // namespace casemate::linux
