// PortMirror: what dials 127.0.0.1, ::1 or the pod's own address on the host's side of the pod's network namespace
// (kubectl port-forward, Podman's port handler without root), or sends datagrams to its loopback, gets to the pod's
// listener or UDP socket on that port: for each of them there is one here, in the namespace, and what it accepts is
// passed to the guest kernel as a descriptor, of UDP a socket for each peer
// (docs/decisions/0006-ports-on-the-hosts-loopback.md).
//
// It only takes what the namespace sends itself, and only accepts: the pod gets no way to connect to anything by it,
// since no socket that it is given can be connected again. What the guest kernel tells is hostile: ports are checked
// and bounded in number, and it is asked at most some times a second. All of it runs on the loop's thread, which is in
// the namespace, but handing over a connection, which may have to wait for the guest kernel. Everything ends with the
// process.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "guest_api/guest_client.h"
#include "linux/event_loop.h"

namespace casemate::sandbox {

namespace guest = ::casemate::guest::v1;

class PortMirror {
  public:
    // Both outlive it. On the loop's thread.
    PortMirror(linux::EventLoop& loop, guest_api::GuestClient& guest) : loop_(loop), guest_(guest) {}
    ~PortMirror();
    void start() { ask(0); }

  private:
    struct Port {
        uint16_t number;
        bool v6, datagrams;
        bool any;  // by every address of the namespace, not its loopback alone
        friend auto operator<=>(const Port&, const Port&) = default;
    };
    void ask(uint64_t generation);
    void update(const guest::GetListenersReply& reply);
    void open(Port port);
    void accept(Port port, int listener);
    void accept_datagrams(Port port, int listener);
    void hand_over(Port port, UniqueFd socket, std::vector<std::string> first);

    linux::EventLoop& loop_;
    guest_api::GuestClient& guest_;
    std::map<Port, UniqueFd> listeners_;
    std::shared_ptr<std::atomic<unsigned>> handing_over_ = std::make_shared<std::atomic<unsigned>>(0);
};

}  // namespace casemate::sandbox
