// A ttrpc server: unary methods over any number of connections, with answers that may come later from any thread.
//
//   auto server = TRY(Server::create());
//   server->handle("svc.v1.Thing", "Wait", [](Call call) { waiters.push_back(std::move(call.responder)); });
//   server->add_connection(std::move(socket));       // or add_listener(TRY(listen_on("unix:///run/x.sock")))
//   TRY(server->run());                              // until stop()
//
// One thread, the caller of run(), reads and polls; handlers run on it, or on `workers` threads. A handler that has to
// wait keeps the call's Responder and returns: a thousand waiting calls cost a thousand map entries, no thread.
//
// Clients are hostile. Stream ids must be odd and rise; calls in flight, bytes unread and connections are bounded;
// what is wrong with one call is answered on that call, and what breaks the framing ends that connection only.
// After create() the syscalls are poll, recvmsg, sendmsg, read and write of an eventfd, close, shutdown, futex, and
// accept4 with listeners.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"
#include "rpc/message.h"

namespace casemate::rpc {

struct ServerConnection;

// The one answer to a call. Movable; any thread; outlives the server and the connection. Dropped without an answer, it
// answers kInternal.
class Responder {
  public:
    Responder(std::shared_ptr<ServerConnection> connection, uint32_t stream)
        : connection_(std::move(connection)), stream_(stream) {}
    Responder(Responder&&) noexcept = default;
    Responder& operator=(Responder&& other) noexcept;
    ~Responder();

    // False: nobody waits for it any more (time-out, connection closed).
    bool respond(std::string_view payload) { return finish(Status(), payload); }
    bool fail(const Status& status) { return finish(status, {}); }
    // Whether the call still waits. May change at once.
    bool wanted() const;

  private:
    bool finish(const Status& status, std::string_view payload);
    std::shared_ptr<ServerConnection> connection_;
    uint32_t stream_;
};

struct Call {
    std::string payload;
    Metadata metadata;
    std::optional<std::chrono::steady_clock::time_point> deadline;  // the server answers kDeadlineExceeded then
    Responder responder;
};

using Handler = std::function<void(Call)>;

class Server {
  public:
    struct Options {
        unsigned workers = 0;  // threads for handlers; 0: the thread in run()
        size_t max_payload = 4 << 20;
        size_t max_queued = 16 << 20;  // bytes of answers a client has not read, before it is cut off
        size_t max_connections = 64;   // accepted from listeners; more wait in the backlog
        size_t max_calls = 1024;       // in flight on one connection; more are answered kResourceExhausted
        // Asked about each accepted socket (SO_PEERCRED and the like); false closes it.
        std::function<bool(int fd)> admit = {};
        // A connection is gone (end of file or cut off), on the thread in run().
        std::function<void(size_t connections_left)> on_disconnect = {};
    };

    static Result<std::unique_ptr<Server>> create(Options options);
    static Result<std::unique_ptr<Server>> create() { return create(Options{}); }
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    // Before run(). "casemate.guest.v1.Guest", "GetVersion".
    void handle(std::string_view service, std::string_view method, Handler handler);

    // Any time, any thread.
    void add_connection(UniqueFd socket);
    void add_listener(UniqueFd listener);

    // Serves until stop(). Before it returns, answers already given are sent if the peers take them within a second,
    // and the connections are closed.
    Result<void> run();
    void stop();

  private:
    struct State;
    explicit Server(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace casemate::rpc
