// A descriptor's watch in a DeviceLoop, switched on and off by the events wanted. Without any wanted it is not in the
// epoll set at all: a hang-up, which epoll reports whether wanted or not, would otherwise spin.
//
// Under the device's lock, as everything of the loop's.
#pragma once

#include <functional>
#include <utility>

#include "virtio/device_loop.h"

namespace casemate::virtio {

class FdWatch {
  public:
    FdWatch(DeviceLoop& loop, std::mutex& owner, std::function<void(uint32_t)> callback)
        : loop_(loop), owner_(owner), callback_(std::move(callback)) {}
    ~FdWatch() {
        want(0);
        loop_.cancel(deferred_);
    }
    FdWatch(const FdWatch&) = delete;

    // Borrowed; wants nothing first.
    void set_fd(int fd) {
        want(0);
        fd_ = fd;
        always_ready_ = false;
    }
    void want(uint32_t events) {
        if (events == events_ || fd_ < 0) return;
        if (events == 0) {
            loop_.remove(id_);
        } else if (events_ == 0) {
            auto id = loop_.watch(owner_, fd_, events, callback_);
            if (!id.ok()) {  // EPERM: a regular file, which is never waited for
                always_ready_ = true;
                loop_.cancel(deferred_);
                deferred_ = loop_.defer(owner_, [this, events] {
                    deferred_ = 0;
                    callback_(events);
                });
                return;
            }
            id_ = *id;
        } else {
            loop_.change(id_, events);
        }
        events_ = events;
    }
    uint32_t wanted() const { return events_; }
    bool always_ready() const { return always_ready_; }

  private:
    DeviceLoop& loop_;
    std::mutex& owner_;
    std::function<void(uint32_t)> callback_;
    int fd_ = -1;
    DeviceLoop::Id id_ = 0;
    DeviceLoop::Id deferred_ = 0;
    uint32_t events_ = 0;
    bool always_ready_ = false;
};

}  // namespace casemate::virtio
