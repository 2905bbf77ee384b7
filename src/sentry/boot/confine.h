// The sentry's own seccomp allow-list: what the host still does for it once the first byte from outside may be read.
//
// No call opens a path, makes a socket, executes or sends a signal outside of the pod: descriptors come from the file
// server and the sandbox host, processes from the platform's template. Counted by confine_test.cc.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"
#include "host/seccomp_filter.h"

namespace casemate::sentry {

// `host_network`: what sockets of the host need comes to it (net/host/): wider, and only in that mode.
host::SeccompFilter sentry_filter(bool host_network = false);
// For all threads of the process, for good. The listener gets the rings for the file server (fileserver/shared_area.h);
// it is empty where the host gives none, because this process is being watched by a listener already.
Result<UniqueFd> confine(bool host_network = false);

}  // namespace casemate::sentry
