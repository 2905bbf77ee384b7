// The cgroup v2 file system as a container sees it: one cgroup, its own, with the limits and usage of its container.
// The limits themselves are held by the host's cgroup around the pod; children cannot be made here (EPERM).
#pragma once

#include "sentry/fs/synthetic/synthetic.h"

namespace casemate::sentry {

class Container;
class Kernel;

SysResult<Ref<FileSystem>> make_cgroup_view(Kernel& kernel, Ref<Container> container);

}  // namespace casemate::sentry
