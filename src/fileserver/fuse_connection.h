// The file server's end of virtio/fuse_link.h: one directory, one monitor.
#pragma once

#include "fileserver/fuse_directory.h"

namespace casemate::fileserver {

// Serves until the monitor hangs up. EPROTO if it breaks the protocol: whoever took the monitor over may.
SysResult<void> serve_fuse_link(FuseDirectory& directory, int socket);

}  // namespace casemate::fileserver
