// What HostConnections' thread moves: one passage per connection or peer on the host's side. Of that thread alone.
#pragma once

#include <poll.h>

#include <atomic>
#include <memory>
#include <span>

#include "base/unique_fd.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

// Rings the thread out of its poll. The bell is there as long as the descriptor's owner, which outlives all passages.
class Doorbell final {
  public:
    explicit Doorbell(UniqueFd fd) : fd_(std::move(fd)) {}
    void ring();
    void answer();
    int fd() const { return fd_.get(); }

  private:
    const UniqueFd fd_;
    std::atomic<bool> rung_{false};
};

class Ring final : public Waiter {
  public:
    explicit Ring(Doorbell& bell) : bell_(bell) {}
    bool notified(uint32_t) override {
        bell_.ring();
        return true;
    }

  private:
    Doorbell& bell_;
};

class HostPassage {
  public:
    virtual ~HostPassage() = default;
    virtual pollfd wanted() const = 0;
    // Moves what can be moved; false: it has ended. `events`: as poll() answered. `scratch`: room for one datagram.
    virtual bool step(short events, std::span<std::byte> scratch) = 0;
    // When to look again although nothing happened.
    virtual Deadline look_again() const = 0;
    // Which one has to go where there are too many; the earliest. Nothing: it stays.
    virtual Deadline last_used() const { return std::nullopt; }
};

}  // namespace casemate::sentry
