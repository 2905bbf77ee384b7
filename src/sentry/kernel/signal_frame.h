// The frame of a signal handler on the application's stack, exactly as Linux lays it out on x86-64
// (arch/x86/include/asm/ sigframe.h, uapi/asm/sigcontext.h): C libraries, debuggers and unwinders read it.
#pragma once

#include "sentry/kernel/task.h"

namespace casemate::sentry {

// Writes the frame and points the registers at the handler. False: the stack cannot hold it (SIGSEGV is the answer).
bool push_signal_frame(Task& task, const siginfo_t& info, const SignalAction& action, SignalSet saved_mask);
// rt_sigreturn(2): registers, mask and alternate stack from the frame at the stack pointer. Hostile bytes. False: the
// frame is no frame.
bool pop_signal_frame(Task& task);
// AT_MINSIGSTKSZ: the space a handler needs at least.
uint64_t minimum_signal_stack(const Platform& platform);

}  // namespace casemate::sentry
