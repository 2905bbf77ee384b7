// The template: the process that every stub is cloned from. It is forked from the sentry before the sentry confines
// itself (a filter would be inherited), drops everything it inherited, and then runs nothing but stub.S.
#pragma once

#include <sys/types.h>

#include "base/result.h"
#include "base/unique_fd.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/seccomp/control_area.h"

namespace casemate::sentry::seccomp {

// A process of ours: killed and reaped when this goes.
class OwnedProcess {
  public:
    OwnedProcess() = default;
    OwnedProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
    OwnedProcess(OwnedProcess&&) noexcept = default;
    OwnedProcess& operator=(OwnedProcess&& other) noexcept {
        end();
        pid_ = other.pid_;
        pidfd_ = std::move(other.pidfd_);
        return *this;
    }
    ~OwnedProcess() { end(); }

    pid_t pid() const { return pid_; }
    int pidfd() const { return pidfd_.get(); }
    void kill() const;
    bool is_dead() const;

  private:
    void end();

    pid_t pid_ = -1;
    UniqueFd pidfd_;
};

class TemplateProcess {
  public:
    // Forks it. The caller is single-threaded, has no seccomp filter yet, and its identity and namespaces are final.
    static Result<TemplateProcess> create(ControlArea& control, int memory_file);

    // A new stub process over `block`, at rest. Not thread-safe: two orders may not overlap.
    SysResult<OwnedProcess> spawn(ControlArea& control, uint32_t block);

    const HostClocks& clocks() const { return clocks_; }

  private:
    OwnedProcess process_;
    HostClocks clocks_;
};

}  // namespace casemate::sentry::seccomp
