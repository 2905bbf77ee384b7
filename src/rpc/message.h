// The request and response messages inside ttrpc frames (rpc.proto), kept away from the rest so that nobody else sees
// the generated code. Decoding takes hostile bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rpc/status.h"

namespace casemate::rpc {

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct RequestMessage {
    std::string service;
    std::string method;
    std::string payload;
    std::chrono::nanoseconds timeout{0};  // 0: none
    Metadata metadata;
};

struct CallResult {
    Status status;
    std::string payload;  // empty unless the status is ok
};

std::string encode_request(const RequestMessage& request);
std::optional<RequestMessage> decode_request(std::string_view bytes);
std::string encode_response(const Status& status, std::string_view payload);
// A response that cannot be decoded is a status of its own.
CallResult decode_response(std::string_view bytes);

// Whether `message`, as protobuf, has at most `limit` fields at its top level (and is well formed there). An empty
// submessage costs two bytes on the wire and a hundred in memory: ask before parsing bytes of a peer that is not
// trusted.
bool fields_within(std::string_view message, size_t limit);

}  // namespace casemate::rpc
