#include "rpc/server.h"

#include <fmt/core.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <unordered_map>
#include <vector>

#include "base/log.h"
#include "rpc/server_connection.h"

namespace casemate::rpc {

namespace {

using Clock = std::chrono::steady_clock;
using Connections = std::vector<std::shared_ptr<ServerConnection>>;

struct Work {
    const Handler* handler;
    Call call;
};

}  // namespace

struct Server::State {
    State(Options opts, std::shared_ptr<Waker> w) : options(std::move(opts)), waker(std::move(w)) {}

    const Options options;
    const std::shared_ptr<Waker> waker;
    std::atomic<bool> stopping{false};
    std::unordered_map<std::string, std::unordered_map<std::string, Handler>> services;  // immutable in run()

    struct Arrivals {
        std::vector<UniqueFd> connections;
        std::vector<UniqueFd> listeners;
    };
    Guarded<Arrivals> arrivals;  // taken up by the thread in run()

    // The thread in run() alone.
    Connections connections;
    std::vector<UniqueFd> listeners;
    Clock::time_point accept_after{};  // out of descriptors: no accept before this

    std::mutex work_mutex;
    std::condition_variable work_ready;
    std::deque<Work> work;    // guarded by work_mutex
    bool work_ended = false;  // guarded by work_mutex

    void take_arrivals();
    void add(UniqueFd fd);
    void accept_from(int listener);
    void on_frame(const std::shared_ptr<ServerConnection>& connection, Frame&& frame);
    void dispatch(const Handler& handler, Call call);
    void work_loop();
    void serve_ready(const std::vector<pollfd>& fds);
    void poll_once();
    void flush_all();
    Result<void> run();
};

void Server::State::add(UniqueFd fd) {
    connections.push_back(
        std::make_shared<ServerConnection>(std::move(fd), options.max_payload, options.max_queued, waker));
}

void Server::State::take_arrivals() {
    Arrivals taken = std::exchange(*arrivals.lock(), {});
    for (UniqueFd& fd : taken.connections) add(std::move(fd));
    for (UniqueFd& fd : taken.listeners) listeners.push_back(std::move(fd));
}

void Server::State::accept_from(int listener) {
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
        // Out of descriptors or memory the listener stays readable: wait instead of spinning.
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            log::warning("rpc server: accept: {}", strerrordesc_np(errno));
            accept_after = Clock::now() + std::chrono::milliseconds(100);
        }
        return;
    }
    if (options.admit && !options.admit(fd.get())) return;
    add(std::move(fd));
}

void Server::State::dispatch(const Handler& handler, Call call) {
    if (options.workers == 0) return handler(std::move(call));
    {
        std::lock_guard lock(work_mutex);
        work.push_back({&handler, std::move(call)});
    }
    work_ready.notify_one();
}

void Server::State::work_loop() {
    for (;;) {
        std::unique_lock lock(work_mutex);
        work_ready.wait(lock, [this] { return work_ended || !work.empty(); });
        if (work_ended) return;
        Work next = std::move(work.front());
        work.pop_front();
        lock.unlock();
        (*next.handler)(std::move(next.call));
    }
}

// Answers as Go's server does, so that its clients see the same codes.
void Server::State::on_frame(const std::shared_ptr<ServerConnection>& connection, Frame&& frame) {
    uint32_t stream = frame.header.stream;
    auto refuse = [&](Code code, std::string message) {
        connection->send_response(stream, Status(code, std::move(message)), {});
    };
    if (frame.oversize)
        return refuse(Code::kResourceExhausted, fmt::format("message length {} exceeds the maximum message size of {}",
                                                            frame.header.length, options.max_payload));
    if (stream % 2 != 1) return refuse(Code::kInvalidArgument, "a stream id that a client chooses must be odd");
    if (frame.header.type == kData) {
        if (connection->calls.lock()->count(stream) == 0)
            refuse(Code::kInvalidArgument, "the stream is not active (any more)");
        return;
    }
    if (frame.header.type != kRequest) return;  // later versions of the protocol may send more
    if (stream <= connection->last_stream)
        return refuse(Code::kInvalidArgument, "a stream id must not be used again, and must rise");
    connection->last_stream = stream;

    auto request = decode_request(frame.payload);
    frame.payload = std::string();
    if (!request) return refuse(Code::kInvalidArgument, "the request is not a ttrpc request message");
    auto service = services.find(request->service);
    if (service == services.end())
        return refuse(Code::kUnimplemented, fmt::format("service {} is not known", request->service));
    auto method = service->second.find(request->method);
    if (method == service->second.end())
        return refuse(Code::kUnimplemented,
                      fmt::format("method {} of service {} is not known", request->method, request->service));

    std::optional<Clock::time_point> deadline;
    auto now = Clock::now();
    if (request->timeout.count() > 0 && request->timeout < Clock::time_point::max() - now)
        deadline = now + request->timeout;
    {
        auto calls = connection->calls.lock();
        if (calls->size() >= options.max_calls) {
            calls.unique_lock().unlock();
            return refuse(Code::kResourceExhausted, fmt::format("{} calls are in flight", options.max_calls));
        }
        calls->emplace(stream, deadline);
    }
    dispatch(method->second,
             Call{std::move(request->payload), std::move(request->metadata), deadline, Responder(connection, stream)});
}

