// The kernel's x86-64 signal frame, in which a stopped thread's full state lies in its thread area.
//
// The area is shared with the application: what is read from it is copied once and then checked, and what is written to
// it is cleaned first. Applications can scribble over a frame before it is used again; the kernel's rt_sigreturn
// accepts only what user code could have set itself, so that hurts their own stub only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/stub_abi.h"

namespace casemate::sentry::seccomp {

// struct rt_sigframe.
struct SignalFrame {
    uint64_t restorer;
    uint64_t uc_flags, uc_link;
    uint64_t stack_address, stack_flags, stack_size;
    uint64_t general[18];  // the order of struct sigcontext, which is also that of Registers
    uint16_t cs, gs, fs, ss;
    uint64_t error_code, trap_number, old_mask, cr2;
    uint64_t fp_state;
    uint64_t reserved[8];
    uint64_t signal_mask;
    // siginfo_t
    int32_t signo, si_errno, si_code, pad;
    uint64_t address;  // of a fault, or behind the syscall instruction
    int32_t syscall_nr;
    uint32_t syscall_arch;
    uint64_t si_rest[12];
};
static_assert(sizeof(SignalFrame) == 440);

// The signal that interrupt() sends.
int interrupt_signal();
// The signals that the stub handles, as a kernel mask; application threads block all others.
uint64_t handled_signals();

// Where this kernel puts things in a thread area, learnt from a signal that the sentry sends to itself.
struct FrameLayout {
    size_t frame = 0;     // offset of the SignalFrame in its area
    size_t fp_state = 0;  // offset of the XSAVE image
    size_t fp_size = 0;   // its size, without the magic2 word
    uint64_t fp_features = 0;
    uint32_t extended_size = 0;
    uint32_t mxcsr_mask = 0;

    static Result<FrameLayout> probe();

    // A complete frame at `area` (our mapping; the stub sees it at `stub_area`) for going on with `registers`. The FP
    // image is left as it is.
    void write(std::byte* area, uint64_t stub_area, const Registers& registers) const;

    // The initial FP state.
    void reset_fp(std::span<std::byte> image) const;
    // Makes XRSTOR accept it, whatever it held.
    void clean_fp(std::span<std::byte> image) const;
    void read_fp(const std::byte* area, std::span<std::byte> image) const;
    void write_fp(std::byte* area, std::span<const std::byte> image) const;
};

}  // namespace casemate::sentry::seccomp
