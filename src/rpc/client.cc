#include "rpc/client.h"

#include <fmt/core.h>
#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

#include "base/log.h"
#include "rpc/connection.h"
#include "rpc/waker.h"

namespace casemate::rpc {

namespace {

using Clock = std::chrono::steady_clock;

// Never later than the clock can say.
std::optional<Clock::time_point> deadline_after(std::chrono::nanoseconds timeout) {
    if (timeout.count() <= 0) return std::nullopt;
    auto now = Clock::now();
    if (timeout > Clock::time_point::max() - now) return std::nullopt;
    return now + timeout;
}

int poll_timeout(std::optional<Clock::time_point> deadline) {
    if (!deadline) return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 3'600'000));
}

struct PendingCall {
    Client::Callback callback;
    std::optional<Clock::time_point> deadline;  // the reading thread's business; none for synchronous calls
};

}  // namespace

// Lock order: send_mutex (stream ids go up on the wire) -> mutex.
struct Client::State {
    State(UniqueFd socket, Options opts, Waker w)
        : options(std::move(opts)),
          connection(std::move(socket), options.max_payload, options.max_queued),
          waker(std::move(w)) {}

    const Options options;
    Connection connection;
    Waker waker;
    pthread_t reader{};
    std::atomic<bool> stopping{false};

    std::mutex send_mutex;
    uint64_t next_stream = 1;  // guarded by send_mutex

    mutable std::mutex mutex;
    bool closed = false;                      // guarded by mutex
    std::map<uint32_t, PendingCall> pending;  // guarded by mutex

    // Registers the call and sends it. On failure the callback is not called.
    Status begin(RequestMessage request, PendingCall call, uint32_t* stream);
    std::optional<PendingCall> take(uint32_t stream);
    void on_frame(Frame&& frame);
    void fail_all(Code code, const char* why);
    std::optional<Clock::time_point> expire();
    void read_loop();
};

Status Client::State::begin(RequestMessage request, PendingCall call, uint32_t* stream_out) {
    std::string bytes = encode_request(request);
    if (bytes.size() > std::min(options.max_payload, kMaxPayload))
        return Status(Code::kResourceExhausted, fmt::format("{}: the request has {} bytes, more than the limit of {}",
                                                            request.method, bytes.size(), options.max_payload));
    bool timed = call.deadline.has_value();
    Connection::Sent sent;
    {
        std::lock_guard send_lock(send_mutex);
        if (next_stream > UINT32_MAX) return Status(Code::kUnavailable, "the connection is used up");
        auto stream = static_cast<uint32_t>(next_stream);
        {
            std::lock_guard lock(mutex);
            if (closed) return Status(Code::kUnavailable, "the connection is closed");
            if (pending.size() >= options.max_calls)
                return Status(Code::kResourceExhausted, fmt::format("{} calls are in flight", pending.size()));
            pending.emplace(stream, std::move(call));
        }
        *stream_out = stream;
        sent = connection.send(stream, kRequest, bytes);
        if (sent != Connection::Sent::kFull) next_stream += 2;
    }
    if (sent == Connection::Sent::kDone || sent == Connection::Sent::kQueued) {
        if (timed || sent == Connection::Sent::kQueued) waker.wake();
        return Status();
    }
    // The reading thread may have failed the call already, with its callback: then it has been answered.
    if (!take(*stream_out)) return Status();
    if (sent == Connection::Sent::kFull) return Status(Code::kResourceExhausted, "the peer does not read its requests");
    connection.abort();
    return Status(Code::kUnavailable, "the connection is closed");
}

std::optional<PendingCall> Client::State::take(uint32_t stream) {
    std::lock_guard lock(mutex);
    auto found = pending.find(stream);
    if (found == pending.end()) return std::nullopt;
    PendingCall call = std::move(found->second);
    pending.erase(found);
    return call;
}

void Client::State::on_frame(Frame&& frame) {
    if (frame.header.type != kResponse) return;  // later versions of the protocol may send more
    auto call = take(frame.header.stream);
    if (!call) return;
    if (frame.oversize) {
        Status status(Code::kResourceExhausted, fmt::format("the response has {} bytes, more than the limit of {}",
                                                            frame.header.length, options.max_payload));
        call->callback(CallResult{std::move(status), {}});
        return;
    }
    call->callback(decode_response(frame.payload));
}

void Client::State::fail_all(Code code, const char* why) {
    std::map<uint32_t, PendingCall> failed;
    {
        std::lock_guard lock(mutex);
        closed = true;
        failed.swap(pending);
    }
    for (auto& [stream, call] : failed) call.callback(CallResult{Status(code, why), {}});
}

