// PodNetwork: the network namespace that config.json names, taken over for the guest kernel: its links' addresses,
// routes, neighbours and sizes are read and handed to the guest together with a packet socket per link.
//
// The host's kernel must not answer for the addresses beside the guest (ARP, resets): what comes in by the links is
// kept from it by a wall (host/ingress_wall.h) that goes with this process, however it ends. Where the host has no
// nf_tables for that, the addresses are removed from the links instead, and put back when the pod ends; after a kill -9
// of the sandbox host they are then missing, and whoever made the namespace (CNI, Podman) removes it anyway.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/guest_client.h"
#include "host/ingress_wall.h"
#include "host/route_socket.h"

namespace casemate::sandbox {

namespace guest = ::casemate::guest::v1;

// Tells the guest of the calling thread's network namespace, which is the host's own (host network mode), what there is
// to be seen. As it is now: later changes are not followed.
void show_host_network(guest_api::GuestClient& guest);

class PodNetwork {
  public:
    // Of the calling thread's network namespace. EBUSY: another pod has it.
    static Result<std::unique_ptr<PodNetwork>> take();
    ~PodNetwork() { give_back(); }

    // Takes the links from the host's kernel and gives everything to the guest.
    Result<void> hand_over(guest_api::GuestClient& guest);
    void give_back();

  private:
    friend void show_host_network(guest_api::GuestClient& guest);
    explicit PodNetwork(host::RouteSocket routes) : routes_(std::move(routes)) {}
    // `only_seen`: of the host's own network, with all its links and nothing taken.
    Result<void> read(bool only_seen);
    Result<void> take_links();

    UniqueFd claim_;  // the socket by whose name other pods see that this namespace has one
    host::RouteSocket routes_;
    guest::UpdateNetworkRequest request_;
    std::vector<UniqueFd> sockets_;                            // of request_.interfaces
    std::vector<host::RouteMessage> addresses_, route_table_;  // as they were
    bool removed_ = false;
    std::optional<host::IngressWall> wall_;
};

}  // namespace casemate::sandbox
