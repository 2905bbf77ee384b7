// Errors that cross the guest API with their kind, their errno and the field of the request that was wrong.
//
//   guest side    answer.fail(failure(Code::kNotFound, ENOENT, "container x does not exist"));
//   host side     GuestResult<Reply>: TRY works in functions that return Result<T>; error().kind() where it matters
#pragma once

#include <string>

#include "base/result.h"
#include "rpc/status.h"

namespace casemate::guest_api {

using rpc::Code;
using rpc::Status;

// `field`: path in the request or config.json ("mounts[3].options"); empty for none.
Status failure(Code code, int errno_value, std::string message, std::string field = "");
// The kind that fits the errno.
Status failure(const Error& error, std::string field = "");

Status not_found(std::string message);
Status already_exists(std::string message);
Status wrong_state(std::string message);
Status invalid(std::string message, std::string field = "");
Status not_supported(std::string message, std::string field);

// The error of a call to a guest: an Error whose code() is the guest's errno, plus the kind.
class [[nodiscard]] GuestError : public Error {
  public:
    GuestError(Code kind, std::string message, int errno_value, std::string field,
               SourceLocation where = SourceLocation::current())
        : Error(std::move(message), errno_value, where), kind_(kind), field_(std::move(field)) {}
    Code kind() const { return kind_; }
    const std::string& field() const { return field_; }

    // From what came over the wire: the text is cut at 4 KiB and unprintable bytes are replaced.
    static GuestError from_status(const Status& status);

  private:
    Code kind_;
    std::string field_;
};

template <typename T>
using GuestResult = casemate::detail::BasicResult<T, GuestError>;

// Text of a guest made fit for a person's terminal or a log: control bytes become '?', at most `limit` bytes stay.
std::string printable(std::string_view text, size_t limit, bool keep_newlines = false);

}  // namespace casemate::guest_api
