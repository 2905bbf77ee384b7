// Our side of the interoperability test with Go's ttrpc (go/peer.go has the same methods and checks).
//
//   ttrpc_peer server SOCKET     serves until killed
//   ttrpc_peer client SOCKET     calls everything and checks the answers
//   ttrpc_peer frames SOCKET     sends frames that break the rules and prints how the server answers each
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/guarded.h"
#include "rpc/client.h"
#include "rpc/frame.h"
#include "rpc/server.h"
#include "rpc/socket.h"

namespace casemate {
namespace {

using namespace std::chrono_literals;
using namespace rpc;

constexpr const char* kService = "casemate.test.Peer";

// google.protobuf.BytesValue by hand: field 1, length-delimited.
std::string bytes_value(std::string_view text) {
    if (text.empty()) return {};
    std::string out = "\x0a";
    for (size_t rest = text.size();; rest >>= 7) {
        out.push_back(static_cast<char>((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0)));
        if (rest <= 0x7f) break;
    }
    return out.append(text);
}

std::string from_bytes_value(std::string_view message) {
    if (message.empty() || message[0] != 0x0a) return {};
    size_t at = 1;
    while (at < message.size() && (message[at] & 0x80) != 0) at++;
    return std::string(message.substr(std::min(at + 1, message.size())));
}

Result<void> serve(const char* path) {
    auto server = TRY(Server::create());
    Guarded<std::vector<Responder>> waiting;
    server->handle(kService, "Echo", [](Call call) { call.responder.respond(call.payload); });
    server->handle(kService, "NotFound", [](Call call) {
        Status status(Code::kNotFound, "no " + from_bytes_value(call.payload));
        status.details.push_back({"type.googleapis.com/google.protobuf.StringValue", bytes_value("detail")});
        call.responder.fail(status);
    });
    server->handle(kService, "Wait", [&](Call call) { waiting.lock()->push_back(std::move(call.responder)); });
    server->handle(kService, "Metadata", [](Call call) {
        std::sort(call.metadata.begin(), call.metadata.end());
        std::string all;
        for (auto& [key, value] : call.metadata) all += (all.empty() ? "" : ";") + key + "=" + value;
        call.responder.respond(bytes_value(all));
    });
    server->handle(kService, "Huge", [](Call call) { call.responder.respond(std::string(5 << 20, 'h')); });
    server->add_listener(TRY(listen_unix(path)));
    return server->run();
}

Result<void> check(bool holds, const std::string& what, const CallResult& got) {
    if (holds) return {};
    return Error(what + ": " + std::string(code_name(got.status.code)) + ", " + got.status.message + ", " +
                 std::to_string(got.payload.size()) + " bytes");
}

Result<void> call_everything(const char* path) {
    auto client = TRY(Client::create(TRY(connect_unix(path))));
    auto call = [&](const char* method, std::string_view in, CallOptions options = {}) {
        return client->call(kService, method, bytes_value(in), std::move(options));
    };
    for (size_t size : {size_t(0), size_t(1), size_t(4096), size_t(100'000), size_t((4 << 20) - 200)}) {
        std::string in(size, 'x');
        CallResult got = call("Echo", in);
        TRY(check(got.status.ok() && from_bytes_value(got.payload) == in, "Echo of " + std::to_string(size), got));
    }
    CallResult got = call("NotFound", "container x");
    TRY(check(got.status.code == Code::kNotFound && got.status.message == "no container x" &&
                  got.status.details.size() == 1 && from_bytes_value(got.status.details[0].value) == "detail",
              "NotFound", got));
    got = call("NoSuchMethod", "");
    TRY(check(got.status.code == Code::kUnimplemented, "NoSuchMethod", got));
    got = client->call("no.such.Service", "Echo", "");
    TRY(check(got.status.code == Code::kUnimplemented, "no.such.Service", got));
    got = call("Echo", std::string(5 << 20, 'x'));
    TRY(check(got.status.code == Code::kResourceExhausted, "Echo of too much", got));
    got = call("Metadata", "", {.metadata = {{"b", "3"}, {"a", "1"}, {"a", "2"}}});
    TRY(check(from_bytes_value(got.payload) == "a=1;a=2;b=3", "Metadata", got));
    got = call("Wait", "", {.timeout = 50ms});
    TRY(check(got.status.code == Code::kDeadlineExceeded, "Wait with a time-out", got));

    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 16; i++)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 50; n++) {
                std::string in = std::to_string(i) + "/" + std::to_string(n);
                if (from_bytes_value(call("Echo", in).payload) != in) wrong++;
            }
        });
    for (auto& thread : threads) thread.join();
    return check(wrong == 0, "concurrent Echo", got);
}

