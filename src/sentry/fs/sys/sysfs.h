// sysfs as a container sees it: the CPUs it was given, one NUMA node, no devices of the host.
#pragma once

#include "sentry/fs/synthetic/synthetic.h"

namespace casemate::sentry {

class Kernel;

SysResult<Ref<FileSystem>> make_sysfs(Kernel& kernel, std::string_view options);

}  // namespace casemate::sentry
