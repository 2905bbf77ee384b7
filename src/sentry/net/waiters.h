// A wait queue with a life of its own: what a socket's peers and the buffers between them still hold when the socket is
// gone.
#pragma once

#include <sys/epoll.h>

#include "base/ref.h"
#include "sentry/kernel/wait_queue.h"

namespace casemate::sentry {

class SocketWaiters final : public RefCounted {
  public:
    WaitQueue queue;

    void readable() { queue.notify(EPOLLIN | EPOLLRDNORM); }
    void writable() { queue.notify(EPOLLOUT | EPOLLWRNORM); }
    void everything() { queue.notify(~0u, ~0u); }
};

}  // namespace casemate::sentry
