// Errno values that never reach an application: they tell the task's run loop how to go on after a syscall.
#pragma once

namespace casemate::sentry {

constexpr int kRestartSys = 512;        // ERESTARTSYS: again if the handler has SA_RESTART, else EINTR
constexpr int kRestartNoIntr = 513;     // ERESTARTNOINTR: always again
constexpr int kRestartNoHandler = 514;  // ERESTARTNOHAND: again unless a handler runs
constexpr int kRestartBlock = 516;      // ERESTART_RESTARTBLOCK: Task::set_restart() says how; EINTR if a handler runs
constexpr int kRegistersSet = 600;  // the handler set the registers (exec, rt_sigreturn): go on with them as they are

constexpr int kParked = 601;  // the call waits without its thread (parked_call.h)

}  // namespace casemate::sentry
