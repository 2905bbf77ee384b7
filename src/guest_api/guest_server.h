// Serves the guest API inside a guest kernel, on one inherited connection.
//
// create() before the jail closes, run() in it: rpc/server.h lists the syscalls; the descriptor channel adds none.
#pragma once

#include <memory>

#include "base/result.h"
#include "base/unique_fd.h"
#include "guest_api/guest_service.h"

namespace casemate::guest_api {

class GuestServer {
  public:
    // `service` and what it refers to outlive the server. `workers`: threads for the service's functions; with 0 they
    // run one after another on the thread in run(), and need no locks among themselves.
    static Result<std::unique_ptr<GuestServer>> create(GuestService& service, UniqueFd connection,
                                                       std::unique_ptr<StreamSource> streams, unsigned workers = 0);
    // Until stop(), or until the host is gone (its end of the connection is closed): a guest kernel then ends.
    Result<void> run();
    // Any thread, also from a function of the service: run() returns once the answers given have left.
    void stop();

  private:
    GuestServer(std::unique_ptr<rpc::Server> server, std::unique_ptr<StreamSource> streams)
        : streams_(std::move(streams)), server_(std::move(server)) {}

    std::unique_ptr<StreamSource> streams_;
    std::unique_ptr<rpc::Server> server_;
};

// create() and run(), with the descriptor channel of the sentry.
Result<void> serve(GuestService& service, UniqueFd connection, UniqueFd descriptor_channel, unsigned workers = 0);

}  // namespace casemate::guest_api
