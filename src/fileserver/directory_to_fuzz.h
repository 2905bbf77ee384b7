// The directory that the fuzz targets of FUSE messages stand in front of: a new one in /tmp, small in nodes and
// handles.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fileserver/fuse_directory.h"

namespace casemate::fileserver {

inline FuseDirectory* directory_to_fuzz() {
    static char name[] = "/tmp/casemate-fuse-fuzz-XXXXXX";
    const char* top = ::mkdtemp(name);
    ::umask(0);
    FuseDirectory::Options options;
    options.max_nodes = options.max_handles = 32;
    options.self_fd_prefix = "/proc/self/fd/";
    return MUST(FuseDirectory::create(UniqueFd(::open(top, O_PATH | O_CLOEXEC)),
                                      UniqueFd(::open("/proc/self/fd", O_PATH | O_CLOEXEC)), options))
        .release();
}

}  // namespace casemate::fileserver
