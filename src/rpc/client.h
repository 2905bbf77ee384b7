// A ttrpc client: many calls in flight over one connection, from any thread.
//
//   auto client = TRY(Client::create(TRY(connect_to("unix:///run/x.sock"))));
//   CallResult result = client->call("casemate.guest.v1.Guest", "GetVersion", payload, {.timeout = 5s});
//   client->call_async(service, "WaitProcess", payload, {}, [](CallResult result) { ... });
//
// One thread of its own reads; callbacks run on it, must not block, and must not make synchronous calls or destroy the
// client (CHECKed). The peer is hostile: answers to calls that nobody waits for are dropped, garbage ends the
// connection, and a peer that stops reading or answering delays only calls without a time-out.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rpc/message.h"

namespace casemate::rpc {

struct CallOptions {
    std::chrono::nanoseconds timeout{0};  // 0: none. Told to the server too
    Metadata metadata = {};
};

class Client {
  public:
    using Callback = std::function<void(CallResult)>;
    struct Options {
        size_t max_payload = 4 << 20;
        size_t max_calls = 4096;       // in flight; more are refused with kResourceExhausted
        size_t max_queued = 16 << 20;  // bytes that the peer has not read
        // Called once, on the reading thread, when the peer is gone. The calls in flight have failed before.
        std::function<void()> on_close = {};
    };

    static Result<std::unique_ptr<Client>> create(UniqueFd socket, Options options);
    static Result<std::unique_ptr<Client>> create(UniqueFd socket) { return create(std::move(socket), Options{}); }
    // Calls in flight fail with kCancelled; on_close is not called any more.
    ~Client();
    Client(const Client&) = delete;
    Client& operator=(const Client&) = delete;

    // A lost connection is kUnavailable, a time-out kDeadlineExceeded; late answers are dropped.
    CallResult call(std::string_view service, std::string_view method, std::string payload, CallOptions options = {});
    // The callback runs exactly once: on the reading thread, or at once on this one where the call cannot be sent.
    void call_async(std::string_view service, std::string_view method, std::string payload, CallOptions options,
                    Callback callback);
    bool closed() const;

  private:
    struct State;
    explicit Client(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace casemate::rpc
