// The control socket: how the sandbox host hands mounts to the file server, before and while the guest runs.
#pragma once

#include "base/result.h"
#include "fileserver/file_server.h"

namespace casemate::fileserver {

// Takes mounts from `socket` (borrowed, SOCK_SEQPACKET) until the sandbox host closes it. Runs on a thread of its own.
SysResult<void> serve_control(FileServer& server, int socket);

}  // namespace casemate::fileserver
