// Typed messages over Client and Server: protobuf in, protobuf out.
//
//   handle_typed<StartRequest>(server, kService, "Start", [](StartRequest request, Answer<StartReply> answer) {...});
#pragma once

#include <google/protobuf/message_lite.h>

#include <string>
#include <utility>

#include "rpc/client.h"
#include "rpc/server.h"

namespace casemate::rpc {

// More fields than this at the top level of a message are refused before parsing (message.h, fields_within).
constexpr size_t kMaxMessageFields = 65536;

// The answer to a typed call; see Responder for its rules.
template <typename Reply>
class Answer {
  public:
    explicit Answer(Responder responder) : responder_(std::move(responder)) {}

    bool ok(const Reply& reply = Reply()) { return responder_.respond(reply.SerializeAsString()); }
    bool fail(const Status& status) { return responder_.fail(status); }
    bool wanted() const { return responder_.wanted(); }

  private:
    Responder responder_;
};

// Parses hostile bytes. False: not a message of this type, or one that would take far more memory than bytes.
inline bool parse_message(google::protobuf::MessageLite& message, std::string_view bytes) {
    return fields_within(bytes, kMaxMessageFields) &&
           message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// `function(Request, Answer<Reply>)`, or with the call's metadata: `function(Request, Answer<Reply>, Metadata)`.
template <typename Request, typename Reply, typename Function>
void handle_typed(Server& server, std::string_view service, std::string_view method, Function function) {
    server.handle(service, method, [function = std::move(function), name = std::string(method)](Call call) {
        Request request;
        if (!parse_message(request, call.payload)) {
            call.responder.fail(Status(Code::kInvalidArgument, name + ": the payload is not a request of this method"));
            return;
        }
        call.payload = std::string();
        Answer<Reply> answer(std::move(call.responder));
        if constexpr (std::is_invocable_v<Function, Request, Answer<Reply>, Metadata>)
            function(std::move(request), std::move(answer), std::move(call.metadata));
        else
            function(std::move(request), std::move(answer));
    });
}

}  // namespace casemate::rpc
