// NetlinkHub: what the netlink sockets of a network namespace share: who has which port, who listens to which group;
// and the messages about changes of the interface model, which go to those groups.
//
// Locks: a socket's mutex may be held when mutex_ is taken, not the other way round. Changes arrive under the model's
// change lock, which is outside of both.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/ref.h"
#include "sentry/net/interfaces.h"
#include "sentry/net/netlink/message.h"

namespace casemate::sentry {

class NetlinkSocket;

class NetlinkHub {
  public:
    explicit NetlinkHub(Interfaces& interfaces);
    ~NetlinkHub();

    // False: the port is taken.
    bool claim(NetlinkSocket& socket, uint32_t port);
    void release(NetlinkSocket& socket);
    Ref<NetlinkSocket> find(int protocol, uint32_t port);
    // To all that listen to `group`, but the one at `except` (0: nobody is left out).
    void broadcast(int protocol, uint32_t group, const NetlinkBytes& bytes, uint32_t sender_port, uint32_t except);
    void for_each(const std::function<void(NetlinkSocket&)>& visit);

    // Who asks for the change that this thread is making: its messages carry his port and sequence.
    struct Origin {
        uint32_t port = 0, sequence = 0;
        NetlinkSocket* echo = nullptr;  // NLM_F_ECHO: wants them himself
    };
    class AsOrigin {
      public:
        explicit AsOrigin(Origin origin);
        ~AsOrigin();

      private:
        Origin before_;
    };

  private:
    void tell(const InterfaceChange& change);

    Interfaces& interfaces_;
    int listener_;
    std::mutex mutex_;
    std::map<std::pair<int, uint32_t>, NetlinkSocket*> sockets_;  // by protocol and port; guarded by mutex_
};

}  // namespace casemate::sentry
