// CPUID in the code of a program's interpreter, answered without executing it.
//
// In a virtual machine every CPUID is an exit to the hypervisor, some microseconds, and glibc's ld.so executes forty at
// the start of each program. What they say does not change, so the loader shows the program another copy of those pages
// (AddressSpace::show_code), in which an instruction in front of a CPUID is a jump to moves of the answer. They lie
// in what is left of the code's last page. Known forms:
//
//   mov $leaf, %eax; cpuid                      leaves that take no number of a part in %ecx
//   mov $leaf, %eax; xor %ecx, %ecx; cpuid
//   mov $leaf, %eax; mov $part, %ecx; cpuid
//   mov $leaf, %eax; mov %r32, %ecx; cpuid      the first parts; others are asked for
//   jcc elsewhere; mov %r12d, %eax;             the same of leaf 13; other leaves are asked for
//     mov %r32, %ecx; cpuid
//
// The `cpuid` itself stays, for who jumps to it. Everything else is left alone (docs/decisions/0016-cpuid.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sentry/mm/address_space.h"

namespace casemate::sentry {

struct CpuidAnswer {
    uint32_t a = 0, b = 0, c = 0, d = 0;
};
using AskCpuid = CpuidAnswer (*)(uint32_t leaf, uint32_t part);
CpuidAnswer ask_cpuid(uint32_t leaf, uint32_t part);

// Changes `code`, whole pages of which `used` bytes are in use, the others zero. False: nothing to change.
bool answer_cpuid(std::span<std::byte> code, size_t used, AskCpuid ask = ask_cpuid);

// For an interpreter's code at `start`, mapped and not run yet, if that saves something on this host.
void answer_cpuid_in(AddressSpace& memory, GuestAddr start, size_t used);

}  // namespace casemate::sentry
