// How a remote call failed: google.rpc's codes, as ttrpc and gRPC use them. The kind of an error survives the wire:
// what was "not found" in the guest is "not found" for containerd.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace casemate::rpc {

enum class Code : int {
    kOk = 0,
    kCancelled = 1,
    kUnknown = 2,
    kInvalidArgument = 3,
    kDeadlineExceeded = 4,
    kNotFound = 5,
    kAlreadyExists = 6,
    kPermissionDenied = 7,
    kResourceExhausted = 8,
    kFailedPrecondition = 9,
    kAborted = 10,
    kOutOfRange = 11,
    kUnimplemented = 12,
    kInternal = 13,
    kUnavailable = 14,
    kDataLoss = 15,
    kUnauthenticated = 16,
};

// google.protobuf.Any.
struct Detail {
    std::string type_url;
    std::string value;
};

struct [[nodiscard]] Status {
    Code code = Code::kOk;
    std::string message;
    std::vector<Detail> details;

    Status() = default;
    Status(Code c, std::string text) : code(c), message(std::move(text)) {}
    bool ok() const { return code == Code::kOk; }

    // The code that fits the errno, with the error's sentence.
    static Status from_error(const Error& error);
};

// "not found", "deadline exceeded": as a person reads it.
std::string_view code_name(Code code);
// The nearest code for an errno; kUnknown where none is near. And back, for callers that speak errno.
Code code_of_errno(int errno_value);
int errno_of_code(Code code);
// The Error for a failed call: its message, and the errno of its code.
Error error_of(const Status& status);

}  // namespace casemate::rpc
