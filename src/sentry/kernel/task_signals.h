// Sending signals and choosing the next one to act on.
#pragma once

#include "sentry/kernel/process.h"
#include "sentry/kernel/task.h"

namespace casemate::sentry {

enum class SignalSource { kInside, kOutside };  // kOutside: the sentry itself or an ancestor pid namespace

// To one thread. 0, or EAGAIN when a real-time signal found the queue full. Holds process().signal_mutex.
int send_to_task_locked(Task& task, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer = nullptr);
int send_to_task(Task& task, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer = nullptr);
int send_to_process(Process& process, const siginfo_t& info, SignalSource source, Ref<RefCounted> timer = nullptr);

// A signal that an instruction raised: it cannot be ignored or blocked away; if it is, it kills.
void force_signal(Task& task, siginfo_t info);
// Kills with SIGSEGV whatever the disposition (a frame could not be written), as Linux's force_sigsegv.
void force_fatal(Task& task, int signo);

// Changes the mask of the calling task and looks whether something became deliverable.
void set_blocked(Task& task, SignalSet mask);
// Sets attention if something is deliverable. Holds signal_mutex.
void look_at_signals_locked(Task& task);

// Sends SIGCHLD (or what `info` says) to the parent of a stopped or continued process. TaskSet::mutex is not held.
void tell_parent_of_stop(Process& process);
void tell_parent_of_continue(Process& process);

// Sends to all members of a process group. TaskSet::mutex held.
void send_to_group_locked(Pid& group, const siginfo_t& info);

}  // namespace casemate::sentry
