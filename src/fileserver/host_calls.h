// The few host calls that several operations of the file server share.
#pragma once

#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fileserver/protocol.h"

namespace casemate::fileserver {

// openat2(2) of a relative path that stays beneath `directory`: no "..", no link, no magic link is ever followed. A
// walk that a rename disturbs is tried again a few times (EAGAIN).
SysResult<UniqueFd> open_beneath(int directory, const std::string& path, int flags);
// Of an open descriptor, O_PATH included.
SysResult<Attributes> read_attributes(int fd);
SysResult<Attributes> read_attributes_at(int directory, const char* name);
// The text of the symlink behind an O_PATH descriptor.
SysResult<std::string> read_link_fd(int fd);

}  // namespace casemate::fileserver
