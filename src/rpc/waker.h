// Wakes a thread out of poll(2). Any thread may wake; it never blocks.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"

namespace casemate::rpc {

class Waker {
  public:
    static SysResult<Waker> create() {
        UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!fd) return last_errno();
        return Waker(std::move(fd));
    }
    void wake() const {
        uint64_t one = 1;
        [[maybe_unused]] ssize_t written = ::write(fd_.get(), &one, sizeof(one));
    }
    void drain() const {
        uint64_t count;
        [[maybe_unused]] ssize_t got = ::read(fd_.get(), &count, sizeof(count));
    }
    int fd() const { return fd_.get(); }

  private:
    explicit Waker(UniqueFd fd) : fd_(std::move(fd)) {}
    UniqueFd fd_;
};

}  // namespace casemate::rpc
