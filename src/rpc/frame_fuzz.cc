// Hostile bytes through what a server and a client do with them, short of the socket: framing, then the messages.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "rpc/frame.h"
#include "rpc/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace casemate::rpc;
    if (size < 2) return 0;
    FrameParser parser(64 << 10);
    size_t step = data[0] + 1;
    std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
    while (!rest.empty()) {
        std::string_view input = rest.substr(0, step);
        rest.remove_prefix(input.size());
        while (auto frame = parser.consume(input)) {
            if (frame->oversize) continue;
            if (frame->payload.size() != frame->header.length) std::abort();
            if (auto request = decode_request(frame->payload)) {
                auto again = decode_request(encode_request(*request));
                if (!again || again->payload != request->payload || again->metadata != request->metadata) std::abort();
            }
            CallResult result = decode_response(frame->payload);
            if (!result.status.ok() && !result.payload.empty()) std::abort();
        }
        if (!input.empty()) std::abort();
    }
    return 0;
}
