// The network interfaces of a namespace as ioctls tell them: the loopback only, for now.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace casemate::sentry {

class Task;

// SIOCGIF*; ENOTTY for what is no interface ioctl.
SysResult<int64_t> interface_ioctl(Task& task, uint64_t command, uint64_t argument);

}  // namespace casemate::sentry
