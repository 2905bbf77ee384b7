// Which groups a socket has joined, on which links, and from which sources it takes them.
#pragma once

#include <optional>
#include <vector>

#include "base/result.h"
#include "sentry/net/inet/endpoint.h"
#include "sentry/vfs/small_mutex.h"

namespace casemate::sentry {

class Network;

class Memberships {
  public:
    explicit Memberships(Network& network) : network_(network) {}
    ~Memberships() { leave_all(); }

    // EADDRINUSE: joined already; ENOBUFS: too many. `source`: from this one only (and those joined so before).
    SysResult<void> join(const InetAddress& group, int link, const std::optional<InetAddress>& source);
    // EADDRNOTAVAIL: not joined (or not from this source); EINVAL: of the other kind.
    SysResult<void> leave(const InetAddress& group, int link, const std::optional<InetAddress>& source);
    // Of a group that is taken from everybody: not from this source (any more, or again).
    SysResult<void> block(const InetAddress& group, int link, const InetAddress& source, bool on);
    void leave_all();
    // `all`: what a group that was not joined counts as (IP_MULTICAST_ALL).
    bool accepts(const InetAddress& group, const InetAddress& source, int link, bool all) const;

  private:
    struct Joined {
        InetAddress group;
        int link;
        bool only;  // from `sources` only; else from all but these
        std::vector<InetAddress> sources;
    };
    std::vector<Joined>::iterator find_locked(const InetAddress& group, int link);

    Network& network_;
    mutable SmallMutex mutex_;
    std::vector<Joined> joined_;  // guarded by mutex_
};

}  // namespace casemate::sentry
