// The sentry's own seccomp allow-list: what the host still does for it once the first byte from outside may be read.
//
// No call opens a path, makes a socket, executes or sends a signal outside of the pod: descriptors come from the file
// server and the sandbox host, processes from the platform's template. Counted by confine_test.cc.
#pragma once

#include "base/result.h"
#include "host/seccomp_filter.h"

namespace casemate::sentry {

host::SeccompFilter sentry_filter();
// For all threads of the process, for good.
Result<void> confine();

}  // namespace casemate::sentry
