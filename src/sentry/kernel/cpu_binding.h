// Keeping a thread of the sentry's on the CPU where the others of its chain are.
//
// A thread that is woken by a futex goes to an idle CPU, if there is one. Where the waker goes to sleep next, that wins
// nothing and costs tens of microseconds: an interrupt to a CPU that first comes out of its halt, which in a virtual
// machine is the hypervisor's business. The host has no order "wake it here" for futexes, as it has for notifications;
// so the thread is bound to the waker's CPU while it sleeps, and let go when it runs.
#pragma once

#include <optional>

#include <sched.h>
#include <sys/types.h>

namespace casemate::sentry {

// Binds a thread (0: the caller) to the caller's CPU. Returns the CPUs that it had; nothing if that is one, or it could
// not be done.
std::optional<cpu_set_t> bind_to_this_cpu(pid_t thread);
void bind_to(pid_t thread, const cpu_set_t& cpus);

}  // namespace casemate::sentry
