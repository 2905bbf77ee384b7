// Client against server over a socketpair, and each of them against a peer that misbehaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <atomic>
#include <future>
#include <mutex>
#include <thread>

#include "base/guarded.h"
#include "rpc/client.h"
#include "rpc/frame.h"
#include "rpc/server.h"
#include "rpc/socket.h"

namespace casemate::rpc {
namespace {

using namespace std::chrono_literals;

std::pair<UniqueFd, UniqueFd> socket_pair() {
    int fds[2];
    CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A server with a few methods, on a thread of its own.
class TestServer {
  public:
    explicit TestServer(Server::Options options = {}) {
        server_ = MUST(Server::create(std::move(options)));
        server_->handle("test", "Echo", [](Call call) { call.responder.respond(call.payload); });
        server_->handle("test", "Metadata", [](Call call) {
            std::string text;
            for (auto& [key, value] : call.metadata) text += key + "=" + value + ";";
            call.responder.respond(text);
        });
        server_->handle("test", "NotFound",
                        [](Call call) { call.responder.fail(Status(Code::kNotFound, "nothing here")); });
        server_->handle("test", "Drop", [](Call) {});
        server_->handle("test", "Huge", [](Call call) { call.responder.respond(std::string(5 << 20, 'h')); });
        server_->handle("test", "Large", [](Call call) { call.responder.respond(std::string(3 << 20, 'l')); });
        server_->handle("test", "Wait", [this](Call call) { waiting.lock()->push_back(std::move(call.responder)); });
        thread_ = std::thread([this] { MUST(server_->run()); });
    }
    ~TestServer() {
        server_->stop();
        thread_.join();
    }
    UniqueFd connect() {
        auto [ours, theirs] = socket_pair();
        server_->add_connection(std::move(theirs));
        return std::move(ours);
    }
    std::unique_ptr<Client> client() { return MUST(Client::create(connect())); }
    void await_waiting(size_t count) {
        while (waiting.lock()->size() < count) std::this_thread::yield();
    }
    Server& server() { return *server_; }

    Guarded<std::vector<Responder>> waiting;

  private:
    std::unique_ptr<Server> server_;
    std::thread thread_;
};

// A raw peer: sends bytes, reads frames, one at a time.
class RawPeer {
  public:
    explicit RawPeer(UniqueFd fd) : fd_(std::move(fd)) {}
    void send(std::string_view bytes) {
        while (!bytes.empty()) {
            ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (count <= 0) return;
            bytes.remove_prefix(count);
        }
    }
    void send_frame(uint32_t stream, uint8_t type, std::string_view payload) {
        FrameHeader header{static_cast<uint32_t>(payload.size()), stream, type, 0};
        auto head = header.encode();
        send({head.data(), head.size()});
        send(payload);
    }
    void request(uint32_t stream, std::string method, std::string payload = {}) {
        send_frame(stream, kRequest, encode_request({"test", std::move(method), std::move(payload), {}, {}}));
    }
    // nullopt at end of file.
    std::optional<Frame> read_frame() {
        for (;;) {
            std::string_view view(buffer_);
            auto frame = parser_.consume(view);
            buffer_ = std::string(view);
            if (frame) return frame;
            char chunk[4096];
            ssize_t count = ::recv(fd_.get(), chunk, sizeof(chunk), 0);
            if (count <= 0) return std::nullopt;
            buffer_.assign(chunk, count);
        }
    }
    CallResult read_response(uint32_t stream) {
        auto frame = read_frame();
        if (!frame) return {Status(Code::kUnavailable, "eof"), {}};
        EXPECT_EQ(frame->header.stream, stream);
        EXPECT_EQ(frame->header.type, kResponse);
        return decode_response(frame->payload);
    }
    void close() { fd_.reset(); }
    int fd() const { return fd_.get(); }

  private:
    UniqueFd fd_;
    FrameParser parser_;
    std::string buffer_;
};

TEST(Rpc, EchoAndErrors) {
    TestServer server;
    auto client = server.client();
    EXPECT_EQ(client->call("test", "Echo", "hi").payload, "hi");
    EXPECT_EQ(client->call("test", "Echo", "").payload, "");
    CallResult missing = client->call("test", "NotFound", "");
    EXPECT_EQ(missing.status.code, Code::kNotFound);
    EXPECT_EQ(missing.status.message, "nothing here");
    EXPECT_EQ(client->call("test", "NoSuch", "").status.code, Code::kUnimplemented);
    EXPECT_EQ(client->call("other", "Echo", "").status.code, Code::kUnimplemented);
    EXPECT_EQ(client->call("test", "Drop", "").status.code, Code::kInternal);
    EXPECT_EQ(client->call("test", "Metadata", "", {.metadata = {{"a", "1"}, {"b", "2"}}}).payload, "a=1;b=2;");
}

TEST(Rpc, LargeMessagesBothWays) {
    TestServer server;
    auto client = server.client();
    std::string payload((4 << 20) - 100, 'p');
    EXPECT_EQ(client->call("test", "Echo", payload).payload, payload);
    EXPECT_EQ(client->call("test", "Large", "").payload.size(), size_t(3 << 20));
    EXPECT_EQ(client->call("test", "Echo", std::string(4 << 20, 'p')).status.code, Code::kResourceExhausted);
    EXPECT_EQ(client->call("test", "Huge", "").status.code, Code::kResourceExhausted);
    EXPECT_EQ(client->call("test", "Echo", "still fine").payload, "still fine");
}

TEST(Rpc, ManyThreadsManyCalls) {
    for (unsigned workers : {0u, 3u}) {
        TestServer server({.workers = workers});
        auto client = server.client();
        std::vector<std::thread> threads;
        for (int t = 0; t < 8; t++)
            threads.emplace_back([&, t] {
                for (int i = 0; i < 200; i++) {
                    std::string text = std::to_string(t) + "/" + std::to_string(i);
                    ASSERT_EQ(client->call("test", "Echo", text).payload, text);
                }
            });
        for (auto& thread : threads) thread.join();
    }
}

TEST(Rpc, WaitingCallsBlockNobodyAndAreAnsweredFromAnyThread) {
    TestServer server;
    auto client = server.client();
    std::vector<std::promise<CallResult>> promises(100);
    for (auto& promise : promises)
        client->call_async("test", "Wait", "", {}, [&promise](CallResult r) { promise.set_value(std::move(r)); });
    server.await_waiting(promises.size());
    EXPECT_EQ(client->call("test", "Echo", "meanwhile").payload, "meanwhile");
    std::thread([&] {
        auto waiting = server.waiting.lock();
        for (Responder& responder : *waiting) EXPECT_TRUE(responder.wanted());
        for (size_t i = waiting->size(); i-- > 0;) EXPECT_TRUE((*waiting)[i].respond(std::to_string(i)));
        EXPECT_FALSE((*waiting)[0].respond("twice"));
    }).join();
    for (size_t i = 0; i < promises.size(); i++) EXPECT_EQ(promises[i].get_future().get().payload, std::to_string(i));
}

TEST(Rpc, TimeoutsOnBothSides) {
    TestServer server;
    auto client = server.client();
    EXPECT_EQ(client->call("test", "Wait", "", {.timeout = 30ms}).status.code, Code::kDeadlineExceeded);
    std::promise<CallResult> late;
    client->call_async("test", "Wait", "", {.timeout = 30ms}, [&](CallResult r) { late.set_value(std::move(r)); });
    EXPECT_EQ(late.get_future().get().status.code, Code::kDeadlineExceeded);
    server.await_waiting(2);
    while ((*server.waiting.lock())[0].wanted()) std::this_thread::yield();  // the server's clock too
    EXPECT_FALSE((*server.waiting.lock())[0].respond("late"));
    EXPECT_EQ(client->call("test", "Echo", "in step").payload, "in step");

    // A client that cannot keep time itself gets the server's answer.
    RawPeer raw(server.connect());
    raw.send_frame(1, kRequest, encode_request({"test", "Wait", "", 20ms, {}}));
    EXPECT_EQ(raw.read_response(1).status.code, Code::kDeadlineExceeded);
}

TEST(Rpc, ServerGoneFailsCallsInFlight) {
    std::promise<void> closed;
    std::promise<CallResult> waiting;
    std::unique_ptr<Client> client;
    {
        TestServer server;
        Client::Options options;
        options.on_close = [&] { closed.set_value(); };
        client = MUST(Client::create(server.connect(), std::move(options)));
        client->call_async("test", "Wait", "", {}, [&](CallResult r) { waiting.set_value(std::move(r)); });
        server.await_waiting(1);
    }
    EXPECT_EQ(waiting.get_future().get().status.code, Code::kUnavailable);
    closed.get_future().get();
    EXPECT_TRUE(client->closed());
    EXPECT_EQ(client->call("test", "Echo", "").status.code, Code::kUnavailable);
}

TEST(Rpc, ClosingTheClientFailsCallsInFlight) {
    TestServer server;
    auto client = server.client();
    std::promise<CallResult> waiting;
    client->call_async("test", "Wait", "", {}, [&](CallResult r) { waiting.set_value(std::move(r)); });
    server.await_waiting(1);
    client.reset();
    EXPECT_EQ(waiting.get_future().get().status.code, Code::kCancelled);
    while ((*server.waiting.lock())[0].wanted()) std::this_thread::yield();
}

TEST(RpcServer, AnswersWrongFramesAndStaysInStep) {
    TestServer server;
    RawPeer peer(server.connect());
    peer.request(1, "Echo", "a");
    EXPECT_EQ(peer.read_response(1).payload, "a");
    peer.request(1, "Echo", "again");
    EXPECT_EQ(peer.read_response(1).status.code, Code::kInvalidArgument);
    peer.request(2, "Echo", "even");
    EXPECT_EQ(peer.read_response(2).status.code, Code::kInvalidArgument);
    peer.send_frame(3, kData, "no such stream");
    EXPECT_EQ(peer.read_response(3).status.code, Code::kInvalidArgument);
    peer.send_frame(5, kRequest, "\xff\xff\xff\xff");
    EXPECT_EQ(peer.read_response(5).status.code, Code::kInvalidArgument);
    peer.send_frame(7, 77, "an unknown type is ignored");
    peer.send_frame(7, kRequest, std::string((4 << 20) + 1, 'x'));
    EXPECT_EQ(peer.read_response(7).status.code, Code::kResourceExhausted);
    peer.request(9, "Echo", "in step");
    EXPECT_EQ(peer.read_response(9).payload, "in step");
}

TEST(RpcServer, BoundsCallsInFlight) {
    TestServer server({.max_calls = 3});
    RawPeer peer(server.connect());
    for (uint32_t stream = 1; stream <= 7; stream += 2) peer.request(stream, "Wait");
    EXPECT_EQ(peer.read_response(7).status.code, Code::kResourceExhausted);
    (*server.waiting.lock())[0].respond("done");
    EXPECT_EQ(peer.read_response(1).payload, "done");
    peer.request(9, "Echo", "room again");
    EXPECT_EQ(peer.read_response(9).payload, "room again");
}

TEST(RpcServer, CutsOffAClientThatDoesNotRead) {
    std::promise<void> gone;
    Server::Options options;
    options.max_queued = 4 << 20;
    bool first = true;
    options.on_disconnect = [&](size_t) {
        if (std::exchange(first, false)) gone.set_value();
    };
    TestServer server(std::move(options));
    RawPeer peer(server.connect());
    for (uint32_t stream = 1; stream < 20; stream += 2) peer.request(stream, "Large");
    gone.get_future().get();
    EXPECT_EQ(server.client()->call("test", "Echo", "others live").payload, "others live");
    peer.close();
}

TEST(RpcServer, ListensAndAdmits) {
    std::string path = "/tmp/casemate_rpc_test_" + std::to_string(::getpid());
    std::atomic<int> admitted{0};
    Server::Options options;
    options.max_connections = 2;
    options.admit = [&](int) { return ++admitted != 3; };
    TestServer server(std::move(options));
    server.server().add_listener(MUST(listen_on("unix://" + path)));
    struct stat info;
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
    auto first = MUST(Client::create(MUST(connect_to(path))));
    auto second = MUST(Client::create(MUST(connect_to(path))));
    EXPECT_EQ(first->call("test", "Echo", "1").payload, "1");
    EXPECT_EQ(second->call("test", "Echo", "2").payload, "2");
    auto third = MUST(Client::create(MUST(connect_to(path))));  // waits in the backlog
    EXPECT_EQ(third->call("test", "Echo", "3", {.timeout = 50ms}).status.code, Code::kDeadlineExceeded);
    first.reset();  // room now, but it is not admitted
    EXPECT_EQ(third->call("test", "Echo", "3", {.timeout = 10s}).status.code, Code::kUnavailable);
    ::unlink(path.c_str());
}

TEST(RpcClient, IgnoresAnswersToNobody) {
    auto [ours, theirs] = socket_pair();
    auto client = MUST(Client::create(std::move(ours)));
    RawPeer peer(std::move(theirs));
    std::promise<CallResult> done;
    client->call_async("s", "m", "", {}, [&](CallResult r) { done.set_value(std::move(r)); });
    ASSERT_EQ(peer.read_frame()->header.stream, 1u);
    std::string response = encode_response(Status(), "right");
    peer.send_frame(2, kResponse, response);
    peer.send_frame(99, kResponse, response);
    peer.send_frame(1, kRequest, response);
    peer.send_frame(1, kData, response);
    peer.send_frame(1, kResponse, response);
    peer.send_frame(1, kResponse, response);
    EXPECT_EQ(done.get_future().get().payload, "right");
}

TEST(RpcClient, OversizeAndBrokenAnswersFailTheirCallOnly) {
    auto [ours, theirs] = socket_pair();
    auto client = MUST(Client::create(std::move(ours), {.max_payload = 1000}));
    RawPeer peer(std::move(theirs));
    std::promise<CallResult> calls[3];
    for (auto& promise : calls)
        client->call_async("s", "m", "", {}, [&promise](CallResult r) { promise.set_value(std::move(r)); });
    peer.send_frame(1, kResponse, std::string(2000, 'x'));
    peer.send_frame(3, kResponse, "\xff\xff");
    peer.send_frame(5, kResponse, encode_response(Status(), "ok"));
    EXPECT_EQ(calls[0].get_future().get().status.code, Code::kResourceExhausted);
    EXPECT_EQ(calls[1].get_future().get().status.code, Code::kDataLoss);
    EXPECT_EQ(calls[2].get_future().get().payload, "ok");
}

TEST(RpcClient, APeerThatDoesNotReadStallsNobody) {
    auto [ours, theirs] = socket_pair();
    auto client = MUST(Client::create(std::move(ours), {.max_queued = 2 << 20}));
    CallResult result;
    for (int i = 0; i < 10 && result.status.code != Code::kResourceExhausted; i++)
        result = client->call("s", "m", std::string(1 << 20, 'x'), {.timeout = 5ms});
    EXPECT_EQ(result.status.code, Code::kResourceExhausted);
    // What was queued leaves as soon as the peer reads, whole.
    RawPeer peer(std::move(theirs));
    EXPECT_EQ(decode_request(peer.read_frame()->payload)->payload.size(), size_t(1 << 20));
    EXPECT_EQ(decode_request(peer.read_frame()->payload)->payload.size(), size_t(1 << 20));
}

TEST(RpcSocket, Addresses) {
    std::string name = "@casemate_rpc_test_" + std::to_string(::getpid());
    UniqueFd listener = MUST(listen_on("unix:" + name));
    EXPECT_TRUE(connect_to("unix:" + name).ok());
    EXPECT_TRUE(connect_to("unix://" + name).ok());
    EXPECT_EQ(connect_to("unix:///nonexistent/x").error().code(), ENOENT);
    EXPECT_EQ(connect_to("http://x").error().code(), EINVAL);
    EXPECT_EQ(connect_to("vsock://x:y").error().code(), EINVAL);
    EXPECT_EQ(connect_to("vsock://3").error().code(), EINVAL);
    EXPECT_EQ(connect_to("fd://-1").error().code(), EINVAL);
    EXPECT_EQ(connect_to("fd://999").error().code(), EBADF);
    EXPECT_EQ(connect_to("").error().code(), EINVAL);
    auto [first, second] = socket_pair();
    UniqueFd adopted = MUST(connect_to("fd://" + std::to_string(first.get())));
    EXPECT_EQ(adopted.get(), first.release());

    std::string directory = "/tmp/casemate_rpc_test_dir_" + std::to_string(::getpid()) + std::string(120, 'd');
    ASSERT_EQ(::mkdir(directory.c_str(), 0700), 0);
    std::string path = directory + "/socket";
    UniqueFd far = MUST(listen_on(path));
    EXPECT_TRUE(connect_to(path).ok());
    ::unlink(path.c_str());
    ::rmdir(directory.c_str());
}

TEST(RpcSocket, VsockLoopback) {
    constexpr uint32_t kLocalCid = 1;  // VMADDR_CID_LOCAL
    uint32_t port = 20'000 + static_cast<uint32_t>(::getpid()) % 10'000;
    auto listener = listen_on("vsock://any:" + std::to_string(port));
    if (!listener.ok()) GTEST_SKIP() << "no vsock here: " << listener.error().message();
    auto socket = connect_vsock(kLocalCid, port);
    if (!socket.ok()) GTEST_SKIP() << "no vsock loopback here: " << socket.error().message();
    TestServer server;
    server.server().add_listener(listener.take_value());
    auto client = MUST(Client::create(socket.take_value()));
    EXPECT_EQ(client->call("test", "Echo", "over vsock", {.timeout = 10s}).payload, "over vsock");
}

}  // namespace
}  // namespace casemate::rpc
