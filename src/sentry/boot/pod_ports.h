// PodPorts: what reaches the pod by 127.0.0.1 on the host's side of its network namespace (guest.proto, GetListeners
// and ConnectPort): tells which ports are listened on, and takes the connections.
#pragma once

#include <mutex>
#include <vector>

#include "guest_api/guest_service.h"
#include "sentry/kernel/timers.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/net/inet/host_connections.h"

namespace casemate::sentry {

class PodPorts final : private Waiter, private Timer {
  public:
    PodPorts(Ref<Network> network, TimerThread& timers);
    ~PodPorts() override;

    void get_listeners(uint64_t generation, guest_api::Answer<guest_api::v1::GetListenersReply> answer);
    void connect_port(const guest_api::v1::ConnectPortRequest& request, UniqueFd stream,
                      guest_api::Answer<guest_api::v1::ConnectPortReply> answer);

  private:
    struct Asked {
        uint64_t generation;
        guest_api::Answer<guest_api::v1::GetListenersReply> answer;
    };
    uint64_t generation();
    // Whoever changes a table holds locks: the timer's thread answers, a little later.
    bool notified(uint32_t) override;
    void expired() override { answer(); }
    void answer();

    // A waiter is in one queue only.
    class OfDatagrams final : public Waiter {
      public:
        explicit OfDatagrams(PodPorts& ports) : ports_(ports) {}
        bool notified(uint32_t events) override { return ports_.notified(events); }

      private:
        PodPorts& ports_;
    };

    const Ref<Network> network_;
    OfDatagrams of_datagrams_{*this};
    TimerThread& timers_;
    std::mutex mutex_;
    std::vector<Asked> asked_;  // guarded by mutex_
    HostConnections connections_;
};

}  // namespace casemate::sentry
