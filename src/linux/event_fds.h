// Descriptors that stand for something else than a file: events, timers, signals, memory, pipes. All close-on-exec.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::linux {

// Non-blocking eventfd with the counter at 0.
SysResult<UniqueFd> create_eventfd();
void signal_eventfd(int fd);
// The counter, which falls to 0; 0 if nothing was signalled.
uint64_t drain_eventfd(int fd);

// Non-blocking timerfd on CLOCK_MONOTONIC, not armed.
SysResult<UniqueFd> create_timerfd();
// One shot after `delay`, at least 1 ns; with `period` again and again.
SysResult<void> arm_timerfd(int fd, std::chrono::nanoseconds delay,
                            std::chrono::nanoseconds period = std::chrono::nanoseconds(0));
SysResult<void> disarm_timerfd(int fd);

// Non-blocking signalfd for the set. The caller blocks the signals (in every thread).
SysResult<UniqueFd> create_signalfd(const sigset_t& set, int fd = -1);
sigset_t signal_set(std::initializer_list<int> signals);

// memfd_create(2) that allows sealing.
SysResult<UniqueFd> create_memfd(const char* name, unsigned flags = 0);
// Adds F_SEAL_SHRINK, GROW, WRITE and SEAL: the content is constant from now on.
SysResult<void> seal_memfd(int fd);

struct Pipe {
    UniqueFd read_end, write_end;
};
SysResult<Pipe> create_pipe(int flags = 0);

SysResult<UniqueFd> duplicate_fd(int fd);
SysResult<void> set_nonblocking(int fd, bool nonblocking);
SysResult<void> set_close_on_exec(int fd, bool close_on_exec);

}  // namespace casemate::linux
