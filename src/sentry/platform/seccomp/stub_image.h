// The code page of every stub: the blob of stub.S with the two seccomp filters behind it.
//
// The filters are what keeps applications from the host (SPECIFICATION.md: no application syscall reaches it).
// Application threads: nothing is executed but rt_sigreturn and a futex wake from the stub's code, both harmless with
// any arguments; everything else becomes a notification, or SIGSYS where the sentry needs the full
// register state. Map thread: the memory calls that its read-only orders contain, and the receipt of descriptors for
// them; anything else kills the stub.
#pragma once

#include <linux/filter.h>

#include <array>
#include <cstddef>
#include <vector>

#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {

std::vector<sock_filter> app_filter();
std::vector<sock_filter> map_filter();

using StubImage = std::array<std::byte, STUB_CODE_SIZE>;
StubImage build_stub_image();

}  // namespace casemate::sentry::seccomp
