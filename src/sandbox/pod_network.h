// PodNetwork: the network namespace that config.json names, taken over for the guest kernel: its links' addresses,
// routes, neighbours and sizes are read and handed to the guest together with a packet socket per link.
//
// Then the addresses are removed from the links there: the host's kernel must not answer for them beside the guest
// (ARP, resets). What was removed is kept and put back when the pod ends, so that a namespace that outlives the pod is
// as it was; after a kill -9 of the sandbox host it is not, and whoever made the namespace (CNI, Podman) removes it
// anyway.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/guest_client.h"
#include "host/route_socket.h"

namespace casemate::sandbox {

namespace guest = ::casemate::guest::v1;

class PodNetwork {
  public:
    // Of the calling thread's network namespace. EBUSY: another pod has it.
    static Result<std::unique_ptr<PodNetwork>> take();
    ~PodNetwork() { give_back(); }

    // Removes the addresses here and gives everything to the guest.
    Result<void> hand_over(guest_api::GuestClient& guest);
    void give_back();

  private:
    explicit PodNetwork(host::RouteSocket routes) : routes_(std::move(routes)) {}
    Result<void> read();

    UniqueFd claim_;  // the socket by whose name other pods see that this namespace has one
    host::RouteSocket routes_;
    guest::UpdateNetworkRequest request_;
    std::vector<UniqueFd> sockets_;                            // of request_.interfaces
    std::vector<host::RouteMessage> addresses_, route_table_;  // as they were
    bool removed_ = false;
};

}  // namespace casemate::sandbox
