// casemate-share: the process that serves one directory to a machine's virtio-fs device. It alone can reach the
// directory; the monitor talks to it over a socket (virtio/fuse_link.h) and can reach no file at all.
#pragma once

#include <string>

#include "base/result.h"
#include "host/jail.h"

namespace casemate::vmm {

// `program` is casemate-share's path; `socket` the far end of the monitor's, borrowed. The directory and what is
// mounted in it appear in the jail's root as mounts of their own, in which no device opens: nothing is above them,
// whatever the process does. It ends with the monitor's end of the socket, and with the calling thread.
Result<host::JailedProcess> spawn_share(const std::string& program, int socket, const std::string& directory,
                                        bool read_only);

}  // namespace casemate::vmm
