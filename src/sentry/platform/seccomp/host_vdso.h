// The host's vDSO in the stubs: the code and data by which the host kernel lets programs read its clocks without a
// system call. The template keeps it when it drops everything else, at a fixed place above what applications may map.
//
// The pages are read-only and hold nothing but clocks (which rdtsc and the sentry's own answers tell as well); where a
// clock needs the kernel, the code there executes `syscall`, which the application's filter stops like any other.
#pragma once

#include <cstdint>

#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {

// Moves the calling process's vDSO away from the addresses that stubs use and notes in `order` how it gets to its
// place. False: the moves failed half-way. A host without one, or with one that cannot be moved, leaves clock_image 0.
// SAFETY: for the forked template, which reads no clock afterwards; system calls only.
bool take_host_vdso_aside(SpawnOrder& order);

// The functions of this process's vDSO, whose copy has its ELF header at `image` in stubs. All 0 if `image` is.
HostClocks find_host_clocks(uint64_t image);

}  // namespace casemate::sentry::seccomp
