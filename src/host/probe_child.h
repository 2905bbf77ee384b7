// Runs a probe in a forked child and brings its plain result back, whatever becomes of the child.
#pragma once

#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <type_traits>

#include "base/result.h"
#include "linux/event_fds.h"
#include "linux/process.h"

namespace casemate::host {

// ETIMEDOUT after `patience_ms`, ECHILD if the child died without a result.
template <typename T, typename Probe>
SysResult<T> run_probe(int patience_ms, Probe probe) {
    static_assert(std::is_trivially_copyable_v<T>);
    linux::Pipe pipe = TRY(linux::create_pipe());
    pid_t pid = ::fork();
    if (pid < 0) return last_errno();
    if (pid == 0) {
        (void)linux::set_death_signal(SIGKILL);
        T result = probe();
        (void)!::write(pipe.write_end.get(), &result, sizeof result);
        ::_exit(0);
    }
    pipe.write_end.reset();
    T result{};
    pollfd poll = {pipe.read_end.get(), POLLIN, 0};
    int ready = ::poll(&poll, 1, patience_ms);
    bool complete = ready == 1 && ::read(pipe.read_end.get(), &result, sizeof result) == sizeof result;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    if (!complete) return Errno(ready == 0 ? ETIMEDOUT : ECHILD);
    return result;
}

}  // namespace casemate::host
