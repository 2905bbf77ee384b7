// PipeAccess: what splice, tee and vmsplice need of a pipe: looking at bytes before taking them, so that nothing is
// lost when the other side takes fewer.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace casemate::sentry {

class Task;

class PipeAccess {
  public:
    // Copies up to into.size() bytes from the front without taking them. Blocks while the pipe is empty and has writers
    // unless `nonblocking` (EAGAIN); 0: empty and no writers. Reading end only, else EBADF.
    virtual SysResult<size_t> peek(Task& task, std::span<std::byte> into, bool nonblocking) = 0;
    // Takes `size` bytes that peek showed (another reader may have been faster: takes what is there).
    virtual void consume(size_t size) = 0;
    // Appends; blocks while full unless `nonblocking`. EPIPE (with SIGPIPE) without readers. Writing end only.
    virtual SysResult<size_t> push(Task& task, std::span<const std::byte> from, bool nonblocking) = 0;
    // Identity of the pipe: both ends of one pipe answer the same.
    virtual const void* pipe() const = 0;

  protected:
    ~PipeAccess() = default;
};

}  // namespace casemate::sentry
