#include "guest_api/errors.h"

#include "guest_api/guest.pb.h"

namespace casemate::guest_api {

namespace {
constexpr const char* kDetailType = "type.googleapis.com/casemate.guest.v1.ErrorDetail";
constexpr size_t kMaxText = 4096;
constexpr int kMaxErrno = 4095;
}  // namespace

Status failure(Code code, int errno_value, std::string message, std::string field) {
    Status status(code, std::move(message));
    guest::v1::ErrorDetail detail;
    detail.set_errno_value(errno_value);
    detail.set_field(std::move(field));
    status.details.push_back({kDetailType, detail.SerializeAsString()});
    return status;
}

Status failure(const Error& error, std::string field) {
    int code = errno_of(error);
    return failure(rpc::code_of_errno(code), code, error.message(), std::move(field));
}

Status not_found(std::string message) { return failure(Code::kNotFound, ENOENT, std::move(message)); }
Status already_exists(std::string message) { return failure(Code::kAlreadyExists, EEXIST, std::move(message)); }
Status wrong_state(std::string message) { return failure(Code::kFailedPrecondition, EBUSY, std::move(message)); }
Status invalid(std::string message, std::string field) {
    return failure(Code::kInvalidArgument, EINVAL, std::move(message), std::move(field));
}
Status not_supported(std::string message, std::string field) {
    return failure(Code::kUnimplemented, EOPNOTSUPP, std::move(message), std::move(field));
}

GuestError GuestError::from_status(const Status& status) {
    std::string field;
    int errno_value = rpc::errno_of_code(status.code);
    for (const rpc::Detail& entry : status.details) {
        guest::v1::ErrorDetail detail;
        if (entry.type_url != kDetailType || !detail.ParseFromString(entry.value)) continue;
        if (detail.errno_value() > 0 && detail.errno_value() <= kMaxErrno) errno_value = detail.errno_value();
        field = printable(detail.field(), kMaxText);
        break;
    }
    std::string message = printable(status.message, kMaxText);
    if (message.empty()) message = rpc::code_name(status.code);
    return GuestError(status.code, std::move(message), errno_value, std::move(field));
}

std::string printable(std::string_view text, size_t limit, bool keep_newlines) {
    std::string out(text.substr(0, limit));
    for (char& c : out) {
        auto byte = static_cast<unsigned char>(c);
        bool kept = keep_newlines && (c == '\n' || c == '\t');
        if ((byte < 0x20 || byte == 0x7f) && !kept) c = '?';
    }
    return out;
}

}  // namespace casemate::guest_api
