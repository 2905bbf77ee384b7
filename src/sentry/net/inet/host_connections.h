// HostConnections: TCP connections that begin on the host's side of the pod's network namespace and end at a listener
// of the pod: what dials 127.0.0.1 there (kubectl port-forward). The sandbox host accepts them and passes the
// descriptors; here their bytes go on to a loopback connection, and back.
//
// One thread moves the bytes of all of them, without ever waiting for one: what either end does not take stays in a
// buffer per direction, and then no more is read. The end of each direction is passed on, and so are resets: the sandbox
// host has set its sockets so that a close before both ends is one (SO_LINGER). Thread-safe. Trusts nothing that comes over the sockets: it is not looked at.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "sentry/net/inet/tcp_socket.h"

namespace casemate::sentry {

class HostConnections {
  public:
    static constexpr size_t kMost = 128;  // at once

    HostConnections();
    ~HostConnections();
    // `host`: connected, non-blocking. EMFILE: there are too many. ECONNREFUSED: nobody listens at `peer`.
    SysResult<void> add(UniqueFd host, Ref<Network> network, const InetEndpoint& peer);

  private:
    class Doorbell;
    class Pump;

    SysResult<void> start_locked();
    void run();

    std::mutex mutex_;
    std::unique_ptr<Doorbell> bell_;              // made once; with it the thread
    std::vector<std::unique_ptr<Pump>> arrived_;  // guarded by mutex_; the thread takes them
    std::atomic<size_t> count_{0};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

}  // namespace casemate::sentry
