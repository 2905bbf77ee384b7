// linux.seccomp of config.json as a filter for a container's processes.
#pragma once

#include "base/result.h"
#include "oci/spec.h"
#include "sentry/kernel/syscall_filter.h"

namespace casemate::sentry {

// Names that x86-64 does not have are left out, as libseccomp does. Of several rules for one call those with conditions
// come first, in the profile's order; then one without. Two conditions on the same argument in one rule mean "either",
// as for runc and crun. Code of other architectures does not run here at all.
Result<Ref<SyscallFilter>> compile_profile(const oci::Seccomp& profile);

}  // namespace casemate::sentry
