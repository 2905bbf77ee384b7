// CPU time of tasks. The application's part is what the host counts for the process it runs in, the system's part what
// it counts for the sentry threads behind the tasks: exact, and nothing is counted on the way of a syscall.
#pragma once

#include <cstdint>

#include "sentry/kernel/process.h"

namespace casemate::sentry {

class Task;

struct CpuTimes {
    uint64_t user_ns = 0, system_ns = 0;
};
// Locks TaskSet::mutex unless `_locked`.
CpuTimes process_cpu_times(Process& process);
CpuTimes process_cpu_times_locked(Process& process);
// Of one thread: its own system time and its share of the process's user time (the host tells the sentry the time of
// the whole process only).
CpuTimes task_cpu_times(Task& task);
ResourceUse process_use(Process& process);
ResourceUse process_use_locked(Process& process);

// What the host process has used so far; 0 if it is gone.
int64_t host_process_cpu_ns(int host_process_id);
// Called by a task that is about to leave its address space: adds what it used to the process.
void account_address_space_left(Task& task);
// Called by a task after it got (another) address space.
void account_address_space_joined(Task& task);
// Called on a thread that ends.
void account_thread_ended(Task& task);

}  // namespace casemate::sentry
