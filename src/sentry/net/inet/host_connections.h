// HostConnections: what begins on the host's side of the pod's network namespace and ends at a socket of the pod: what
// dials 127.0.0.1 there (kubectl port-forward), or sends datagrams to it. The sandbox host accepts TCP connections,
// makes a connected socket for each UDP peer, and passes the descriptors; here their bytes go on to a socket on the
// pod's loopback, and back.
//
// One thread moves the bytes of all of them, without ever waiting for one: what either end does not take stays in a
// buffer per direction, and then no more is read. The end of each direction is passed on, and so are resets: the
// sandbox host has set its sockets so that a close before both ends is one (SO_LINGER). UDP peers that are silent are
// forgotten (host_datagrams.h), where there are too many the one that has been for longest. Thread-safe. Trusts nothing
// that comes over the sockets: it is not looked at.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "sentry/net/inet/host_passage.h"
#include "sentry/net/inet/tcp_socket.h"

namespace casemate::sentry {

class HostConnections {
  public:
    static constexpr size_t kMost = 128;       // connections at once
    static constexpr size_t kMostPeers = 256;  // UDP

    HostConnections();
    ~HostConnections();
    // `host`: connected, non-blocking. EMFILE: there are too many. ECONNREFUSED: nobody listens at `peer`.
    SysResult<void> add(UniqueFd host, Ref<Network> network, const InetEndpoint& peer);
    // `host`: a connected UDP socket, non-blocking; `first`: what came before it was there. EMFILE: too many at a time.
    SysResult<void> add_datagrams(UniqueFd host, Ref<Network> network, const InetEndpoint& peer,
                                  std::vector<std::string> first);

  private:
    class Pump;

    SysResult<void> start_locked();
    void run();
    static void forget_old_peers(std::vector<std::unique_ptr<HostPassage>>& passages);

    std::mutex mutex_;
    std::unique_ptr<Doorbell> bell_;                     // made once; with it the thread
    std::vector<std::unique_ptr<HostPassage>> arrived_;  // guarded by mutex_; the thread takes them
    std::atomic<size_t> count_{0};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace casemate::sentry
