// What the sandbox host does with bytes of a guest that was taken over: ttrpc responses, error details, replies.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "guest_api/errors.h"
#include "guest_api/guest.pb.h"
#include "rpc/typed.h"

namespace {

template <typename Reply>
void parse(std::string_view bytes) {
    Reply reply;
    if (casemate::rpc::parse_message(reply, bytes)) (void)reply.ByteSizeLong();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    namespace v1 = casemate::guest::v1;
    std::string_view bytes(reinterpret_cast<const char*>(data), size);
    casemate::rpc::CallResult result = casemate::rpc::decode_response(bytes);
    if (!result.status.ok()) {
        auto error = casemate::guest_api::GuestError::from_status(result.status);
        if (error.code() <= 0 || error.code() > 4095 || error.message().empty() || error.message().size() > 4096)
            std::abort();
        for (unsigned char c : error.message())
            if (c < 0x20) std::abort();
    }
    parse<v1::ListProcessesReply>(result.payload);
    parse<v1::ListContainersReply>(result.payload);
    parse<v1::GetListenersReply>(result.payload);
    parse<v1::GetEventsReply>(result.payload);
    parse<v1::GetNetworkReply>(result.payload);
    parse<v1::GetStatsReply>(result.payload);
    parse<v1::GetDiagnosticsReply>(result.payload);
    return 0;
}
