// Opening by path with the kernel's resolve rules, and making directories.
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

// open(2), always O_CLOEXEC.
SysResult<UniqueFd> open(const std::string& path, int flags, mode_t mode = 0);
SysResult<UniqueFd> open_at(int dir_fd, const std::string& path, int flags, mode_t mode = 0);
// openat2(2) with RESOLVE_* rules; O_CLOEXEC is added.
SysResult<UniqueFd> openat2(int dir_fd, const std::string& path, uint64_t flags, uint64_t resolve, mode_t mode = 0);
// Opens `path` as seen by a process whose root is `root_fd`: absolute paths, links and ".." stay in it
// (RESOLVE_IN_ROOT), magic links are refused.
SysResult<UniqueFd> open_in_root(int root_fd, const std::string& path, uint64_t flags, mode_t mode = 0);

// Creates the directory and its missing parents. An existing directory (or link to one) is fine.
SysResult<void> mkdir_p(std::string_view path, mode_t mode);
SysResult<void> mkdir_p_at(int dir_fd, std::string_view path, mode_t mode);
// mkdir_p inside a root: no component leads out of `root_fd`. Returns the last directory, O_PATH.
SysResult<UniqueFd> mkdir_p_in_root(int root_fd, std::string_view path, mode_t mode);

// Removes a directory and all in it, never following links nor crossing into other mounts. Missing is fine.
SysResult<void> remove_tree(const std::string& path);

SysResult<std::string> read_link(const std::string& path);
bool path_exists(const std::string& path);

}  // namespace casemate::linux