// Fails what is past its deadline; the nearest deadline that is left.
std::optional<Clock::time_point> Client::State::expire() {
    std::vector<PendingCall> late;
    std::optional<Clock::time_point> nearest;
    {
        std::lock_guard lock(mutex);
        auto now = Clock::now();
        for (auto it = pending.begin(); it != pending.end();) {
            const auto& deadline = it->second.deadline;
            if (deadline && *deadline <= now) {
                late.push_back(std::move(it->second));
                it = pending.erase(it);
                continue;
            }
            if (deadline && (!nearest || *deadline < *nearest)) nearest = deadline;
            ++it;
        }
    }
    for (PendingCall& call : late) call.callback(CallResult{Status(Code::kDeadlineExceeded, "the call timed out"), {}});
    return nearest;
}

void Client::State::read_loop() {
    while (!stopping) {
        auto nearest = expire();
        short events = POLLIN;
        if (connection.output_pending()) events |= POLLOUT;
        pollfd fds[2] = {{waker.fd(), POLLIN, 0}, {connection.fd(), events, 0}};
        if (::poll(fds, 2, poll_timeout(nearest)) < 0 && errno != EINTR) {
            log::error("rpc client: poll: {}", strerrordesc_np(errno));
            break;
        }
        if (fds[0].revents != 0) waker.drain();
        if (stopping) break;
        if ((fds[1].revents & POLLOUT) != 0 && !connection.flush()) break;
        if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0 &&
            !connection.receive([this](Frame&& frame) { on_frame(std::move(frame)); }))
            break;
    }
    connection.close();
    if (stopping) {
        fail_all(Code::kCancelled, "the client was closed");
        return;
    }
    fail_all(Code::kUnavailable, "the connection was closed by the peer");
    if (options.on_close) options.on_close();
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Client>> Client::create(UniqueFd socket, Options options) {
    auto waker = Waker::create();
    if (!waker.ok()) return sys_error("eventfd", waker.error().value);
    auto state = std::make_unique<State>(std::move(socket), std::move(options), waker.take_value());
    State* borrowed = state.get();
    int error = ::pthread_create(
        &borrowed->reader, nullptr,
        [](void* argument) -> void* {
            static_cast<State*>(argument)->read_loop();
            return nullptr;
        },
        borrowed);
    if (error != 0) return sys_error("rpc client: create a thread", error);
    return std::unique_ptr<Client>(new Client(std::move(state)));
}

Client::~Client() {
    CHECK(::pthread_equal(::pthread_self(), state_->reader) == 0);
    state_->stopping = true;
    state_->waker.wake();
    ::pthread_join(state_->reader, nullptr);
}

void Client::call_async(std::string_view service, std::string_view method, std::string payload, CallOptions options,
                        Callback callback) {
    RequestMessage request{std::string(service), std::string(method), std::move(payload), options.timeout,
                           std::move(options.metadata)};
    uint32_t stream = 0;
    Status status = state_->begin(std::move(request), {callback, deadline_after(options.timeout)}, &stream);
    if (!status.ok()) callback(CallResult{std::move(status), {}});
}

CallResult Client::call(std::string_view service, std::string_view method, std::string payload, CallOptions options) {
    CHECK(::pthread_equal(::pthread_self(), state_->reader) == 0);
    // Guarded by `mutex`; on the stack because the callback runs before this function returns, or never.
    struct Slot {
        std::mutex mutex;
        std::condition_variable ready;
        std::optional<CallResult> result;
    } slot;
    auto callback = [&slot](CallResult result) {
        std::lock_guard lock(slot.mutex);
        slot.result = std::move(result);
        slot.ready.notify_one();
    };
    RequestMessage request{std::string(service), std::string(method), std::move(payload), options.timeout,
                           std::move(options.metadata)};
    uint32_t stream = 0;
    auto deadline = deadline_after(options.timeout);
    Status status = state_->begin(std::move(request), {callback, std::nullopt}, &stream);
    if (!status.ok()) return CallResult{std::move(status), {}};

    std::unique_lock lock(slot.mutex);
    auto answered = [&slot] { return slot.result.has_value(); };
    if (deadline && !slot.ready.wait_until(lock, *deadline, answered)) {
        lock.unlock();
        if (state_->take(stream)) return CallResult{Status(Code::kDeadlineExceeded, "the call timed out"), {}};
        lock.lock();  // the answer is being delivered
    }
    slot.ready.wait(lock, answered);
    return std::move(*slot.result);
}

bool Client::closed() const {
    std::lock_guard lock(state_->mutex);
    return state_->closed;
}

}  // namespace casemate::rpc
