// Classic BPF as seccomp(2) takes it: 32-bit words of a seccomp_data, an accumulator, an index register, 16 words of
// scratch memory, jumps forward only.
//
// A program comes from the application: check_bpf() decides as the kernel's bpf_check_classic and seccomp_check_filter
// do; what passed ends within its length, and run_bpf() needs no checks of its own.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"

namespace casemate::sentry {

// EINVAL for whatever the kernel refuses: length 0 or past BPF_MAXINSNS, unknown operations, jumps out of the program,
// division by a constant 0, shifts by 32 or more, scratch memory that is read before it is written, loads beyond
// seccomp_data or not on a word, a way that does not end in a return.
SysResult<void> check_bpf(std::span<const sock_filter> program);

// The 32-bit value returned for `data`. A division by an index register of 0 returns 0.
uint32_t run_bpf(std::span<const sock_filter> program, const seccomp_data& data);

// The value returned if it follows from the number and the architecture alone; nothing once anything else is loaded.
std::optional<uint32_t> run_bpf_by_number(std::span<const sock_filter> program, uint32_t number, uint32_t architecture);

}  // namespace casemate::sentry
