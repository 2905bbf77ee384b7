#include "rpc/message.h"

#include <algorithm>

#include "rpc/rpc.pb.h"

namespace casemate::rpc {

namespace {

constexpr size_t kMaxFields = 1024;

bool eat_varint(std::string_view& bytes, uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (bytes.empty()) return false;
        auto byte = static_cast<unsigned char>(bytes.front());
        bytes.remove_prefix(1);
        value |= static_cast<uint64_t>(byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

}  // namespace

bool fields_within(std::string_view message, size_t limit) {
    for (size_t fields = 0; !message.empty(); fields++) {
        uint64_t tag;
        if (fields == limit || !eat_varint(message, tag)) return false;
        uint64_t skip = 0;
        switch (tag & 7) {
            case 0:
                if (!eat_varint(message, skip)) return false;
                skip = 0;
                break;
            case 1:
                skip = 8;
                break;
            case 2:
                if (!eat_varint(message, skip)) return false;
                break;
            case 5:
                skip = 4;
                break;
            default:
                return false;  // groups are not used by proto3
        }
        if (skip > message.size()) return false;
        message.remove_prefix(skip);
    }
    return true;
}

std::string encode_request(const RequestMessage& request) {
    wire::Request out;
    out.set_service(request.service);
    out.set_method(request.method);
    out.set_payload(request.payload);
    out.set_timeout_nano(request.timeout.count());
    for (const auto& [key, value] : request.metadata) {
        wire::KeyValue* pair = out.add_metadata();
        pair->set_key(key);
        pair->set_value(value);
    }
    return out.SerializeAsString();
}

std::optional<RequestMessage> decode_request(std::string_view bytes) {
    wire::Request in;
    if (!fields_within(bytes, kMaxFields)) return std::nullopt;
    if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
    RequestMessage request;
    request.service = std::move(*in.mutable_service());
    request.method = std::move(*in.mutable_method());
    request.payload = std::move(*in.mutable_payload());
    request.timeout = std::chrono::nanoseconds(std::max<int64_t>(in.timeout_nano(), 0));
    request.metadata.reserve(in.metadata_size());
    for (auto& pair : *in.mutable_metadata())
        request.metadata.emplace_back(std::move(*pair.mutable_key()), std::move(*pair.mutable_value()));
    return request;
}

std::string encode_response(const Status& status, std::string_view payload) {
    wire::Response out;
    if (!status.ok()) {
        out.mutable_status()->set_code(static_cast<int>(status.code));
        out.mutable_status()->set_message(status.message);
        for (const Detail& detail : status.details) {
            wire::Any* any = out.mutable_status()->add_details();
            any->set_type_url(detail.type_url);
            any->set_value(detail.value);
        }
    } else {
        out.set_payload(payload.data(), payload.size());
    }
    return out.SerializeAsString();
}

CallResult decode_response(std::string_view bytes) {
    CallResult result;
    wire::Response in;
    if (!fields_within(bytes, kMaxFields) || !in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
        result.status = Status(Code::kDataLoss, "the response is not a ttrpc response message");
        return result;
    }
    if (in.has_status() && in.status().code() != 0) {
        if (static_cast<size_t>(in.status().details_size()) > kMaxFields) in.mutable_status()->clear_details();
        int code = in.status().code();
        bool known = code > 0 && code <= static_cast<int>(Code::kUnauthenticated);
        result.status = Status(known ? static_cast<Code>(code) : Code::kUnknown,
                               std::move(*in.mutable_status()->mutable_message()));
        for (auto& any : *in.mutable_status()->mutable_details())
            result.status.details.push_back({std::move(*any.mutable_type_url()), std::move(*any.mutable_value())});
        return result;
    }
    result.payload = std::move(*in.mutable_payload());
    return result;
}

}  // namespace casemate::rpc
