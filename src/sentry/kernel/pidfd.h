// Descriptors for processes: pidfd_open(2), CLONE_PIDFD.
#pragma once

#include "base/ref.h"
#include "sentry/kernel/pid.h"
#include "sentry/vfs/file.h"

namespace casemate::sentry {

class Kernel;

// `flags`: O_NONBLOCK or 0.
Ref<File> make_pidfd(Kernel& kernel, Ref<Pid> pid, int flags);
// What a descriptor stands for; EBADF if it is none of ours.
SysResult<Ref<Pid>> pid_of(File& file);

}  // namespace casemate::sentry
