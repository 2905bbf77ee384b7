// What the server keeps per connection: the socket and the calls in flight. Shared with the Responders, which may
// outlive the server; whoever removes a call from the table answers it, so each call is answered once.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>

#include "base/guarded.h"
#include "rpc/connection.h"
#include "rpc/message.h"
#include "rpc/waker.h"

namespace casemate::rpc {

struct ServerConnection {
    using Deadline = std::optional<std::chrono::steady_clock::time_point>;

    ServerConnection(UniqueFd fd, size_t max_payload, size_t max_queued, std::shared_ptr<Waker> server_waker)
        : connection(std::move(fd), max_payload, max_queued),
          max_response(std::min(max_payload, kMaxPayload)),
          waker(std::move(server_waker)) {}

    Connection connection;
    const size_t max_response;
    const std::shared_ptr<Waker> waker;
    uint32_t last_stream = 0;                     // the reading thread's
    Guarded<std::map<uint32_t, Deadline>> calls;  // in flight

    // Answers a call that is in flight. False: it is not (any more).
    bool finish(uint32_t stream, const Status& status, std::string_view payload);
    void send_response(uint32_t stream, const Status& status, std::string_view payload);
    // Answers the calls whose time is up; the nearest deadline that is left.
    Deadline expire();
};

}  // namespace casemate::rpc