// Each case: a frame that breaks a rule, then what comes back for it.
Result<void> break_rules(const char* path) {
    UniqueFd fd = TRY(connect_unix(path));
    FrameParser parser;
    auto exchange = [&](const char* name, uint32_t stream, uint8_t type, const std::string& payload) -> Result<void> {
        FrameHeader header{static_cast<uint32_t>(payload.size()), stream, type, 0};
        auto head = header.encode();
        std::string bytes = std::string(head.data(), head.size()) + payload;
        for (size_t at = 0; at < bytes.size();) {
            ssize_t count = ::send(fd.get(), bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
            if (count <= 0) return sys_error(name);
            at += count;
        }
        for (;;) {
            char chunk[4096];
            ssize_t count = ::recv(fd.get(), chunk, sizeof(chunk), 0);
            if (count <= 0) return Error(std::string(name) + ": the server hung up");
            std::string_view input(chunk, count);
            auto frame = parser.consume(input);
            if (!frame) continue;
            CallResult result = decode_response(frame->payload);
            std::printf("%s: type %d stream %u: %d\n", name, frame->header.type, frame->header.stream,
                        static_cast<int>(result.status.code));
            return {};
        }
    };
    auto request = [](const char* service, const char* method) {
        return encode_request({service, method, bytes_value("x"), {}, {}});
    };
    TRY(exchange("a good call", 1, kRequest, request(kService, "Echo")));
    TRY(exchange("the stream id again", 1, kRequest, request(kService, "Echo")));
    TRY(exchange("an even stream id", 4, kRequest, request(kService, "Echo")));
    TRY(exchange("stream id 0", 0, kRequest, request(kService, "Echo")));
    TRY(exchange("a skipped stream id", 11, kRequest, request(kService, "Echo")));
    TRY(exchange("a lower stream id", 9, kRequest, request(kService, "Echo")));
    TRY(exchange("not a message", 13, kRequest, "\xff\xff\xff"));
    TRY(exchange("a frame over the limit", 15, kRequest, std::string((4 << 20) + 1, 'x')));
    TRY(exchange("the same stream id after it", 15, kRequest, request(kService, "Echo")));
    TRY(exchange("an unknown service", 17, kRequest, request("no.such", "Echo")));
    TRY(exchange("an unknown method", 19, kRequest, request(kService, "NoSuch")));
    TRY(exchange("an empty request", 21, kRequest, ""));
    TRY(exchange("the last good call", 4294967295, kRequest, request(kService, "Echo")));
    return {};
}

}  // namespace
}  // namespace casemate

int main(int argc, char** argv) {
    std::string_view mode = argc == 3 ? argv[1] : "";
    auto run = mode == "server"   ? casemate::serve
               : mode == "client" ? casemate::call_everything
               : mode == "frames" ? casemate::break_rules
                                  : nullptr;
    if (run == nullptr) {
        std::fputs("usage: ttrpc_peer server|client|frames SOCKET\n", stderr);
        return 2;
    }
    auto result = run(argv[2]);
    if (result.ok()) return 0;
    std::fprintf(stderr, "casemate %s: %s\n", argv[1], result.error().message().c_str());
    return 1;
}