void Server::State::serve_ready(const std::vector<pollfd>& fds) {
    // fds: waker, then the connections, then the listeners, as they were before this round accepted any.
    size_t next = 1;
    size_t polled = connections.size();
    for (size_t i = 0; i < polled; i++, next++) {
        short events = fds[next].revents;
        auto connection = connections[i];  // a handler may add connections
        bool alive = (events & POLLOUT) == 0 || connection->connection.flush();
        if (alive && (events & (POLLIN | POLLHUP | POLLERR | POLLNVAL)) != 0)
            alive = connection->connection.receive([&](Frame&& frame) { on_frame(connection, std::move(frame)); });
        if (alive) continue;
        connection->connection.close();
        connection->calls.lock()->clear();
    }
    for (size_t i = 0; next < fds.size(); i++, next++)
        if (fds[next].revents != 0) accept_from(listeners[i].get());

    for (size_t i = connections.size(); i-- > 0;) {
        if (connections[i]->connection.open()) continue;
        connections.erase(connections.begin() + static_cast<ptrdiff_t>(i));
        if (options.on_disconnect) options.on_disconnect(connections.size());
    }
}

void Server::State::poll_once() {
    take_arrivals();
    auto now = Clock::now();
    std::optional<Clock::time_point> wake_at;
    auto wake_by = [&](Clock::time_point when) { wake_at = wake_at ? std::min(*wake_at, when) : when; };
    std::vector<pollfd> fds;
    fds.push_back({waker->fd(), POLLIN, 0});
    for (const auto& connection : connections) {
        if (auto nearest = connection->expire()) wake_by(*nearest);
        short events = POLLIN;
        if (connection->connection.output_pending()) events |= POLLOUT;
        fds.push_back({connection->connection.fd(), events, 0});
    }
    bool accepting = connections.size() < options.max_connections && now >= accept_after;
    if (accepting)
        for (const UniqueFd& listener : listeners) fds.push_back({listener.get(), POLLIN, 0});
    else if (now < accept_after)
        wake_by(accept_after);

    int timeout = -1;
    if (wake_at) {
        auto left = std::chrono::ceil<std::chrono::milliseconds>(*wake_at - Clock::now()).count();
        timeout = static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
    }
    if (::poll(fds.data(), fds.size(), timeout) < 0) return;  // EINTR; ENOMEM is tried again
    if (fds[0].revents != 0) waker->drain();
    if (!stopping) serve_ready(fds);
}

// The last answers (that to "shut down" above all) leave if the peers take them within a second.
void Server::State::flush_all() {
    auto end = Clock::now() + std::chrono::seconds(1);
    for (const auto& connection : connections) {
        while (connection->connection.output_pending() && Clock::now() < end) {
            pollfd fd{connection->connection.fd(), POLLOUT, 0};
            ::poll(&fd, 1, 100);
            if (fd.revents != 0 && !connection->connection.flush()) break;
        }
        connection->connection.close();
        connection->calls.lock()->clear();
    }
}

Result<void> Server::State::run() {
    std::vector<pthread_t> threads;
    int error = 0;
    for (unsigned i = 0; i < options.workers && error == 0; i++) {
        pthread_t thread;
        error = ::pthread_create(
            &thread, nullptr,
            [](void* argument) -> void* {
                static_cast<State*>(argument)->work_loop();
                return nullptr;
            },
            this);
        if (error == 0) threads.push_back(thread);
    }
    while (error == 0 && !stopping) poll_once();
    {
        std::lock_guard lock(work_mutex);
        work_ended = true;
    }
    work_ready.notify_all();
    for (pthread_t thread : threads) ::pthread_join(thread, nullptr);
    work.clear();
    flush_all();
    connections.clear();
    listeners.clear();
    if (error != 0) return sys_error("rpc server: create a thread", error);
    return {};
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::create(Options options) {
    auto waker = Waker::create();
    if (!waker.ok()) return sys_error("eventfd", waker.error().value);
    auto state = std::make_unique<State>(std::move(options), std::make_shared<Waker>(waker.take_value()));
    return std::unique_ptr<Server>(new Server(std::move(state)));
}

void Server::handle(std::string_view service, std::string_view method, Handler handler) {
    state_->services[std::string(service)][std::string(method)] = std::move(handler);
}

void Server::add_connection(UniqueFd socket) {
    state_->arrivals.lock()->connections.push_back(std::move(socket));
    state_->waker->wake();
}

void Server::add_listener(UniqueFd listener) {
    state_->arrivals.lock()->listeners.push_back(std::move(listener));
    state_->waker->wake();
}

Result<void> Server::run() { return state_->run(); }

void Server::stop() {
    state_->stopping = true;
    state_->waker->wake();
}

}  // namespace casemate::rpc
